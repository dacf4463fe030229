package emulator

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// backupObject is what a backup has of an object. A certificate's backup has three: it, its secret and its key.
type backupObject struct {
	Kind     string             `json:"kind"`
	Name     string             `json:"name"`
	Versions []backupVersion    `json:"versions"`
	Rotation *rotationBody      `json:"rotation,omitempty"`
	Policy   *certificatePolicy `json:"policy,omitempty"`
}

type backupVersion struct {
	ID            string            `json:"id"`
	Disabled      bool              `json:"disabled,omitempty"`
	Created       time.Time         `json:"created"`
	Updated       time.Time         `json:"updated"`
	NotBefore     time.Time         `json:"notBefore,omitzero"`
	Expires       time.Time         `json:"expires,omitzero"`
	Tags          map[string]string `json:"tags,omitempty"`
	Value         string            `json:"value,omitempty"`
	ContentType   string            `json:"contentType,omitempty"`
	Managed       bool              `json:"managed,omitempty"`
	Key           *webKey           `json:"key,omitempty"`
	Bits          int               `json:"bits,omitempty"`
	PrivateKey    []byte            `json:"privateKey,omitempty"`
	PublicKey     []byte            `json:"publicKey,omitempty"`
	Operations    []string          `json:"operations,omitempty"`
	DER           []byte            `json:"der,omitempty"`
	CSR           []byte            `json:"csr,omitempty"`
	NotExportable bool              `json:"notExportable,omitempty"`
}

// backupBody is the answer of a backup and the request of a restore.
type backupValue struct {
	Value string `json:"value"`
}

// newSealer makes what encrypts backups: with a key of its own, so that they can be restored in the vaults of this
// emulator alone. The service's can be restored within a subscription and a geography.
func newSealer(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("backup key: %w", err)
	}
	sealer, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("backup key: %w", err)
	}
	return sealer, nil
}

// backup answers with all versions of an object, encrypted.
func (v *vaultState) backup(c *call) (reply, slow) {
	o, _, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := c.unmanaged(o); bad != nil {
		return *bad, nil
	}
	if len(o.versions) > 500 {
		return badParameter(fmt.Sprintf("%s %s has more than 500 versions: it cannot be backed up.", c.title(), o.name)), nil
	}
	var objects []backupObject
	for _, kind := range v.kindsOf(c.kind, o) {
		side, err := v.find(kind, o.name)
		if err != nil {
			continue
		}
		saved, err := side.save(kind)
		if err != nil {
			return refusal(http.StatusInternalServerError, "InternalError", "The backup could not be made.", ""), nil
		}
		objects = append(objects, saved)
	}
	text, err := json.Marshal(objects)
	if err != nil {
		return refusal(http.StatusInternalServerError, "InternalError", "The backup could not be made.", ""), nil
	}
	sealed := v.sealer.Seal(nil, nil, text, []byte(c.kind)) //nolint:gosec // the sealer makes its own nonces
	return reply{status: http.StatusOK, body: backupValue{Value: base64.RawURLEncoding.EncodeToString(sealed)}}, nil
}

// save is what a backup has of an object.
func (o *object) save(kind string) (backupObject, error) {
	saved := backupObject{Kind: kind, Name: o.name, Rotation: o.rotation, Policy: o.policy}
	for _, n := range o.versions {
		if n.pending { // what is not issued is not in a backup
			continue
		}
		one, err := n.save()
		if err != nil {
			return saved, err
		}
		saved.Versions = append(saved.Versions, one)
	}
	return saved, nil
}

func (n *version) save() (backupVersion, error) {
	saved := backupVersion{
		ID:            n.id,
		Disabled:      n.disabled,
		Created:       n.created,
		Updated:       n.updated,
		NotBefore:     n.notBefore,
		Expires:       n.expires,
		Tags:          n.tags,
		Value:         n.value,
		ContentType:   n.contentType,
		Managed:       n.managed,
		DER:           n.der,
		CSR:           n.csr,
		NotExportable: n.notExportable,
		Operations:    n.operations,
	}
	if n.jwk != nil {
		key := *n.jwk
		saved.Key, saved.Bits = &key, n.jwk.bits
	}
	var err error
	switch {
	case n.private != nil:
		saved.PrivateKey, err = x509.MarshalPKCS8PrivateKey(n.private)
	case n.public != nil:
		saved.PublicKey, err = x509.MarshalPKIXPublicKey(n.public)
	}
	if err != nil {
		return saved, fmt.Errorf("version %s: %w", n.id, err)
	}
	return saved, nil
}

// load is the reverse of save.
func (b *backupVersion) load() (*version, error) {
	n := &version{
		id:            b.ID,
		disabled:      b.Disabled,
		created:       b.Created,
		updated:       b.Updated,
		notBefore:     b.NotBefore,
		expires:       b.Expires,
		tags:          maps.Clone(b.Tags),
		value:         b.Value,
		contentType:   b.ContentType,
		managed:       b.Managed,
		der:           b.DER,
		csr:           b.CSR,
		notExportable: b.NotExportable,
		jwk:           b.Key,
		operations:    b.Operations,
	}
	if n.jwk != nil {
		n.jwk.bits = b.Bits
	}
	if b.PrivateKey != nil {
		key, err := x509.ParsePKCS8PrivateKey(b.PrivateKey)
		if err != nil {
			return nil, fmt.Errorf("version %s: %w", b.ID, err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("version %s: a %T is no key of Key Vault", b.ID, key)
		}
		n.private, n.public = signer, signer.Public()
	}
	if b.PublicKey != nil {
		key, err := x509.ParsePKIXPublicKey(b.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("version %s: %w", b.ID, err)
		}
		n.public = key
	}
	return n, nil
}

// restore makes the object of a backup, in this vault or another one of the emulator.
func (v *vaultState) restore(c *call) (reply, slow) {
	var in backupValue
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	objects, err := v.openBackup(c.kind, in.Value)
	if err != nil {
		return refusal(http.StatusBadRequest, "Malformed backup blob", "Backup blob is corrupt.", ""), nil
	}
	for _, saved := range objects {
		// An object of that name in any state is in the way.
		if o, err := v.find(saved.kind, saved.object.name); err == nil {
			r := route{kind: saved.kind, noun: singular[saved.kind], name: o.name}
			if bad := v.vacant(r); bad != nil && o.deleted {
				return *bad, nil
			}
			message := fmt.Sprintf("There was a conflict restoring the %[1]s '%[2]s'. This can happen if either: a second %[1]s "+
				"with the same name was created after the first %[1]s was deleted; thus trying to restore a %[1]s whose name is "+
				"already in use. To fix this, rename the second %[1]s to something else so that the restore works. The second "+
				"probable cause of this exception is when multiple operations are performed in parallel against the %[1]s. To avoid "+
				"this error, perform operations against a %[1]s in a sequential manner.",
				r.noun, v.url(saved.kind, o.name)+"/"+saved.object.current().id)
			return refusal(http.StatusConflict, "Conflict", message, ""), nil
		}
	}
	if v.count() >= maxVersions {
		return badParameter(fmt.Sprintf("The emulator holds at most %d versions in a vault.", maxVersions)), nil
	}
	for _, saved := range objects {
		v.put(saved.kind, saved.object)
	}
	first := objects[0].object
	c.record.Name = first.name
	return v.answer(c, first, first.current()), nil
}

// restored is an object of a backup.
type restored struct {
	kind   string
	object *object
}

// load is the reverse of save.
func (b *backupObject) load() (*object, error) {
	o := &object{name: b.Name, rotation: b.Rotation, policy: b.Policy, operationGone: true}
	if o.policy != nil && o.policy.X509Props.SANs != nil { // of any type in JSON
		var names sans
		text, err := json.Marshal(o.policy.X509Props.SANs)
		if err == nil {
			err = json.Unmarshal(text, &names)
		}
		if err != nil {
			return nil, fmt.Errorf("names: %w", err)
		}
		o.policy.X509Props.SANs = names
	}
	for _, one := range b.Versions {
		n, err := one.load()
		if err != nil {
			return nil, err
		}
		o.versions = append(o.versions, n)
	}
	return o, nil
}

// put makes an object that was saved one of the vault.
func (v *vaultState) put(kind string, o *object) {
	for _, n := range o.versions {
		if kind == "secrets" && n.managed {
			n.kid = v.url("keys", o.name) + "/" + n.id
		}
	}
	v.objects[objectKey{kind, strings.ToLower(o.name)}] = o
}

// openBackup returns the objects of a backup, first the one of the kind.
func (v *vaultState) openBackup(kind, value string) ([]restored, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return nil, fmt.Errorf("base64: %w", err)
	}
	text, err := v.sealer.Open(nil, nil, sealed, []byte(kind))
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	var saved []backupObject
	if err := json.Unmarshal(text, &saved); err != nil {
		return nil, fmt.Errorf("json: %w", err)
	}
	var objects []restored
	for _, one := range saved {
		o, err := one.load()
		if err != nil {
			return nil, err
		}
		if len(o.versions) > 0 {
			objects = append(objects, restored{one.Kind, o})
		}
	}
	if !slices.ContainsFunc(objects, func(r restored) bool { return r.kind == kind }) {
		return nil, errors.New("no version")
	}
	return objects, nil
}
