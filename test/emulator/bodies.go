package emulator

import (
	"crypto/sha1" //nolint:gosec // x5t is a SHA-1 thumbprint
	"encoding/base64"
	"strings"
	"time"
)

// The fields of all bodies are in the order in which Key Vault writes them.

// attributes are those of a version.
type attributes struct {
	Enabled         bool   `json:"enabled"`
	KeySize         int    `json:"key_size,omitempty"`
	NotBefore       int64  `json:"nbf,omitempty"`
	Expires         int64  `json:"exp,omitempty"`
	Created         int64  `json:"created"`
	Updated         int64  `json:"updated"`
	RecoveryLevel   string `json:"recoveryLevel,omitempty"`
	RecoverableDays int    `json:"recoverableDays,omitempty"`
	Exportable      *bool  `json:"exportable,omitempty"`
	HSMPlatform     string `json:"hsmPlatform,omitempty"`
}

// deletion is what a deleted object has more.
type deletion struct {
	RecoveryID         string `json:"recoveryId,omitempty"`
	DeletedDate        int64  `json:"deletedDate,omitempty"`
	ScheduledPurgeDate int64  `json:"scheduledPurgeDate,omitempty"`
}

type secretBody struct {
	deletion
	Value           *string           `json:"value,omitempty"`
	ContentType     string            `json:"contentType,omitempty"`
	ID              string            `json:"id"`
	Managed         bool              `json:"managed,omitempty"`
	Attributes      attributes        `json:"attributes"`
	Tags            map[string]string `json:"tags,omitempty"`
	KID             string            `json:"kid,omitempty"`
	PreviousVersion string            `json:"previousVersion,omitempty"`
}

// keyBody is a key, or an item of a list, which has its id alone.
type keyBody struct {
	deletion
	Key        *webKey           `json:"key,omitempty"`
	KID        string            `json:"kid,omitempty"`
	Attributes attributes        `json:"attributes"`
	Tags       map[string]string `json:"tags,omitempty"`
	Managed    bool              `json:"managed,omitempty"`
}

// webKey is the public part of a key.
type webKey struct {
	KID    string   `json:"kid"`
	Kty    string   `json:"kty"`
	KeyOps []string `json:"key_ops"`
	N      string   `json:"n,omitempty"`
	E      string   `json:"e,omitempty"`
	Crv    string   `json:"crv,omitempty"`
	X      string   `json:"x,omitempty"`
	Y      string   `json:"y,omitempty"`

	bits int
}

type certificateBody struct {
	deletion
	ID         string             `json:"id"`
	KID        string             `json:"kid,omitempty"`
	SID        string             `json:"sid,omitempty"`
	X5T        string             `json:"x5t,omitempty"`
	CER        string             `json:"cer,omitempty"`
	Attributes attributes         `json:"attributes"`
	Tags       map[string]string  `json:"tags,omitempty"`
	Policy     *certificatePolicy `json:"policy,omitempty"`
	Pending    *pendingID         `json:"pending,omitempty"`
	Subject    *string            `json:"subject,omitempty"`
}

// pendingID names the operation that made a certificate.
type pendingID struct {
	ID string `json:"id"`
}

// shape says what of a version an answer has.
type shape struct {
	api apiVersion
	// item is true in lists.
	item bool
	// versioned is true where the id names the version.
	versioned bool
	// latest is true where the current version was asked for.
	latest bool
	// deleted is true under /deletedsecrets and the like.
	deleted bool
	// valueless leaves out a secret's value.
	valueless bool
}

// render makes the body of one version.
func (v *vaultState) render(kind string, o *object, n *version, s shape) any {
	id := v.url(kind, o.name)
	if s.versioned {
		id += "/" + n.id
	}
	var gone deletion
	if s.deleted {
		gone = deletion{
			RecoveryID:         v.url("deleted"+kind, o.name),
			DeletedDate:        stamp(o.deletedAt),
			ScheduledPurgeDate: stamp(v.purgeDate(o)),
		}
	}
	switch kind {
	case "secrets":
		body := &secretBody{
			deletion:    gone,
			ContentType: n.contentType,
			ID:          id,
			Managed:     n.managed,
			Attributes:  v.attributes(kind, n, s),
			Tags:        n.tags,
		}
		if !s.item {
			body.KID = n.kid
			if n.managed && s.api.has("2025-06-01-preview") {
				body.PreviousVersion = o.before(n)
			}
			if !s.deleted && !s.valueless {
				body.Value = &n.value
			}
		}
		return body
	case "keys":
		body := &keyBody{deletion: gone, Attributes: v.attributes(kind, n, s), Tags: n.tags, Managed: n.managed}
		if s.item {
			body.KID = id
			return body
		}
		key := *n.jwk
		key.KID, key.KeyOps = id, keyOps(n)
		body.Key = &key
		return body
	}
	body := &certificateBody{deletion: gone, ID: id, Attributes: v.attributes(kind, n, s), Tags: n.tags}
	if !n.pending {
		sum := sha1.Sum(n.der) //nolint:gosec // x5t is a SHA-1 thumbprint
		body.X5T = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if s.item {
		body.Subject = new(string)
		return body
	}
	if !n.pending {
		body.KID, body.SID = v.url("keys", o.name)+"/"+n.id, v.url("secrets", o.name)+"/"+n.id
		body.CER = base64.StdEncoding.EncodeToString(n.der)
	}
	if s.latest {
		body.Policy = v.policy(o, n)
		if n.csr != nil && o.hasOperation() {
			body.Pending = &pendingID{ID: v.url("certificates", o.name) + "/pending"}
		}
	}
	return body
}

func (v *vaultState) url(kind, name string) string {
	return "https://" + v.host + "/" + kind + "/" + name
}

func (v *vaultState) attributes(kind string, n *version, s shape) attributes {
	a := attributes{Enabled: !n.disabled, Created: stamp(n.created), Updated: stamp(n.updated)}
	if !n.notBefore.IsZero() {
		a.NotBefore = n.notBefore.Unix()
	}
	if !n.expires.IsZero() {
		a.Expires = n.expires.Unix()
	}
	if kind == "certificates" && s.item {
		return a // the service's lists of certificates say no more
	}
	a.RecoveryLevel = v.recoveryLevel()
	if s.api.has("7.1-preview") {
		a.RecoverableDays = v.retention
	}
	if kind != "keys" {
		return a
	}
	if s.api.has("7.6") {
		a.KeySize = n.jwk.bits
	}
	if s.api.has("7.3-preview") && !n.managed {
		a.Exportable = new(bool)
	}
	if s.api.has("7.5-preview.1") {
		a.HSMPlatform = "0"
		if strings.HasSuffix(n.jwk.Kty, "-HSM") {
			a.HSMPlatform = "2"
		}
	}
	return a
}

// stamp rounds as the service does: its times may be a second later than the Date of the answer that states them.
func stamp(t time.Time) int64 { return t.Round(time.Second).Unix() }

// keyOps are what the service lets a new key, or the key of a certificate, do.
func keyOps(n *version) []string {
	if n.operations != nil {
		return n.operations
	}
	switch strings.TrimSuffix(n.jwk.Kty, "-HSM") {
	case "RSA":
		if n.managed {
			return []string{"sign", "verify", "wrapKey", "unwrapKey"}
		}
		return []string{"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"}
	case "oct": // no vault has one, a seed may
		return []string{"encrypt", "decrypt", "wrapKey", "unwrapKey"}
	}
	return []string{"sign", "verify"}
}
