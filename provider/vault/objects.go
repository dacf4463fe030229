package vault

import (
	"context"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// mostPages bounds a list of versions: a vault that always names a next page must not hold a pod for ever.
const mostPages = 200

// Object is one version of a secret, key or certificate as the vault answered.
type Object struct {
	Attributes
	// RequestID is the vault's x-ms-request-id.
	RequestID string
	// Value and ContentType are a secret's.
	Value, ContentType string
	// Certified is true for a secret that is the other side of a certificate.
	Certified bool
	// Key is a key's public part.
	Key *Key
	// DER is a certificate.
	DER []byte
}

// Key is a JSON Web Key's public part (RFC 7517).
type Key struct {
	Type, Curve string
	N, E, X, Y  []byte
}

// Attributes are those of a version.
type Attributes struct {
	Version string
	Enabled bool
	// The times are zero where the vault states none.
	Created, NotBefore, Expires time.Time
}

// Get returns an object's version, the current one where the version is empty. Errors are of type *volume.Error.
func (c *Client) Get(ctx context.Context, kind class.Kind, name, version string) (*Object, error) {
	d := description{kind: kind, name: name, version: version, operation: "get"}
	switch kind {
	case class.Secret:
		return call(ctx, c, d, func(ctx context.Context) (*Object, error) {
			resp, err := c.secrets.GetSecret(ctx, name, version, nil)
			if err != nil {
				return nil, err //nolint:wrapcheck // call explains it
			}
			return secretOf(resp.Secret)
		})
	case class.Key:
		return call(ctx, c, d, func(ctx context.Context) (*Object, error) {
			resp, err := c.keys.GetKey(ctx, name, version, nil)
			if err != nil {
				return nil, err //nolint:wrapcheck // call explains it
			}
			return keyOf(resp.KeyBundle)
		})
	case class.Certificate:
	}
	return call(ctx, c, d, func(ctx context.Context) (*Object, error) {
		resp, err := c.certificates.GetCertificate(ctx, name, version, nil)
		if err != nil {
			return nil, err //nolint:wrapcheck // call explains it
		}
		return certificateOf(resp.Certificate)
	})
}

func secretOf(s azsecrets.Secret) (*Object, error) {
	if s.ID == nil || s.Value == nil {
		return nil, incomplete
	}
	o := &Object{Value: *s.Value, Certified: deref(s.KID) != "", ContentType: deref(s.ContentType)}
	if a := s.Attributes; a != nil {
		o.Attributes = attributes(a.Enabled, a.Created, a.NotBefore, a.Expires)
	}
	o.Version = s.ID.Version()
	return o, nil
}

func keyOf(k azkeys.KeyBundle) (*Object, error) {
	if k.Key == nil || k.Key.KID == nil {
		return nil, incomplete
	}
	o := &Object{Key: &Key{
		Type: string(deref(k.Key.Kty)), Curve: string(deref(k.Key.Crv)), N: k.Key.N, E: k.Key.E, X: k.Key.X, Y: k.Key.Y,
	}}
	if a := k.Attributes; a != nil {
		o.Attributes = attributes(a.Enabled, a.Created, a.NotBefore, a.Expires)
	}
	o.Version = k.Key.KID.Version()
	return o, nil
}

func certificateOf(crt azcertificates.Certificate) (*Object, error) {
	if crt.ID == nil || crt.CER == nil {
		return nil, incomplete
	}
	o := &Object{DER: crt.CER}
	if a := crt.Attributes; a != nil {
		o.Attributes = attributes(a.Enabled, a.Created, a.NotBefore, a.Expires)
	}
	o.Version = crt.ID.Version()
	return o, nil
}

// Versions returns all versions of an object, in no order. It needs the permission to list.
func (c *Client) Versions(ctx context.Context, kind class.Kind, name string) ([]Attributes, error) {
	d := description{kind: kind, name: name, operation: "list"}
	switch kind {
	case class.Secret:
		return call(ctx, c, d, func(ctx context.Context) ([]Attributes, error) {
			return collect(ctx, c.secrets.NewListSecretPropertiesVersionsPager(name, nil),
				func(page azsecrets.ListSecretPropertiesVersionsResponse) []Attributes {
					return listed(page.Value, func(v *azsecrets.SecretProperties) (version string, a Attributes) {
						if v == nil || v.ID == nil || v.Attributes == nil {
							return "", a
						}
						return v.ID.Version(), attributes(v.Attributes.Enabled, v.Attributes.Created, v.Attributes.NotBefore, v.Attributes.Expires)
					})
				})
		})
	case class.Key:
		return call(ctx, c, d, func(ctx context.Context) ([]Attributes, error) {
			return collect(ctx, c.keys.NewListKeyPropertiesVersionsPager(name, nil),
				func(page azkeys.ListKeyPropertiesVersionsResponse) []Attributes {
					return listed(page.Value, func(v *azkeys.KeyProperties) (version string, a Attributes) {
						if v == nil || v.KID == nil || v.Attributes == nil {
							return "", a
						}
						return v.KID.Version(), attributes(v.Attributes.Enabled, v.Attributes.Created, v.Attributes.NotBefore, v.Attributes.Expires)
					})
				})
		})
	case class.Certificate:
	}
	return call(ctx, c, d, func(ctx context.Context) ([]Attributes, error) {
		return collect(ctx, c.certificates.NewListCertificatePropertiesVersionsPager(name, nil),
			func(page azcertificates.ListCertificatePropertiesVersionsResponse) []Attributes {
				return listed(page.Value, func(v *azcertificates.CertificateProperties) (version string, a Attributes) {
					if v == nil || v.ID == nil || v.Attributes == nil {
						return "", a
					}
					return v.ID.Version(), attributes(v.Attributes.Enabled, v.Attributes.Created, v.Attributes.NotBefore, v.Attributes.Expires)
				})
			})
	})
}

// listed takes the versions of a page; entries that lack what they must have are passed over.
func listed[T any](page []*T, of func(*T) (version string, a Attributes)) []Attributes {
	found := make([]Attributes, 0, len(page))
	for _, entry := range page {
		if version, a := of(entry); version != "" {
			a.Version = version
			found = append(found, a)
		}
	}
	return found
}

// collect reads all pages; a page may be short or empty although more follow.
func collect[P any](ctx context.Context, pager *runtime.Pager[P], of func(P) []Attributes) ([]Attributes, error) {
	var all []Attributes
	for range mostPages {
		if !pager.More() {
			return all, nil
		}
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err //nolint:wrapcheck // call explains it
		}
		all = append(all, of(page)...)
	}
	return nil, endless
}

func attributes(enabled *bool, created, notBefore, expires *time.Time) Attributes {
	return Attributes{
		Enabled: deref(enabled), Created: deref(created), NotBefore: deref(notBefore), Expires: deref(expires),
	}
}

func deref[T any](p *T) (zero T) {
	if p == nil {
		return zero
	}
	return *p
}
