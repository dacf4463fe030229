package tmpfs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// SystemMounter returns mount-utils' mounter with Mount and Unmount by system call: no mount binary in the image, no fork
// while a pod waits.
func SystemMounter() mount.Interface {
	return systemMounter{&mount.Mounter{}}
}

type systemMounter struct{ mount.Interface }

// flags are the options that are not the file system's own (mount(2)).
var flags = map[string]uintptr{
	"nosuid":  unix.MS_NOSUID,
	"nodev":   unix.MS_NODEV,
	"noexec":  unix.MS_NOEXEC,
	"remount": unix.MS_REMOUNT,
}

// Mount implements mount.Interface.
func (systemMounter) Mount(source, target, fstype string, options []string) error {
	var set uintptr
	var data []string
	for _, o := range options {
		if flag, ok := flags[o]; ok {
			set |= flag
			continue
		}
		data = append(data, o)
	}
	if err := unix.Mount(source, target, fstype, set, strings.Join(data, ",")); err != nil {
		return fmt.Errorf("mount %s at %s with options %s: %w", fstype, target, strings.Join(options, ","), err)
	}
	return nil
}

// Unmount implements mount.Interface.
func (systemMounter) Unmount(target string) error {
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}
