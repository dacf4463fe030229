//go:build unix

package emulator

import (
	"errors"
	"os"
	"syscall"
)

// lockFile locks a file until it is closed, or until the process ends. It returns false where another one has it locked.
func lockFile(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
