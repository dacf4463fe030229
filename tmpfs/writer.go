package tmpfs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The names that the writer keeps for itself; files of users never start with two dots.
const (
	dataLink     = "..data"
	nextDataLink = "..data_tmp"
	nextNameLink = "..name_tmp"
	reserved     = ".."
)

// Retention is how long a generation stays after it was replaced: a reader that resolved ..data before that finishes.
const Retention = 10 * time.Second

// Write makes the volume hold exactly the files, owned by the group where one is given. It writes a whole new generation
// into a directory of its own and shows it by one rename of ..data, through which all user-visible names lead. A volume
// that holds the files already is not touched. On error it holds what it held before. The replaced generation stays until Sweep
// is called after its Retention, or until its room is needed.
func (m *Mounts) Write(target string, files []volume.File, group *int64) (changed bool, err error) {
	if err := volume.CheckFiles(files); err != nil {
		message := strings.ReplaceAll(err.Error(), "\n", "; ")
		return false, &volume.Error{Reason: volume.ReasonInvalidClass, Message: message, Cause: err}
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return false, failure(err, "open the volume")
	}
	defer func() {
		if closing := root.Close(); err == nil && closing != nil {
			err = failure(closing, "close the volume")
		}
	}()
	w := &writer{root: root, files: files, owner: os.Geteuid(), group: os.Getegid(), names: topNames(files), now: m.clock.Now()}
	if group != nil {
		w.group, w.ofVolume = int(*group), true
	}
	changed, err = w.write()
	if errors.Is(err, unix.ENOSPC) && w.makeRoom() {
		changed, err = w.write()
	}
	if errors.Is(err, unix.ENOSPC) {
		return changed, failure(err, "the files need more room than the volume of %d bytes has: set a larger --volume-size, "+
			"which must hold two generations", m.size)
	}
	if err != nil {
		return changed, failure(err, "write the files")
	}
	if w.unswept != nil {
		m.log.Warn("old files are left on a volume; they are removed later", logkeys.Target, target, logkeys.Error, w.unswept)
	}
	return changed, nil
}

// Sweep removes generations that were replaced at least a Retention ago, and what a killed process left. Again is how long it is
// until the next one is due; zero where none is left.
func (m *Mounts) Sweep(target string) (again time.Duration, err error) {
	root, err := os.OpenRoot(target)
	if err != nil {
		return 0, failure(err, "open the volume")
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := &writer{root: root, now: m.clock.Now()}
	current, err := w.current()
	if err != nil || current == "" {
		return 0, err
	}
	again, err = w.sweepGenerations(current, Retention)
	if err != nil {
		return again, failure(err, "remove old files")
	}
	return again, nil
}

// writer brings one volume to one state.
type writer struct {
	root  *os.Root
	files []volume.File
	// owner and group are those of directories, and of files that name none; ofVolume is true where the volume has a group of its own.
	owner, group int
	ofVolume     bool
	// names are the user-visible names at the top of the volume.
	names map[string]bool
	now   time.Time
	// unswept is why something old could not be removed. The files are as they should be all the same.
	unswept error
}

func topNames(files []volume.File) map[string]bool {
	names := make(map[string]bool, len(files))
	for _, f := range files {
		top, _, _ := strings.Cut(f.Path, "/")
		names[top] = true
	}
	return names
}

func (w *writer) write() (changed bool, err error) {
	current, err := w.current()
	if err != nil {
		return false, err
	}
	if current != "" {
		same, err := w.holds(current)
		if err != nil {
			return false, err
		}
		if same {
			// what a killed process left is cleared, and nothing else touched
			if err := w.linkNames(); err != nil {
				return false, err
			}
			w.sweep(current)
			return false, nil
		}
	}
	next, err := w.generation()
	if err != nil {
		return false, err
	}
	// Links of new names come first: they lead nowhere until the rename shows all of the generation at once, and a full
	// volume is found out before it.
	if err := w.linkNames(); err != nil {
		return false, errors.Join(err, w.root.RemoveAll(next), w.unlinkDangling())
	}
	if err := errors.Join(w.markReplaced(current), w.swap(next)); err != nil {
		return false, errors.Join(err, w.root.RemoveAll(next), w.unlinkDangling())
	}
	w.sweep(next)
	return true, nil
}

// markReplaced notes on a generation when it was replaced, so that its Retention holds across a restart of the driver.
func (w *writer) markReplaced(generation string) error {
	if generation == "" {
		return nil
	}
	if err := w.root.Chtimes(generation, w.now, w.now); err != nil {
		return fmt.Errorf("note the age of %s: %w", generation, err)
	}
	return nil
}

// current returns the name of the generation that ..data shows, or nothing.
func (w *writer) current() (string, error) {
	name, err := w.root.Readlink(dataLink)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case errors.Is(err, unix.EINVAL): // no link: not from this writer
		return "", w.root.RemoveAll(dataLink)
	case err != nil:
		return "", fmt.Errorf("read %s: %w", dataLink, err)
	}
	if info, err := w.root.Lstat(name); err != nil || !info.IsDir() {
		return "", nil //nolint:nilerr // dangling: there is no generation
	}
	return name, nil
}

// generation writes all files into a new directory and returns its name. On error nothing of it is left.
func (w *writer) generation() (name string, err error) {
	name = reserved + time.Now().UTC().Format("2006_01_02_15_04_05.") + rand.Text()[:10]
	defer func() {
		if err != nil {
			err = errors.Join(err, w.root.RemoveAll(name))
		}
	}()
	made := map[string]bool{}
	if err := w.directory(name, ".", made); err != nil {
		return name, err
	}
	for _, f := range w.files {
		if err := w.directory(name, path.Dir(f.Path), made); err != nil {
			return name, err
		}
		if err := w.file(path.Join(name, f.Path), f); err != nil {
			return name, err
		}
	}
	return name, nil
}

// directory makes a directory of the generation, and those above it, for the group and independent of the umask.
func (w *writer) directory(generation, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if dir != "." {
		if err := w.directory(generation, path.Dir(dir), made); err != nil {
			return err
		}
	}
	made[dir] = true
	name := path.Join(generation, dir)
	if err := w.root.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	return errors.Join(w.root.Chown(name, -1, w.group), w.root.Chmod(name, 0o755))
}

func (w *writer) file(name string, f volume.File) (err error) {
	file, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", f.Path, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(f.Data); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	// The mode first: without CAP_FOWNER the driver cannot change that of a file which it gave away. Chown takes away only bits that
	// no mode here has.
	return errors.Join(file.Chmod(f.Mode), file.Chown(w.ownerOf(f), w.groupOf(f)))
}

func (w *writer) ownerOf(f volume.File) int {
	if f.Owner != nil {
		return int(*f.Owner)
	}
	return w.owner
}

// groupOf returns the group of a file: its own where it says so for itself, then the volume's, then that of the class.
func (w *writer) groupOf(f volume.File) int {
	if f.Group != nil && (f.GroupWins || !w.ofVolume) {
		return int(*f.Group)
	}
	return w.group
}

// linkNames makes each user-visible name a link through ..data.
func (w *writer) linkNames() error {
	for name := range w.names {
		want := path.Join(dataLink, name)
		have, err := w.root.Readlink(name)
		switch {
		case err == nil && have == want:
			continue
		case errors.Is(err, unix.EINVAL):
			// a file or directory of another writer: it makes way
			if err := w.root.RemoveAll(name); err != nil {
				return fmt.Errorf("clear %s: %w", name, err)
			}
		case errors.Is(err, fs.ErrNotExist):
			if err := w.root.Symlink(want, name); err != nil { // nothing has to make way
				return fmt.Errorf("link %s: %w", name, err)
			}
			continue
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := w.place(want, nextNameLink, name); err != nil {
			return err
		}
	}
	return nil
}

// unlinkDangling takes back links of new names after a failure.
func (w *writer) unlinkDangling() error {
	var errs []error
	for name := range w.names {
		if _, err := w.root.Stat(name); errors.Is(err, fs.ErrNotExist) {
			if err := w.root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// swap shows the generation.
func (w *writer) swap(generation string) error { return w.place(generation, nextDataLink, dataLink) }

// place makes name a link to the target by one rename.
func (w *writer) place(target, temporary, name string) error {
	err := w.root.Symlink(target, temporary)
	if errors.Is(err, fs.ErrExist) { // a killed process left it
		if err := w.root.RemoveAll(temporary); err != nil {
			return fmt.Errorf("clear %s: %w", temporary, err)
		}
		err = w.root.Symlink(target, temporary)
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := w.root.Rename(temporary, name); err != nil {
		return errors.Join(fmt.Errorf("show %s: %w", name, err), w.root.Remove(temporary))
	}
	return nil
}

// sweep removes names that are gone and replaced generations after their Retention. A failure is no failure of the write.
func (w *writer) sweep(current string) {
	entries, err := fs.ReadDir(w.root.FS(), ".")
	if err != nil {
		w.unswept = fmt.Errorf("list the volume: %w", err)
		return
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if name != dataLink && !w.names[name] && !isGeneration(e) {
			errs = append(errs, w.root.RemoveAll(name))
		}
	}
	_, err = w.removeReplaced(entries, current, Retention)
	w.unswept = errors.Join(append(errs, err)...)
}

// sweepGenerations removes the generations that were replaced at least the age ago. Again is how long it is until the next one is.
func (w *writer) sweepGenerations(current string, age time.Duration) (again time.Duration, err error) {
	entries, err := fs.ReadDir(w.root.FS(), ".")
	if err != nil {
		return 0, fmt.Errorf("list the volume: %w", err)
	}
	return w.removeReplaced(entries, current, age)
}

// removeReplaced is sweepGenerations of a volume that has been listed.
func (w *writer) removeReplaced(entries []fs.DirEntry, current string, age time.Duration) (again time.Duration, err error) {
	var errs []error
	for _, e := range entries {
		if !isGeneration(e) || e.Name() == current {
			continue
		}
		info, err := e.Info()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// a clock that was set back must not keep values for longer
		left := age - w.now.Sub(info.ModTime())
		if left <= 0 || left > age {
			errs = append(errs, w.root.RemoveAll(e.Name()))
			continue
		}
		if again == 0 || left < again {
			again = left
		}
	}
	return again, errors.Join(errs...)
}

// makeRoom removes all replaced generations, and reports whether there were any.
func (w *writer) makeRoom() bool {
	current, err := w.current()
	if err != nil {
		return false
	}
	before, errBefore := fs.ReadDir(w.root.FS(), ".")
	_, err = w.sweepGenerations(current, 0)
	after, errAfter := fs.ReadDir(w.root.FS(), ".")
	return errors.Join(err, errBefore, errAfter) == nil && len(after) < len(before)
}

// isGeneration reports whether an entry of the volume is a generation, finished or not.
func isGeneration(e fs.DirEntry) bool { return e.IsDir() && strings.HasPrefix(e.Name(), reserved) }
