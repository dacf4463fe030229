// Package secretdata makes Kubernetes Secrets from a volume's files as a class's secretObjects ask for, and judges
// secretObjects before any value is known. It holds the rules alone and talks to nobody.
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
	"strings"

	corev1 "k8s.io/api/core/v1"

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
	Type        corev1.SecretType
	Labels      map[string]string
	Annotations map[string]string
	Data        map[string][]byte
}

// String hides the data.
func (s *Secret) String() string { return "Secret " + s.Name }

// GoString hides the data from %#v.
func (s *Secret) GoString() string { return s.String() }

// Build makes the Secret. Its errors are *volume.Error: InvalidClass for a mistake of the class, InvalidContent for a file
// that cannot become what the type needs; each names everything that is wrong.
func Build(o *v1.SecretObject, files []volume.File) (*Secret, error) {
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
		return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Message: strings.Join(lines, "; ")}
	}
	s := &Secret{
		Name: o.SecretName, Type: typeOf(o), Labels: map[string]string{}, Annotations: maps.Clone(o.Annotations),
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
	if size > corev1.MaxSecretSize {
		wrong = append(wrong, fmt.Errorf("the values have %d bytes together, a Secret takes %d: spread them over several", size, corev1.MaxSecretSize))
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, &volume.Error{
			Reason: volume.ReasonInvalidContent, Cause: err, Message: strings.ReplaceAll(err.Error(), "\n", "; "),
		}
	}
	return s, nil
}

// convert makes a key's value of a file.
func convert(kind corev1.SecretType, key string, file []byte) ([]byte, error) {
	switch {
	case kind == corev1.SecretTypeTLS && key == corev1.TLSCertKey:
		return encode.TLSCertificates(file) //nolint:wrapcheck // the caller does
	case kind == corev1.SecretTypeTLS && key == corev1.TLSPrivateKeyKey:
		return encode.TLSKey(file) //nolint:wrapcheck // the caller does
	case kind == corev1.SecretTypeTLS && key == corev1.ServiceAccountRootCAKey: // ca.crt
		return encode.TLSAuthorities(file) //nolint:wrapcheck // the caller does
	case kind == corev1.SecretTypeDockerConfigJson && key == corev1.DockerConfigJsonKey,
		kind == corev1.SecretTypeDockercfg && key == corev1.DockerConfigKey:
		if json.Unmarshal(file, &map[string]any{}) != nil {
			return nil, fmt.Errorf("the value is not a JSON object, as %s needs it: store the whole file in the vault", kind)
		}
	case kind == corev1.SecretTypeSSHAuth && key == corev1.SSHAuthPrivateKey && len(file) == 0:
		return nil, errors.New("the value is empty: store the private key in the vault")
	}
	return file, nil
}

// Print is equal for a Secret's inputs that make the same Secret. It is keyed, so that it tells nothing of values.
func Print(key []byte, o *v1.SecretObject, files []volume.File) [sha256.Size]byte {
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
		if len(o.Data) > 0 && !slices.ContainsFunc(o.Data, func(d v1.SecretObjectData) bool { return strings.TrimSpace(d.ObjectName) == f.Path }) {
			continue
		}
		add([]byte(f.Path))
		add(f.Data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
