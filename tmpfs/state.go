package tmpfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// State is what is at a target path.
type State string

const (
	// Absent means that nothing is there.
	Absent State = "absent"
	// Directory means that nothing is mounted there.
	Directory State = "a plain directory"
	// Mounted means that a tmpfs is there without a finished generation of files.
	Mounted State = "mounted but not filled"
	// Complete means that a tmpfs is there that holds a finished generation of files.
	Complete State = "complete"
	// Corrupted means that something is mounted there whose file system does not answer.
	Corrupted State = "corrupted"
)

// State looks at the target path.
func (m *Mounts) State(target string) (State, error) {
	mounted, err := m.mountedAt(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Absent, nil
	case err != nil && corrupted(err):
		return Corrupted, nil
	case err != nil:
		return "", failure(err, "look at %s", target)
	case !mounted:
		return Directory, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		if corrupted(err) {
			return Corrupted, nil
		}
		return "", failure(err, "look at %s", target)
	}
	if st.Type != unix.TMPFS_MAGIC {
		return "", failure(nil, "something other than a tmpfs is mounted at %s: unmount it", target)
	}
	// ..data appears by a rename after its generation is whole
	if info, err := os.Stat(filepath.Join(target, dataLink)); err != nil || !info.IsDir() {
		return Mounted, nil //nolint:nilerr // a missing or dangling link means not filled
	}
	return Complete, nil
}
