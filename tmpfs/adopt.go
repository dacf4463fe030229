package tmpfs

import (
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// rootMode is the mode of a volume's root directory.
const rootMode = 0o755

// ownFlags are options that every mount of this driver has, and mounts of the Secrets Store CSI Driver lack.
const ownFlags = unix.ST_NOSUID | unix.ST_NODEV

// Adopt makes a volume that another driver mounted as much like those of this driver as is possible while Pods use it,
// and returns the options that it still lacks: none for a volume of this driver, which is not changed.
//
// The root directory gets its mode, and the file system its size, unless two generations of what it holds need more.
// What belongs to the mount and not to the file system (nosuid, nodev, noexec) stays: Pods and the node have mounts of
// their own, which a remount in this namespace does not reach. noswap can only be set by the first mount.
func (m *Mounts) Adopt(target string) (lacks []string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return nil, failure(err, "look at %s", target)
	}
	if st.Flags&ownFlags == ownFlags {
		return nil, nil
	}
	total, used := int64(st.Blocks)*st.Bsize, int64(st.Blocks-st.Bfree)*st.Bsize //nolint:gosec // a tmpfs is smaller than 2^63
	if total > m.size && used <= m.size/2 {
		options := append(keptOptions(target, &st), "remount", "size="+strconv.FormatInt(m.size, 10))
		if err := m.mounter.Mount("tmpfs", target, "tmpfs", options); err != nil {
			return nil, failure(err, "limit the size of %s", target)
		}
	}
	info, err := os.Stat(target)
	if err != nil {
		return nil, failure(err, "look at %s", target)
	}
	if info.Mode()&^os.ModeDir != rootMode {
		if err := os.Chmod(target, rootMode); err != nil {
			return nil, failure(err, "set the mode of %s", target)
		}
	}
	return m.lacks(target, &st), nil
}

// Lacks returns the options of this driver's mounts that a volume lacks because another driver mounted it: some of nosuid,
// nodev, noexec and noswap.
func (m *Mounts) Lacks(target string) []string {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Flags&ownFlags == ownFlags {
		return nil
	}
	return m.lacks(target, &st)
}

func (m *Mounts) lacks(target string, st *unix.Statfs_t) []string {
	var lacks []string
	for _, option := range []struct {
		name string
		flag int64
	}{{"nosuid", unix.ST_NOSUID}, {"nodev", unix.ST_NODEV}, {"noexec", unix.ST_NOEXEC}} {
		if st.Flags&option.flag == 0 {
			lacks = append(lacks, option.name)
		}
	}
	if m.NoSwap() && !noSwapAt(target) {
		lacks = append(lacks, "noswap")
	}
	return lacks
}

// keptOptions are those that a remount must repeat to leave them as they are.
func keptOptions(target string, st *unix.Statfs_t) []string {
	var kept []string
	for name, flag := range map[string]int64{"nosuid": unix.ST_NOSUID, "nodev": unix.ST_NODEV, "noexec": unix.ST_NOEXEC} {
		if st.Flags&flag != 0 {
			kept = append(kept, name)
		}
	}
	if noSwapAt(target) {
		kept = append(kept, "noswap")
	}
	return kept
}

// noSwapAt reports whether the file system that is mounted last at the target has noswap.
func noSwapAt(target string) bool {
	mounts, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for _, m := range slices.Backward(mounts) {
		if m.MountPoint == target {
			return slices.Contains(m.SuperOptions, "noswap")
		}
	}
	return false
}
