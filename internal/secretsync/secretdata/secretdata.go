// Package secretdata makes Kubernetes Secrets from a volume's files as a class's secretObjects ask for, and judges
// secretObjects before any value is known. It holds the rules alone and makes no request.
//
// No error and no mistake holds any part of a file's content.
package secretdata

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

const (
	// ManagedLabel marks Secrets that a driver keeps in step; its value is Managed.
	ManagedLabel = "secrets-store.csi.k8s.io/managed"
	// Managed is the value of ManagedLabel.
	Managed = "true"
)

// Secret is a Kubernetes Secret as a class asks for it.
type Secret struct {
	Name        string
	Type        string
	Labels      map[string]string
	Annotations map[string]string
	Data        map[string][]byte
}

// String hides the data.
func (s *Secret) String() string { return "Secret " + s.Name }

// GoString hides the data from %#v.
func (s *Secret) GoString() string { return s.String() }

// Build makes the Secret. Its errors are *volume.Error: InvalidClass for a mistake of the class, InvalidContent for a
// file that cannot become what the type needs; each names everything that is wrong. Absent are paths of files that the class would mount
// if their optional objects existed: their keys are left out, and where the type needs one of them the error is NotFound.
func Build(o *v1.SecretObject, files []volume.File, absent []string) (*Secret, error) {
	o, left := withoutAbsent(o, absent)
	if len(left) > 0 && len(o.Data) == 0 {
		return nil, &volume.Error{Reason: volume.ReasonNotFound, Message: "the optional objects of " + strings.Join(left, ", ") +
			" do not exist or are disabled: the Secret is written when one of them does"}
	}
	contents := make(map[string][]byte, len(files))
	paths := make([]string, 0, len(files))
	for _, f := range files {
		contents[f.Path] = f.Data
		paths = append(paths, f.Path)
	}
	if mistakes := Check(o, paths); len(mistakes) > 0 {
		lines := make([]string, 0, len(mistakes))
		for _, m := range mistakes {
			lines = append(lines, m.String())
		}
		if len(left) > 0 {
			return nil, &volume.Error{Reason: volume.ReasonNotFound, Message: fmt.Sprintf(
				"the optional objects of %s do not exist or are disabled, and without them: %s", strings.Join(left, ", "), strings.Join(lines, "; "))}
		}
		return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Message: strings.Join(lines, "; ")}
	}
	s := &Secret{
		Name: o.SecretName, Type: TypeOf(o), Labels: map[string]string{}, Annotations: maps.Clone(o.Annotations),
		Data: map[string][]byte{},
	}
	maps.Copy(s.Labels, o.Labels)
	s.Labels[ManagedLabel] = Managed
	keys, _ := keysOf(o, paths)
	var wrong []error
	size := 0
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		value, err := convert(s.Type, key, contents[keys[key]])
		if err != nil {
			wrong = append(wrong, fmt.Errorf("key %s from file %.80q: %w", key, keys[key], err))
			continue
		}
		s.Data[key] = value
		size += len(value)
	}
	if size > maxSize {
		wrong = append(
			wrong,
			fmt.Errorf("the values have %d bytes together, a Secret takes %d: spread them over several", size, maxSize),
		)
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, &volume.Error{
			Reason: volume.ReasonInvalidContent, Cause: err, Message: strings.ReplaceAll(err.Error(), "\n", "; "),
		}
	}
	return s, nil
}

// withoutAbsent returns the object without the data of absent files, and their paths, quoted.
func withoutAbsent(o *v1.SecretObject, absent []string) (reduced *v1.SecretObject, left []string) {
	if len(absent) == 0 || len(o.Data) == 0 {
		return o, nil
	}
	reduced = o.DeepCopy()
	reduced.Data = slices.DeleteFunc(reduced.Data, func(d v1.SecretObjectData) bool {
		if !slices.Contains(absent, strings.TrimSpace(d.ObjectName)) {
			return false
		}
		left = append(left, strconv.Quote(d.ObjectName))
		return true
	})
	return reduced, left
}

// Used returns the sources of the files that the object's data is made from, lists of versions included. There are none
// where a file does not say its source.
func Used(o *v1.SecretObject, files []volume.File, sources []volume.Source) []volume.Source {
	objects := map[volume.SourceKey]bool{}
	keys := map[volume.SourceKey]bool{}
	for _, f := range files {
		if !uses(o, f.Path) {
			continue
		}
		if f.Source == (volume.SourceKey{}) {
			return nil
		}
		for _, source := range append([]volume.SourceKey{f.Source}, f.Others...) {
			keys[source] = true
			objects[objectOf(source)] = true
		}
	}
	var used []volume.Source
	for _, s := range sources {
		// where every file becomes a key, it counts too which objects there are
		selected := s.Key.Selection != "" && len(o.Data) == 0
		if keys[s.Key] || selected || s.Key.List && objects[objectOf(s.Key)] {
			used = append(used, s)
		}
	}
	return used
}

// objectOf is the key of the object whose version or list of versions the key names.
func objectOf(k volume.SourceKey) volume.SourceKey {
	k.Version, k.List = "", false
	return k
}

// uses says whether the file is among the object's data.
func uses(o *v1.SecretObject, path string) bool {
	return len(o.Data) == 0 ||
		slices.ContainsFunc(o.Data, func(d v1.SecretObjectData) bool { return strings.TrimSpace(d.ObjectName) == path })
}

// convert makes a key's value of a file.
func convert(kind string, key string, file []byte) ([]byte, error) {
	switch {
	case kind == TypeTLS && key == keyTLSCertificate:
		return encode.TLSCertificates(file)
	case kind == TypeTLS && key == keyTLSKey:
		return encode.TLSKey(file)
	case kind == TypeTLS && key == keyTLSAuthorities: // ca.crt
		return encode.TLSAuthorities(file)
	case kind == TypeDockerConfigJSON && key == keyDockerJSON,
		kind == TypeDockercfg && key == keyDockercfg:
		if json.Unmarshal(file, &map[string]any{}) != nil {
			return nil, fmt.Errorf(
				"the value is not a JSON object, as %s needs it: store the whole file in the vault",
				kind,
			)
		}
	case kind == TypeSSHAuth && key == keySSH && len(file) == 0:
		return nil, errors.New("the value is empty: store the private key in the vault")
	}
	return file, nil
}

// Hash is equal for a Secret's inputs that make the same Secret. It is keyed, so that it reveals nothing of values.
func Hash(key []byte, o *v1.SecretObject, files []volume.File) [sha256.Size]byte {
	h := hmac.New(sha256.New, key)
	add := func(data []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(data)))
		_, _ = h.Write(n[:])
		_, _ = h.Write(data)
	}
	asked, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings marshal
	}
	add(asked)
	for _, f := range files {
		if !uses(o, f.Path) {
			continue
		}
		add([]byte(f.Path))
		add(f.Data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
