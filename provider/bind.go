package provider

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
)

// Annotations of a ServiceAccount that say what a class leaves out, as Azure Workload Identity has them.
const (
	clientAnnotation = "azure.workload.identity/client-id"
	tenantAnnotation = "azure.workload.identity/tenant-id"
)

// Bind implements volume.Provider.
func (p *Provider) Bind(ctx context.Context, req volume.Request) (volume.Binding, error) {
	b, err := p.bind(ctx, req)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (p *Provider) bind(ctx context.Context, req volume.Request) (*binding, error) {
	if known, ok := req.Known.(*binding); ok && known.lasting {
		known.identity.Use()
		return known, nil
	}
	parsed, err := p.parse(req)
	if err != nil {
		return nil, err
	}
	nodeOf, err := p.nodeIdentityOf(ctx, parsed, req)
	if err != nil {
		return nil, err
	}
	id, err := p.identify(ctx, parsed, req)
	if err != nil {
		return nil, err
	}
	b := newBinding(p, parsed, id, nodeOf)
	b.lasting = nodeOf == "" && !p.asksAccount(parsed, req) && req.Parameters[cloudFile] == "" && req.Attributes[cloudFile] == ""
	return b, nil
}

// nodeIdentityOf returns the namespace whose right to use the node's identity the binding depends on; empty where it depends on none. A
// Pod's volumeAttributes may ask for that identity too, so the merged parameters count.
func (p *Provider) nodeIdentityOf(ctx context.Context, parsed *class.Class, req volume.Request) (string, error) {
	if p.options.NodeIdentity == nil || p.options.Person || parsed.Mode != class.ManagedIdentity {
		return "", nil
	}
	return req.Pod.Namespace, p.options.NodeIdentity.Check(ctx, req.Pod.Namespace)
}

// parse returns the parsed class.
func (p *Provider) parse(req volume.Request) (*class.Class, error) {
	if name := req.Provider; !class.Served(name) {
		return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Message: fmt.Sprintf(
			"provider %q is not served by this driver: set spec.provider to azure; for other providers run the "+
				"Secrets Store CSI Driver "+
				"under its own driver name beside this one", name)}
	}
	return p.classes.get(req)
}

// identify finds out who asks.
func (p *Provider) identify(ctx context.Context, parsed *class.Class, req volume.Request) (*identity.Identity, error) {
	account, err := p.account(ctx, parsed, req)
	if err != nil {
		return nil, err
	}
	return p.identities.Resolve(parsed, account, req)
}

// account asks for the service account's annotations where the class leaves out what they may hold.
func (p *Provider) account(ctx context.Context, c *class.Class, req volume.Request) (identity.Account, error) {
	if !p.asksAccount(c, req) {
		return identity.Account{}, nil
	}
	found, err := p.options.Accounts.Annotations(ctx, req.Pod.Namespace, req.Pod.ServiceAccount)
	if err != nil {
		return identity.Account{}, err // names the account
	}
	return identity.Account{ClientID: found[clientAnnotation], TenantID: found[tenantAnnotation]}, nil
}

// asksAccount reports whether the identity depends on the service account's annotations.
func (p *Provider) asksAccount(c *class.Class, req volume.Request) bool {
	return p.options.Accounts != nil && !p.options.Person && c.Mode != class.ManagedIdentity && len(req.Secrets) == 0 &&
		(c.ClientID == "" || c.TenantID == "")
}

// binding implements volume.Binding. It is immutable.
type binding struct {
	provider *Provider
	class    *class.Class
	identity *identity.Identity
	// nodeOf is the namespace that must have the right to use the node's identity; empty where none must.
	nodeOf string
	// lasting is true where an equal request makes an equal binding at any time: it depends on no file, service account or namespace.
	lasting     bool
	key         string
	scheduleKey string
	warnings    []string
}

func newBinding(p *Provider, c *class.Class, id *identity.Identity, nodeOf string) *binding {
	b := &binding{provider: p, class: c, identity: id, nodeOf: nodeOf, key: c.Hash + " " + id.Key()}
	if nodeOf != "" {
		b.key += " " + nodeOf // one namespace may lose the right and another keep it
	}
	b.scheduleKey = strings.Join(append(vaultsOf(c), id.Key()), " ")
	for _, w := range c.Warnings {
		b.warnings = append(b.warnings, w.String())
	}
	return b
}

// Key implements volume.Binding.
func (b *binding) Key() string { return b.key }

// ScheduleKey implements volume.Binding.
func (b *binding) ScheduleKey() string { return b.scheduleKey }

// Identity implements volume.Binding.
func (b *binding) Identity() string { return b.identity.String() }

// Warnings implements volume.Binding.
func (b *binding) Warnings() []string { return b.warnings }

// RotationInterval implements volume.Binding.
func (b *binding) RotationInterval() (time.Duration, bool) {
	if b.class.RotationInterval == nil {
		return 0, false
	}
	return *b.class.RotationInterval, true
}

// cloudFile is the parameter that names the file of a custom cloud.
const cloudFile = "cloudEnvFileName"

// mostClasses bounds the parsed classes that are remembered.
const mostClasses = 4096

// classCache remembers parsed classes by their parameters, so that a republish does not parse. Each is parsed once,
// outside the lock: a class that takes long holds up no other.
type classCache struct {
	options class.Options

	mu     sync.Mutex
	parsed map[[sha256.Size]byte]func() (*class.Class, error)
}

func newClassCache(o class.Options) *classCache {
	return &classCache{options: o, parsed: map[[sha256.Size]byte]func() (*class.Class, error){}}
}

func (c *classCache) get(req volume.Request) (*class.Class, error) {
	parameters := class.Merge(req.Parameters, req.Attributes)
	if parameters[cloudFile] != "" {
		return c.parse(parameters) // the file may change while the class does not
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		_, _ = fmt.Fprintf(h, "%d:%s%d:%s", len(name), name, len(parameters[name]), parameters[name])
	}
	return c.parserOf([sha256.Size]byte(h.Sum(nil)), parameters)()
}

// parserOf returns the function that parses the parameters once.
func (c *classCache) parserOf(key [sha256.Size]byte, parameters map[string]string) func() (*class.Class, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parse, known := c.parsed[key]
	if !known {
		if len(c.parsed) >= mostClasses {
			clear(c.parsed)
		}
		parse = sync.OnceValues(func() (*class.Class, error) { return c.parse(parameters) })
		c.parsed[key] = parse
	}
	return parse
}

func (c *classCache) parse(parameters map[string]string) (*class.Class, error) {
	parsed, mistakes, _ := class.Parse(parameters, c.options)
	if len(mistakes) > 0 {
		return nil, class.Error(mistakes)
	}
	return parsed, nil
}
