package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// Inspection is what was found on the way from a class to its files. It is complete even where parts fail.
type Inspection struct {
	// Identity names who asks, empty where the class and the request name no identity; Caller is for whom a token was
	// given.
	Identity string
	Caller   identity.Caller
	// IdentityErr is why there is no token; nil where there is one.
	IdentityErr *volume.Error
	Vaults      []VaultInspection
	Objects     []ObjectInspection
	// Templates are the paths of the class's templates. TemplatesErr is why they make no files; nil where they do.
	// TemplatesSkipped is true where they were not tried, because an object is not there to read.
	Templates        []string
	TemplatesErr     *volume.Error
	TemplatesSkipped bool
	// Warnings are those of the class.
	Warnings []string
}

// ObjectInspection is what came of one object of the class, in the class's order.
type ObjectInspection struct {
	// ID is "<type>/<name>", Vault the vault's host, Path the file.
	ID, Vault, Path string
	// Versions are what the vault gave: one, or a history.
	Versions []volume.Object
	// Warnings are those of the content.
	Warnings []string
	// Err is why the object cannot be delivered, nil where it can.
	Err *volume.Error
	// Skipped is true where the object was not asked for, because there is no identity, or no way to the vault.
	Skipped bool
}

// Inspector inspects several classes, at once too, and looks at the way to each vault once. It is for tools.
type Inspector struct {
	provider *Provider

	mu     sync.Mutex
	vaults map[string]func() VaultInspection
}

// Inspector returns one that has seen no vault.
func (p *Provider) Inspector() *Inspector {
	return &Inspector{provider: p, vaults: map[string]func() VaultInspection{}}
}

// vault looks at the way to a vault, once for all classes.
func (i *Inspector) vault(ctx context.Context, vaultURL string) VaultInspection {
	i.mu.Lock()
	look, known := i.vaults[vaultURL]
	if !known {
		look = sync.OnceValue(func() VaultInspection { return i.provider.inspectVault(ctx, vaultURL) })
		i.vaults[vaultURL] = look
	}
	i.mu.Unlock()
	return look()
}

// Inspect looks at each step of a fetch by itself: the identity's token, the way to each vault, each object. It goes on
// after failures, and asks each thing once. It returns an error, of type *volume.Error, only where the class makes no
// sense.
func (i *Inspector) Inspect(ctx context.Context, req volume.Request) (*Inspection, error) {
	p := i.provider
	parsed, err := p.parse(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.options.FetchTimeout)
	defer cancel()
	ctx = limiter.WithUrgency(ctx, false) // what fails is not tried again
	in := &Inspection{}
	for _, w := range parsed.Warnings {
		in.Warnings = append(in.Warnings, w.String())
	}
	b := &binding{provider: p, class: parsed}
	vaults := vaultsOf(parsed)
	in.Vaults = make([]VaultInspection, len(vaults))
	var work sync.WaitGroup
	work.Go(func() { in.IdentityErr = p.inspectIdentity(ctx, b, req, in) })
	for at, v := range vaults {
		work.Go(func() { in.Vaults[at] = i.vault(ctx, v) })
	}
	work.Wait()
	unreachable := map[string]bool{}
	for i := range in.Vaults {
		v := &in.Vaults[i]
		unreachable[v.Host] = v.Err != nil
		if own := in.Caller.Tenant; v.Err == nil && (vault.Challenge{Tenant: v.Tenant}).OtherTenant(own) {
			v.Err = &volume.Error{
				Reason: volume.ReasonIdentity,
				Message: fmt.Sprintf("vault %s belongs to tenant %s, and the token is of tenant "+
					"%s: set tenantID to the vault's tenant, and use an identity of it", v.Host, v.Tenant, own),
			}
		}
	}
	in.Objects = make([]ObjectInspection, len(b.class.Objects))
	f := b.newFetch(volume.FetchOptions{})
	for i := range b.class.Objects {
		work.Go(func() {
			in.Objects[i] = f.inspect(ctx, i, in.IdentityErr != nil || unreachable[host(b.class.Objects[i].VaultURL)])
		})
	}
	work.Wait()
	f.inspectTemplates(ctx, in)
	return in, nil
}

// inspectTemplates makes the files of the templates, where their objects are there.
func (f *fetch) inspectTemplates(ctx context.Context, in *Inspection) {
	for _, t := range f.class.Templates {
		in.Templates = append(in.Templates, t.Path)
	}
	in.TemplatesSkipped = slices.ContainsFunc(in.Objects, func(o ObjectInspection) bool { return o.Err != nil || o.Skipped })
	if in.TemplatesSkipped || len(in.Templates) == 0 {
		return
	}
	slices.SortFunc(f.bundle.Files, func(a, b volume.File) int { return strings.Compare(a.Path, b.Path) })
	if err := f.provider.safe.Do(ctx, "make files from templates", func() error { return f.templates(ctx) }); err != nil {
		in.TemplatesErr = asError(err)
	}
}

// inspectIdentity resolves the binding's identity and asks for its token.
func (p *Provider) inspectIdentity(ctx context.Context, b *binding, req volume.Request, in *Inspection) *volume.Error {
	err := p.safe.Do(ctx, "get the identity's token", func() (err error) {
		if b.identity, err = p.identify(ctx, b.class, req); err != nil {
			return err
		}
		in.Identity = b.identity.String()
		token, err := b.identity.GetToken(ctx,
			policy.TokenRequestOptions{Scopes: []string{b.class.Cloud.Scope}, EnableCAE: true})
		if err != nil {
			return err
		}
		in.Caller = identity.CallerOf(token)
		return nil
	})
	if err != nil {
		return asError(err)
	}
	return nil
}

// inspectVault looks at the way to a vault.
func (p *Provider) inspectVault(ctx context.Context, vaultURL string) (v VaultInspection) {
	err := p.safe.Do(ctx, "reach vault "+host(vaultURL), func() error {
		v = p.reach(ctx, vaultURL)
		return nil
	})
	if err != nil {
		return VaultInspection{Host: host(vaultURL), Err: asError(err)}
	}
	return v
}

// vaultsOf are the base URLs of the class's vaults, sorted.
func vaultsOf(c *class.Class) []string {
	var all []string
	for _, o := range c.Objects {
		if !slices.Contains(all, o.VaultURL) {
			all = append(all, o.VaultURL)
		}
	}
	slices.Sort(all)
	return all
}

func (f *fetch) inspect(ctx context.Context, index int, skip bool) ObjectInspection {
	o := &f.class.Objects[index]
	found := ObjectInspection{ID: string(o.Kind) + "/" + o.Name, Vault: host(o.VaultURL), Path: o.Path, Skipped: skip}
	if o.Selector != nil {
		found.ID = string(o.Kind) + "/" + o.Selector.String()
	}
	if skip {
		return found
	}
	for _, got := range f.resolve(ctx, o) {
		if got.err != nil {
			found.Err = asError(got.err)
			return found
		}
		if got.absent != nil {
			found.Warnings = append(found.Warnings, "it is optional, and there is none now: "+got.absent.Message)
			f.inspected(nil, got.object.Paths())
		}
		for i, a := range got.versions {
			made, err := f.render(ctx, got.object, i, a, got.exact)
			if err != nil {
				found.Err = asError(err)
				return found
			}
			f.inspected(made.files, made.absent)
			found.Versions = append(found.Versions, made.object)
			found.Warnings = append(found.Warnings, made.warnings...)
		}
	}
	return found
}

// inspected keeps what an object makes, for the templates.
func (f *fetch) inspected(files []volume.File, absent []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bundle.Files = append(f.bundle.Files, files...)
	f.bundle.Absent = append(f.bundle.Absent, absent...)
}
