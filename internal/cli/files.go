package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	// maxFile bounds a file that is read, in bytes: etcd takes objects of 1.5 MiB, and a file may have several.
	maxFile = 16 << 20
	// maxFiles bounds the files of one directory tree, so that / ends with an error and not after hours.
	maxFiles = 50_000
)

// classReader reads the files that a person names.
type classReader struct {
	stdin io.Reader
	// take is called for each file. Named is true for one that the person named, and not found in a directory.
	take func(path string, data []byte, named bool) error

	seen  map[string]bool
	files int
}

// readClassFiles calls take for the named file, for each class file below the named directory, or for standard input (-). Links to
// directories are followed; no file is read twice. What Helm makes files of is left out.
func readClassFiles(name string, stdin io.Reader, take func(path string, data []byte, named bool) error) error {
	r := classReader{stdin: stdin, take: take, seen: map[string]bool{}}
	return r.read(name)
}

func (r *classReader) read(name string) error {
	if name == "-" {
		data, err := io.ReadAll(io.LimitReader(r.stdin, maxFile+1))
		if err != nil {
			return fileError("standard input", err)
		}
		if len(data) > maxFile {
			return errors.New("standard input: it is larger than 16 MiB: split it")
		}
		return r.take("<stdin>", data, true)
	}
	if name == "" {
		return errors.New("a file name is empty: name a file, a directory or -")
	}
	info, err := os.Stat(name)
	if err != nil {
		return fileError(name, err)
	}
	if info.IsDir() {
		return r.directory(name)
	}
	return r.file(name, info, true)
}

// directory reads what is below a directory, in the order of names.
func (r *classReader) directory(name string) error {
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		return fileError(name, err)
	}
	if r.seen[target] {
		return nil // a link to a directory above
	}
	r.seen[target] = true
	entries, err := os.ReadDir(name)
	if err != nil {
		return fileError(name, err)
	}
	chart := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "Chart.yaml" })
	for _, entry := range entries {
		if chart && entry.Name() == "templates" {
			continue
		}
		if err := r.entry(filepath.Join(name, entry.Name()), entry); err != nil {
			return err
		}
	}
	return nil
}

// entry reads an entry of a directory.
func (r *classReader) entry(path string, entry fs.DirEntry) error {
	info, err := os.Stat(path)
	switch {
	case err != nil && entry.Type()&fs.ModeSymlink != 0:
		return nil // a link to nothing
	case err != nil:
		return fileError(path, err)
	case info.IsDir():
		if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" {
			return nil
		}
		return r.directory(path)
	case !info.Mode().IsRegular() || !slices.Contains(classExtensions(), strings.ToLower(filepath.Ext(path))) || unrelated(entry.Name()):
		return nil
	}
	return r.file(path, info, false)
}

// unrelated reports whether a file has the name of something that is no object of Kubernetes.
func unrelated(name string) bool {
	switch strings.ToLower(name) {
	case "kustomization.yaml", "kustomization.yml", "chart.yaml", "values.yaml", "values.schema.json", "package.json", "package-lock.json":
		return true
	}
	return false
}

func (r *classReader) file(path string, info fs.FileInfo, named bool) error {
	target, err := filepath.EvalSymlinks(path)
	if err == nil && r.seen[target] {
		return nil
	}
	if err == nil {
		r.seen[target] = true
	}
	if r.files++; r.files > maxFiles {
		return fmt.Errorf("%s: more than %d files: name a smaller directory", path, maxFiles)
	}
	if info.Size() > maxFile {
		if !named {
			return nil
		}
		return fmt.Errorf("%s: it is larger than 16 MiB: split it", path)
	}
	f, err := os.Open(path) //nolint:gosec // the person's choice
	if err != nil {
		return fileError(path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	_ = f.Close()
	if err != nil {
		return fileError(path, err)
	}
	return r.take(path, data, named)
}

func classExtensions() []string { return []string{".yaml", ".yml", ".json"} }

// fileError says in one line why a file cannot be read, without the name of the system call.
func fileError(path string, err error) error {
	cause, fix := err, ""
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		cause = e.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fix = ": check the path"
	case errors.Is(err, fs.ErrPermission):
		fix = ": give yourself the right to read it"
	case errors.Is(err, syscall.EISDIR):
		fix = ": name a file"
	}
	return fmt.Errorf("%s: %w%s", path, cause, fix)
}
