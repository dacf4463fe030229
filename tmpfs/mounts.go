package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// DefaultSize is the size of a volume in bytes where the operator sets none. It must hold two generations of the files.
const DefaultSize = 64 << 20

// mostStacked bounds how many mounts on top of each other Unmount takes away.
const mostStacked = 64

// Options configure New.
type Options struct {
	// Mounter does the mounting; SystemMounter in production.
	Mounter mount.Interface
	Log     *slog.Logger
	// Size is the size of each volume in bytes; DefaultSize where 0.
	Size int64
	// Clock is the real one where nil.
	Clock clock.PassiveClock
}

// Mounts mounts, fills and unmounts volumes. Calls for one target must not overlap.
type Mounts struct {
	mounter mount.Interface
	log     *slog.Logger
	size    int64
	clock   clock.PassiveClock
	// probed is what Probe found; nil before it ran.
	probed atomic.Pointer[probe]
}

type probe struct {
	noswap bool
	err    error
}

// New returns Mounts that must be probed before they are ready.
func New(o Options) (*Mounts, error) {
	if o.Size == 0 {
		o.Size = DefaultSize
	}
	if o.Size < 0 || o.Mounter == nil {
		return nil, errors.New("tmpfs options: a mounter and a positive size are needed")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Mounts{mounter: o.Mounter, log: o.Log, size: o.Size, clock: o.Clock}, nil
}

// Probe finds out by a real mount below dir what this kernel and these privileges allow: whether anything can be mounted,
// and whether pages can be kept from swap (noswap: Linux 6.4, not in user namespaces). It logs what it found.
func (m *Mounts) Probe(dir string) error {
	found := m.tryMount(dir)
	m.probed.Store(&found)
	if found.err != nil {
		return found.err
	}
	m.log.Info("tmpfs can be mounted", "noswap", found.noswap, "size", m.size)
	if !found.noswap {
		m.log.Warn("this kernel or user namespace refuses tmpfs with noswap: turn swap off on the node, or secrets may reach its disk")
	}
	return nil
}

func (m *Mounts) tryMount(dir string) (found probe) {
	target, err := os.MkdirTemp(dir, ".mount-probe-")
	if err != nil {
		return probe{err: failure(err, "make a directory to try a mount in %s", dir)}
	}
	defer func() {
		if err := m.Unmount(target); err != nil && found.err == nil {
			found.err = err
		}
	}()
	found.noswap = m.mounter.Mount("tmpfs", target, "tmpfs", m.options(true, false)) == nil
	if found.noswap {
		return found
	}
	if err := m.mounter.Mount("tmpfs", target, "tmpfs", m.options(false, false)); err != nil {
		found.err = failure(err, "cannot mount a tmpfs: the container must be privileged (CAP_SYS_ADMIN)")
	}
	return found
}

// Ready returns nil when volumes can be mounted, else why not.
func (m *Mounts) Ready() error {
	found := m.probed.Load()
	if found == nil {
		return errors.New("no mount was tried yet")
	}
	return found.err
}

// NoSwap reports whether Probe found that noswap works.
func (m *Mounts) NoSwap() bool {
	found := m.probed.Load()
	return found != nil && found.noswap
}

func (m *Mounts) options(noswap, exec bool) []string {
	options := []string{"nosuid", "nodev", "size=" + strconv.FormatInt(m.size, 10), "mode=0755"}
	if !exec {
		options = append(options, "noexec")
	}
	if noswap {
		options = append(options, "noswap")
	}
	return options
}

// Mount makes the target a tmpfs, noexec unless exec is true. A target that is mounted already stays, and is remounted
// where it is noexec and must not be. A failed call leaves no mount and no directory that it made.
func (m *Mounts) Mount(target string, exec bool) error {
	state, err := m.State(target)
	if err != nil {
		return err
	}
	switch state {
	case Mounted:
		if _, err := m.Adopt(target); err != nil {
			return err
		}
		return m.allowExec(target, exec)
	case Complete:
		return m.allowExec(target, exec)
	case Corrupted:
		if err := m.Unmount(target); err != nil {
			return err
		}
	case Absent, Directory:
	}
	made := false
	if err := os.Mkdir(target, 0o750); err == nil {
		made = true
	} else if !errors.Is(err, fs.ErrExist) {
		return failure(err, "make the target directory %s", target)
	}
	if err := m.mounter.Mount("tmpfs", target, "tmpfs", m.options(m.NoSwap(), exec)); err != nil {
		if made {
			err = errors.Join(err, os.Remove(target))
		}
		return failure(err, "mount the volume")
	}
	return nil
}

func (m *Mounts) allowExec(target string, exec bool) error {
	if !exec {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return failure(err, "read the mount options of %s", target)
	}
	if st.Flags&unix.ST_NOEXEC == 0 {
		return nil
	}
	options := append(m.options(m.NoSwap(), true), "remount")
	if err := m.mounter.Mount("tmpfs", target, "tmpfs", options); err != nil {
		return failure(err, "let files of %s be executed", target)
	}
	return nil
}

// Unmount takes away everything that is mounted at the target, and the directory. It succeeds where nothing is left to do, and
// never deletes files that are not on the mount.
func (m *Mounts) Unmount(target string) error {
	for range mostStacked {
		mounted, err := m.mountedAt(target)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil && !corrupted(err) {
			return failure(err, "look at %s", target)
		}
		if err == nil && !mounted {
			return m.removeDirectory(target)
		}
		if err := m.mounter.Unmount(target); err != nil {
			return failure(err, "unmount the volume")
		}
	}
	return failure(nil, "more than %d mounts lie on each other at %s", mostStacked, target)
}

func (m *Mounts) removeDirectory(target string) error {
	err := os.Remove(target)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		return failure(nil, "%s holds files that this driver did not write: move them away", target)
	}
	return failure(err, "remove the target directory")
}

func (m *Mounts) mountedAt(target string) (bool, error) {
	not, err := m.mounter.IsLikelyNotMountPoint(target)
	if err != nil {
		return false, fmt.Errorf("look for a mount: %w", err)
	}
	return !not, nil
}

// corrupted reports whether an error means that a mount is there whose file system is gone.
func corrupted(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOTCONN, unix.ESTALE, unix.EIO, unix.EHOSTDOWN}, func(e error) bool {
		return errors.Is(err, e)
	})
}

// failure makes an error of the node's file system.
func failure(cause error, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	if cause != nil {
		message += ": " + cause.Error()
	}
	return &volume.Error{Reason: volume.ReasonFilesystem, Message: message, Cause: cause}
}

// Usage is what a volume takes.
type Usage struct{ Bytes, Inodes Amount }

// Amount is of bytes or of inodes.
type Amount struct{ Total, Used, Available int64 }

// Usage returns what the volume at the path takes, or an error that is fs.ErrNotExist where none is mounted.
func (m *Mounts) Usage(target string) (Usage, error) {
	state, err := m.State(target)
	if err != nil {
		return Usage{}, err
	}
	if state != Mounted && state != Complete {
		return Usage{}, fmt.Errorf("%s: %w", filepath.Base(target), fs.ErrNotExist)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return Usage{}, failure(err, "measure %s", target)
	}
	times := func(blocks uint64, unit int64) int64 {
		return int64(blocks) * unit //nolint:gosec // a tmpfs is smaller than 2^63
	}
	amount := func(total, free, available uint64, unit int64) Amount {
		return Amount{Total: times(total, unit), Used: times(total-free, unit), Available: times(available, unit)}
	}
	return Usage{
		Bytes:  amount(st.Blocks, st.Bfree, st.Bavail, st.Bsize),
		Inodes: amount(st.Files, st.Ffree, st.Ffree, 1),
	}, nil
}
