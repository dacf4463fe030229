//go:build chaos && !amd64

package chaos

import "errors"

func attach([]string) error { return errors.New("system calls cannot be changed on this architecture") }

func clockOf([]string) error { return errors.New("the clock cannot be stepped on this architecture") }
