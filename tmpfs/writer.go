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

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The names that the writer keeps for itself; files of users never start with two dots.
const (
	dataLink     = "..data"
	nextDataLink = "..data_tmp"
	nextNameLink = "..name_tmp"
	reserved     = ".."
)

// Write makes the volume hold exactly the files, owned by the group where one is given. It writes a whole new generation
// into a directory of its own and shows it by one rename of ..data, through which all user-visible names lead. A volume
// that holds the files already is not touched. On error it holds what it held before.
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
	w := &writer{root: root, files: files, group: os.Getegid(), names: topNames(files)}
	if group != nil {
		w.group = int(*group)
	}
	changed, err = w.write()
	if errors.Is(err, unix.ENOSPC) {
		return changed, failure(err, "the files need more room than the volume of %d bytes has: set a larger --volume-size, "+
			"which must hold two generations", m.size)
	}
	if err != nil {
		return changed, failure(err, "write the files")
	}
	return changed, nil
}

// writer brings one volume to one state.
type writer struct {
	root  *os.Root
	files []volume.File
	group int
	// names are the user-visible names at the top of the volume.
	names map[string]bool
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
			return false, errors.Join(w.linkNames(), w.sweep(current))
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
	if err := w.swap(next); err != nil {
		return false, errors.Join(err, w.root.RemoveAll(next), w.unlinkDangling())
	}
	return true, w.sweep(next)
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

// directory makes a directory of the generation, and those above it, for the group and whatever the umask.
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
	// the owner first: chown takes bits away
	return errors.Join(file.Chown(-1, w.group), file.Chmod(f.Mode))
}

// linkNames makes each user-visible name a link through ..data.
func (w *writer) linkNames() error {
	for name := range w.names {
		want := path.Join(dataLink, name)
		have, err := w.root.Readlink(name)
		if err == nil && have == want {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			// a file or directory of another writer: it makes way
			if err := w.root.RemoveAll(name); err != nil {
				return fmt.Errorf("clear %s: %w", name, err)
			}
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
	if err := w.root.RemoveAll(temporary); err != nil {
		return fmt.Errorf("clear %s: %w", temporary, err)
	}
	if err := w.root.Symlink(target, temporary); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := w.root.Rename(temporary, name); err != nil {
		return errors.Join(fmt.Errorf("show %s: %w", name, err), w.root.Remove(temporary))
	}
	return nil
}

// sweep removes everything that does not belong to the generation: names that are gone, earlier generations, and what a
// killed process left.
func (w *writer) sweep(generation string) error {
	entries, err := fs.ReadDir(w.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("list the volume: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if name := e.Name(); name != generation && name != dataLink && !w.names[name] {
			errs = append(errs, w.root.RemoveAll(name))
		}
	}
	return errors.Join(errs...)
}
