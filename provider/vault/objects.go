package vault

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

// A list of versions is bounded: a vault that always names a next page must hold neither a Pod nor memory. Key Vault's
// pages have 25 entries.
const (
	mostPages    = 200
	mostVersions = 25 * mostPages
)

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
	Key *encode.JWK
	// DER is a certificate.
	DER []byte
	// Tags are those of the version.
	Tags map[string]string
}

// Attributes are those of a version.
type Attributes struct {
	Version string
	// Enabled is false only where the vault says so. Of a disabled secret there is no answer at all.
	Enabled bool
	// The times are zero where the vault states none.
	Created, Updated, NotBefore, Expires time.Time
}

// mostListed bounds the objects of one kind that a vault may have for a list of all of them.
const mostListed = 2000

// Item is one object in the list of all objects of a kind: its current version.
type Item struct {
	Attributes
	Name string
	// Managed is true for a secret or a key that belongs to a certificate.
	Managed bool
	Tags    map[string]string
}

// kindClient asks for objects of one kind. It returns each with its id, which the caller checks.
type kindClient interface {
	get(ctx context.Context, name, version string) (o *Object, id string, err error)
	versions(ctx context.Context, name string) (all []Attributes, ids []string, err error)
	// list returns all objects, and calls page at the end of each page.
	list(ctx context.Context, page func()) (all []Item, ids []string, err error)
}

// kind returns the client for objects of a kind.
func (c *Client) kind(kind string) (kindClient, error) {
	switch class.Kind(kind) {
	case class.Secret:
		return secrets{c.secrets}, nil
	case class.Key:
		return keys{c.keys}, nil
	case class.Certificate:
		return certificates{c.certificates}, nil
	}
	return nil, &volume.Error{
		Reason:  volume.ReasonInternal,
		Message: fmt.Sprintf("vault %s: there is no kind %q of object", c.host, kind),
	}
}

// collection is the first element of the path of an object's id.
func collection(kind string) string {
	if class.Kind(kind) == class.Certificate {
		return "certificates"
	}
	return kind + "s"
}

var versionPattern = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)

// checkID checks that an answer's id, https://HOST/secrets/NAME/VERSION, is that of the object that was asked for, and
// returns its version; of an item of the list of all objects, its name.
func (c *Client) checkID(id string, asked volume.SourceKey) (last string, err error) {
	if id == "" {
		return "", errIncomplete
	}
	u, err := url.Parse(id)
	if err != nil {
		return "", errForeign
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	host := url.URL{Host: c.host}
	if asked.Name == "" { // an item of the list of all objects, which has no version
		if len(parts) != 2 || !strings.EqualFold(u.Hostname(), host.Hostname()) || parts[0] != collection(asked.Kind) ||
			!versionPattern.MatchString(parts[1]) {
			return "", errForeign
		}
		return parts[1], nil
	}
	if len(parts) != 3 || !strings.EqualFold(u.Hostname(), host.Hostname()) || parts[0] != collection(asked.Kind) ||
		!strings.EqualFold(parts[1], asked.Name) || !versionPattern.MatchString(parts[2]) ||
		asked.Version != "" && !strings.EqualFold(parts[2], asked.Version) {
		return "", errForeign
	}
	return parts[2], nil
}

type secrets struct{ client *azsecrets.Client }

func (s secrets) get(ctx context.Context, name, version string) (*Object, string, error) {
	resp, err := s.client.GetSecret(ctx, name, version, nil)
	if err != nil {
		return nil, "", err // Ask explains it
	}
	if resp.Value == nil {
		return nil, "", errIncomplete
	}
	o := &Object{Value: *resp.Value, Certified: deref(resp.KID) != "", ContentType: deref(resp.ContentType), Tags: tags(resp.Tags)}
	if a := resp.Attributes; a != nil {
		o.Attributes = attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires)
	}
	return o, string(deref(resp.ID)), nil
}

func (s secrets) versions(ctx context.Context, name string) ([]Attributes, []string, error) {
	l := newVersions()
	pager := s.client.NewListSecretPropertiesVersionsPager(name, nil)
	err := collect(ctx, l, pager, func(page azsecrets.ListSecretPropertiesVersionsResponse) {
		for _, v := range page.Value {
			if v != nil && v.Attributes != nil {
				a := v.Attributes
				l.add(string(deref(v.ID)), attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires))
			}
		}
	})
	return l.all, l.ids, err
}

func (s secrets) list(ctx context.Context, page func()) ([]Item, []string, error) {
	l := newItems(page)
	err := collect(ctx, l, s.client.NewListSecretPropertiesPager(nil), func(page azsecrets.ListSecretPropertiesResponse) {
		for _, v := range page.Value {
			if v != nil && v.Attributes != nil {
				a := v.Attributes
				l.add(string(deref(v.ID)), Item{
					Attributes: attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires), Managed: deref(v.Managed), Tags: tags(v.Tags),
				})
			}
		}
	})
	return l.all, l.ids, err
}

type keys struct{ client *azkeys.Client }

func (k keys) get(ctx context.Context, name, version string) (*Object, string, error) {
	resp, err := k.client.GetKey(ctx, name, version, nil)
	if err != nil {
		return nil, "", err // Ask explains it
	}
	if resp.Key == nil {
		return nil, "", errIncomplete
	}
	o := &Object{Key: &encode.JWK{
		Kty: string(deref(resp.Key.Kty)),
		Crv: string(deref(resp.Key.Crv)),
		N:   resp.Key.N,
		E:   resp.Key.E,
		X:   resp.Key.X,
		Y:   resp.Key.Y,
	}, Tags: tags(resp.Tags)}
	if a := resp.Attributes; a != nil {
		o.Attributes = attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires)
	}
	return o, string(deref(resp.Key.KID)), nil
}

func (k keys) versions(ctx context.Context, name string) ([]Attributes, []string, error) {
	l := newVersions()
	pager := k.client.NewListKeyPropertiesVersionsPager(name, nil)
	err := collect(ctx, l, pager, func(page azkeys.ListKeyPropertiesVersionsResponse) {
		for _, v := range page.Value {
			if v != nil && v.Attributes != nil {
				a := v.Attributes
				l.add(string(deref(v.KID)), attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires))
			}
		}
	})
	return l.all, l.ids, err
}

func (k keys) list(ctx context.Context, page func()) ([]Item, []string, error) {
	l := newItems(page)
	err := collect(ctx, l, k.client.NewListKeyPropertiesPager(nil), func(page azkeys.ListKeyPropertiesResponse) {
		for _, v := range page.Value {
			if v != nil && v.Attributes != nil {
				a := v.Attributes
				l.add(string(deref(v.KID)), Item{
					Attributes: attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires), Managed: deref(v.Managed), Tags: tags(v.Tags),
				})
			}
		}
	})
	return l.all, l.ids, err
}

type certificates struct{ client *azcertificates.Client }

func (c certificates) get(ctx context.Context, name, version string) (*Object, string, error) {
	resp, err := c.client.GetCertificate(ctx, name, version, nil)
	if err != nil {
		return nil, "", err // Ask explains it
	}
	if resp.CER == nil {
		if a := resp.Attributes; a != nil && a.Enabled != nil && !*a.Enabled && resp.KID == nil {
			return nil, "", errPending // that is all that the vault has of it until then
		}
		return nil, "", errIncomplete
	}
	o := &Object{DER: resp.CER, Tags: tags(resp.Tags)}
	if a := resp.Attributes; a != nil {
		o.Attributes = attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires)
	}
	return o, string(deref(resp.ID)), nil
}

func (c certificates) versions(ctx context.Context, name string) ([]Attributes, []string, error) {
	l := newVersions()
	pager := c.client.NewListCertificatePropertiesVersionsPager(name, nil)
	err := collect(ctx, l, pager, func(page azcertificates.ListCertificatePropertiesVersionsResponse) {
		for _, v := range page.Value {
			if v != nil && v.Attributes != nil {
				a := v.Attributes
				l.add(string(deref(v.ID)), attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires))
			}
		}
	})
	return l.all, l.ids, err
}

func (c certificates) list(ctx context.Context, page func()) ([]Item, []string, error) {
	l := newItems(page)
	err := collect(ctx, l, c.client.NewListCertificatePropertiesPager(nil), func(page azcertificates.ListCertificatePropertiesResponse) {
		for _, v := range page.Value {
			if v != nil && v.Attributes != nil {
				a := v.Attributes
				l.add(string(deref(v.ID)), Item{
					Attributes: attributes(a.Enabled, a.Created, a.Updated, a.NotBefore, a.Expires), Tags: tags(v.Tags),
				})
			}
		}
	})
	return l.all, l.ids, err
}

// list collects what the pages of an answer hold, with their ids. Those without an id are ignored.
type list[T any] struct {
	all []T
	ids []string
	// most bounds what there may be; more are the error beyond.
	most   int
	beyond error
	// page is called at the end of each page; may be nil.
	page func()
}

// newVersions is a list of the versions of an object.
func newVersions() *list[Attributes] {
	return &list[Attributes]{most: mostVersions, beyond: errEndless}
}

// newItems is a list of all objects of a kind.
func newItems(page func()) *list[Item] {
	return &list[Item]{most: mostListed, beyond: errTooMany, page: page}
}

func (l *list[T]) add(id string, one T) {
	if id != "" {
		l.all, l.ids = append(l.all, one), append(l.ids, id)
	}
}

// collect reads all pages into a list; a page may be short or empty although more follow.
func collect[T, P any](ctx context.Context, l *list[T], pager *runtime.Pager[P], add func(P)) error {
	for range mostPages {
		if !pager.More() {
			return nil
		}
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err // Ask explains it
		}
		add(page)
		if l.page != nil {
			l.page()
		}
		if len(l.all) > l.most {
			return l.beyond
		}
	}
	return errEndless
}

func attributes(enabled *bool, created, updated, notBefore, expires *time.Time) Attributes {
	return Attributes{
		Enabled:   enabled == nil || *enabled,
		Created:   deref(created),
		Updated:   deref(updated),
		NotBefore: deref(notBefore),
		Expires:   deref(expires),
	}
}

// What Key Vault allows of tags; the sizes are in bytes here, of any character.
const (
	mostTags = 15
	mostTag  = 4 * (512 + 256)
)

// tags returns the tags of an object; none where they are more or larger than Key Vault's.
func tags(all map[string]*string) map[string]string {
	if len(all) == 0 || len(all) > mostTags {
		return nil
	}
	kept := make(map[string]string, len(all))
	for name, value := range all {
		if kept[name] = deref(value); len(name)+len(kept[name]) > mostTag {
			return nil
		}
	}
	return kept
}

func deref[T any](p *T) (zero T) {
	if p == nil {
		return zero
	}
	return *p
}
