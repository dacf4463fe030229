package volume

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits of a path, as Linux has them.
const (
	mostPath    = 4096
	mostElement = 255
)

// CheckPath returns why a path cannot be a file of a volume, or nil.
func CheckPath(p string) error {
	if p == "" {
		return errors.New("file name must not be empty")
	}
	var wrong []error
	if len(p) > mostPath {
		wrong = append(wrong, fmt.Errorf("file name is %d bytes long: at most %d", len(p), mostPath))
	}
	if strings.HasPrefix(p, "/") {
		wrong = append(wrong, errors.New("file name must be a relative path"))
	}
	if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
		wrong = append(wrong, errors.New("file name must be printable UTF-8"))
	}
	up := false
	for element := range strings.SplitSeq(p, "/") {
		if len(element) > mostElement {
			wrong = append(wrong, fmt.Errorf("file name has an element of %d bytes: at most %d", len(element), mostElement))
		}
		up = up || element == ".."
	}
	switch {
	case up:
		wrong = append(wrong, errors.New("file name must not contain '..'"))
	case strings.HasPrefix(p, ".."):
		wrong = append(wrong, errors.New("file name must not start with '..', which the driver keeps for itself"))
	case !strings.HasPrefix(p, "/") && path.Clean(p) != p || p == ".":
		wrong = append(wrong, fmt.Errorf("file name is not a clean path: write %q", path.Clean(p)))
	}
	return errors.Join(wrong...)
}

// CheckFiles returns everything that is wrong with the paths and modes of a volume's files, or nil.
func CheckFiles(files []File) error {
	var wrong []error
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		if err := CheckPath(f.Path); err != nil {
			wrong = append(wrong, fmt.Errorf("%.80q: %w", f.Path, err))
		}
		if f.Mode&^0o777 != 0 {
			wrong = append(wrong, fmt.Errorf("%.80q: mode %#o has more than permission bits", f.Path, uint32(f.Mode)))
		}
		if seen[f.Path] {
			wrong = append(wrong, fmt.Errorf("%.80q: two files have this path", f.Path))
		}
		seen[f.Path] = true
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if seen[dir] {
				wrong = append(wrong, fmt.Errorf("%.80q is a file and the directory of %.80q", dir, f.Path))
			}
		}
	}
	return errors.Join(wrong...)
}
