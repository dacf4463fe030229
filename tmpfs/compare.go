package tmpfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// holds reports whether a generation is exactly the files: paths, bytes, modes and group.
func (w *writer) holds(generation string) (bool, error) {
	want := make(map[string]volume.File, len(w.files))
	for _, f := range w.files {
		want[f.Path] = f
	}
	same := true
	err := fs.WalkDir(w.root.FS(), generation, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file := strings.TrimPrefix(name, generation+"/")
		f, isFile := want[file]
		delete(want, file)
		if isFile {
			same, err = w.sameFile(name, entry, f)
		} else {
			same, err = w.sameMode(name, entry, 0o755, w.owner, w.group)
			same = same && entry.IsDir()
		}
		if err == nil && !same {
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("compare %s: %w", path.Base(generation), err)
	}
	return same && len(want) == 0, nil
}

func (w *writer) sameFile(name string, entry fs.DirEntry, f volume.File) (bool, error) {
	if same, err := w.sameMode(name, entry, f.Mode, w.ownerOf(f), w.groupOf(f)); err != nil || !same || !entry.Type().IsRegular() {
		return false, err
	}
	same, err := w.equal(name, f.Data)
	if err != nil || same || f.Same == nil {
		return same, err
	}
	current, err := w.small(name, 2*len(f.Data)+1<<10)
	return err == nil && current != nil && f.Same(current), err
}

// small reads a file of at most the size; nil where it is larger.
func (w *writer) small(name string, most int) ([]byte, error) {
	file, err := w.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > most {
		return nil, nil
	}
	return data, nil
}

func (w *writer) sameMode(name string, entry fs.DirEntry, mode fs.FileMode, owner, group int) (bool, error) {
	info, err := entry.Info()
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", name, err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == owner && int(stat.Gid) == group && info.Mode().Perm() == mode, nil
}

func (w *writer) equal(name string, data []byte) (same bool, err error) {
	file, err := w.root.Open(name)
	if err != nil {
		return false, fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { _ = file.Close() }()
	buf := make([]byte, min(len(data), 64<<10)+1)
	for {
		n, err := file.Read(buf)
		if n > len(data) || !bytes.Equal(buf[:n], data[:n]) {
			return false, nil
		}
		data = data[n:]
		switch {
		case err == io.EOF:
			return len(data) == 0, nil
		case err != nil:
			return false, fmt.Errorf("read %s: %w", name, err)
		}
	}
}
