package emulator

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// mostProblems is how many mistakes of a seed its error names.
const mostProblems = 5

// SeedChanges counts what Reload changed.
type SeedChanges struct {
	// Vaults were added, deleted, or got other settings or grants.
	Vaults int
	// Versions are new versions of objects, and Deleted are objects that were deleted.
	Versions, Deleted int
	// Others are settings, issuers, tenants, applications, identities and faults that were added, changed or removed.
	Others int
}

// Reload puts a seed in the place of the one that the server began with, or of the last one that was reloaded. Only
// what differs between the two is changed, so that what was changed through an API stays:
//
//   - An object whose entries changed gets them as new versions, from the first entry on that differs; the last one is
//     current. An entry with a version that the object has takes its place. An object that was deleted is recovered.
//   - An object, vault, application or other entry that is gone is deleted; objects can be recovered.
//   - A setting, grant, application or issuer that changed becomes what the seed says.
//
// A seed that is not valid changes nothing. The error has no line breaks and names each mistake by its field.
func (s *Server) Reload(seed Seed) (SeedChanges, error) {
	s.seeding.Lock()
	defer s.seeding.Unlock()
	changes, err := s.replaceSeed(seed)
	if err != nil {
		return SeedChanges{}, err
	}
	if err := s.persist(); err != nil {
		return changes, fmt.Errorf("what the seed changed is not kept: %w", err)
	}
	return changes, nil
}

// replaceSeed is Reload without writing to the data directory. The caller holds seeding.
func (s *Server) replaceSeed(seed Seed) (SeedChanges, error) {
	var p seedPlan
	seed.Issuers = p.readIssuers(seed.Issuers)
	p.compare(&s.seed, &seed)
	if err := p.err(); err != nil {
		return SeedChanges{}, err
	}
	defer s.state.generation.Add(1)
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	for _, change := range p.changes {
		change(s.state)
	}
	s.seed = seed
	return p.count, nil
}

// seedPlan is what has to be done so that the state follows a seed. What can fail, or takes long, is done while it is made: its changes
// only have to be called, with the state's lock.
type seedPlan struct {
	changes  []func(*state)
	problems []string
	count    SeedChanges
}

func (p *seedPlan) do(change func(*state)) { p.changes = append(p.changes, change) }

// other adds a change that SeedChanges counts among the others.
func (p *seedPlan) other(change func(*state)) {
	p.count.Others++
	p.do(change)
}

func (p *seedPlan) problem(field string, err error) {
	if err != nil {
		p.problems = append(p.problems, field+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

func (p *seedPlan) err() error {
	if len(p.problems) == 0 {
		return nil
	}
	return &SeedError{p.problems}
}

// SeedError is what is wrong with a seed.
type SeedError struct {
	// Problems begin with the field, such as vaults[contoso].network.
	Problems []string
}

// Error names the first problems in one line.
func (e *SeedError) Error() string {
	shown, more := e.Problems, ""
	if n := len(shown) - mostProblems; n > 0 {
		shown, more = shown[:mostProblems], fmt.Sprintf("; and %d more", n)
	}
	return "seed: " + strings.Join(shown, "; ") + more
}

// readIssuers puts the content of files in the place of their names, so that another content is another issuer.
func (p *seedPlan) readIssuers(issuers []Issuer) []Issuer {
	read := slices.Clone(issuers)
	for i := range read {
		if read[i].File == "" {
			continue
		}
		text, err := readFile(read[i].File)
		p.problem(issuerField(read[i].Issuer)+".file", err)
		read[i].PublicKey, read[i].File = read[i].PublicKey+string(text), ""
	}
	return read
}

func issuerField(name string) string { return "issuers[" + name + "]" }

func (p *seedPlan) compare(was, is *Seed) {
	setting(p, "latency", was.Latency, is.Latency, func(st *state, v Duration) { st.latency = time.Duration(v) })
	setting(p, "tokenLifetime", was.TokenLifetime, is.TokenLifetime, func(st *state, v Duration) {
		st.lifetime = cmp.Or(time.Duration(v), defaultLifetime)
	})
	setting(p, "issuance", was.Issuance, is.Issuance, func(st *state, v Duration) { st.issuance = time.Duration(v) })
	setting(p, "pageSize", was.PageSize, is.PageSize, func(st *state, v int) { st.paging.size = cmp.Or(v, defaultPage) })
	if was.ShortPages != is.ShortPages {
		p.other(func(st *state) { st.paging.short = is.ShortPages })
	}
	p.list("vaultSuffixes", was.VaultSuffixes, is.VaultSuffixes, func(st *state) *[]string { return &st.suffixes })
	p.list("authorities", was.Authorities, is.Authorities, func(st *state) *[]string { return &st.authorities })

	compare(was.Issuers, is.Issuers, func(i Issuer) string { return i.Issuer }, p.issuer)
	compare(was.Tenants, is.Tenants, func(t Tenant) string { return t.ID }, p.tenant)
	compare(was.ManagedIdentities, is.ManagedIdentities, func(m ManagedIdentity) string { return m.ClientID + m.ResourceID },
		func(_ string, was, is []ManagedIdentity) {
			p.other(func(st *state) {
				st.managed = append(slices.DeleteFunc(st.managed, func(m ManagedIdentity) bool { return slices.Contains(was, m) }), is...)
			})
		})
	compare(was.Vaults, is.Vaults, Vault.host, p.vault)
	compare(was.Faults, is.Faults, func(f Fault) string { return fmt.Sprint(f) }, p.fault)
}

// setting compares a number.
func setting[T ~int | ~int64](p *seedPlan, field string, was, is T, set func(*state, T)) {
	if was == is {
		return
	}
	if is < 0 {
		p.problem(field, fmt.Errorf("%v is negative: write 0 or more", is))
	}
	p.other(func(st *state) { set(st, is) })
}

// list compares hosts to answer for beside Azure's own.
func (p *seedPlan) list(field string, was, is []string, of func(*state) *[]string) {
	if slices.Equal(was, is) {
		return
	}
	if slices.Contains(is, "") {
		p.problem(field, errors.New("a host is empty: remove it"))
	}
	p.other(func(st *state) {
		all := of(st)
		for _, host := range was {
			for i, known := range slices.Backward(*all) { // a host of Azure's may be in the seed too
				if known == host {
					*all = slices.Delete(*all, i, i+1)
					break
				}
			}
		}
		*all = append(*all, is...)
	})
}

func (p *seedPlan) issuer(name string, _, is []Issuer) {
	if is == nil {
		p.other(func(st *state) { delete(st.issuers, name) })
		return
	}
	var keys []crypto.PublicKey
	for _, i := range is {
		found, err := parsePublicKeys([]byte(i.PublicKey + i.JWKS))
		p.problem(issuerField(name), err)
		keys = append(keys, found...)
	}
	if name == "" {
		p.problem("issuers", errors.New("issuer is empty: write the URL that tokens have as iss"))
	}
	p.other(func(st *state) { st.issuers[name] = keys })
}

func (p *seedPlan) tenant(id string, was, is []Tenant) {
	field := "tenants[" + id + "]"
	if id == "" {
		p.problem("tenants", errors.New("id is empty: write the tenant's id, or adfs"))
	}
	if was == nil {
		p.other(func(st *state) {
			if st.tenants[id] == nil {
				st.tenants[id] = map[string]*application{}
			}
		})
	}
	applications := func(tenants []Tenant) (all []Application) {
		for _, t := range tenants {
			all = append(all, t.Applications...)
		}
		return all
	}
	compare(applications(was), applications(is), func(a Application) string { return a.ClientID }, func(client string, _, is []Application) {
		if is == nil {
			p.other(func(st *state) { delete(st.tenants[id], client) })
			return
		}
		if client == "" {
			p.problem(field+".applications", errors.New("clientID is empty"))
		}
		app, err := newApplication(is[len(is)-1])
		p.problem(field+".applications["+client+"].certificates", err)
		p.other(func(st *state) { st.tenants[id][client] = app })
	})
	if is == nil {
		p.other(func(st *state) {
			if len(st.tenants[id]) == 0 { // else it has applications of the control API
				delete(st.tenants, id)
			}
		})
	}
}

func (p *seedPlan) fault(key string, _, is []Fault) {
	p.other(func(st *state) {
		st.faults = slices.DeleteFunc(st.faults, func(f *Fault) bool { return f.seeded == key })
		for _, f := range is {
			f.seeded = key
			st.addFault(f)
		}
	})
	for _, f := range is {
		p.problem("faults", f.Validate())
	}
}

func (p *seedPlan) vault(host string, was, is []Vault) {
	if is == nil {
		p.count.Vaults++
		p.do(func(st *state) { delete(st.vaults, host) })
		return
	}
	first, last := is[0], is[len(is)-1]
	field := "vaults[" + first.Name + "]"
	if !nameForm.MatchString(first.Name) {
		p.problem(field+".name", errors.New("a vault's name has letters, digits and hyphens"))
	}
	var settings vaultSettings
	for _, v := range is {
		p.problem(field+".network", checkNetwork(v.Network))
		p.problem(field+".retentionDays", checkRetention(v.RetentionDays))
		for _, g := range v.Grants {
			p.problem(field+".grants["+g.ClientID+"].permissions", checkPermissions(g.Permissions))
		}
		settings.add(v)
	}
	var before vaultSettings
	for _, v := range was {
		before.add(v)
	}
	if before.purgeProtection && !settings.purgeProtection {
		p.problem(field+".purgeProtection", errors.New("it cannot be switched off: write true, or remove the vault and add it again"))
	}
	changed := was == nil || before != settings
	p.do(func(st *state) {
		v, ok := st.vaults[host]
		if !ok { // new, or deleted through the control API
			v = st.newVault(host, last.Name)
		}
		if changed {
			settings.apply(v)
		}
	})
	grants := func(vaults []Vault) (all []Grant) {
		for _, v := range vaults {
			all = append(all, v.Grants...)
		}
		return all
	}
	compare(grants(was), grants(is), func(g Grant) string { return g.ClientID }, func(client string, _, is []Grant) {
		var permissions []string
		for _, g := range is {
			permissions = append(permissions, g.Permissions...)
		}
		changed = true
		p.do(func(st *state) {
			if is == nil {
				delete(st.vaults[host].grants, client)
				return
			}
			st.vaults[host].grants[client] = permissions
		})
	})
	if changed {
		p.count.Vaults++
	}
	p.objects(host, field, was, is)
}

// vaultSettings are what a seed says of a vault beside grants and objects.
type vaultSettings struct {
	tenant, network           string
	policies, purgeProtection bool
	retention                 int
}

// add takes the settings of one more entry of the same vault.
func (s *vaultSettings) add(v Vault) {
	s.tenant, s.network, s.policies = v.Tenant, v.Network, v.Policies
	s.retention = cmp.Or(v.RetentionDays, s.retention, retention)
	s.purgeProtection = s.purgeProtection || v.PurgeProtection
}

func (s vaultSettings) apply(v *vaultState) {
	v.tenant, v.network, v.policies, v.retention, v.purgeProtection = s.tenant, s.network, s.policies, s.retention, s.purgeProtection
}

// objects compares the objects of a vault.
func (p *seedPlan) objects(host, field string, was, is []Vault) {
	var had, has struct {
		secrets      []Secret
		keys         []Key
		certificates []Certificate
	}
	for _, v := range was {
		had.secrets, had.keys = append(had.secrets, v.Secrets...), append(had.keys, v.Keys...)
		had.certificates = append(had.certificates, v.Certificates...)
	}
	for _, v := range is {
		has.secrets, has.keys = append(has.secrets, v.Secrets...), append(has.keys, v.Keys...)
		has.certificates = append(has.certificates, v.Certificates...)
	}
	compareObjects(p, host, field, "secrets", had.secrets, has.secrets, func(s Secret) string { return s.Name },
		func(s Secret) (func(*vaultState), error) {
			return func(v *vaultState) {
				v.replace("secrets", s.Name, s.Version)
				v.addSecret(s)
			}, nil
		})
	compareObjects(p, host, field, "keys", had.keys, has.keys, func(k Key) string { return k.Name },
		func(k Key) (func(*vaultState), error) {
			n, err := newKeyVersion(k)
			return func(v *vaultState) {
				v.replace("keys", k.Name, k.Version)
				v.add("keys", k.Name, n)
			}, err
		})
	compareObjects(p, host, field, "certificates", had.certificates, has.certificates, func(c Certificate) string { return c.Name },
		func(c Certificate) (func(*vaultState), error) {
			made, err := makeCertificate(c)
			return func(v *vaultState) {
				for _, kind := range []string{"certificates", "secrets", "keys"} {
					v.replace(kind, c.Name, c.Version)
				}
				v.addMade(c, made)
			}, err
		})
}

// compareObjects compares the objects of a kind. add makes what adds a version.
func compareObjects[T any](p *seedPlan, host, field, kind string, was, is []T, name func(T) string,
	add func(T) (func(*vaultState), error),
) {
	key := func(one T) string { return strings.ToLower(name(one)) }
	compare(was, is, key, func(_ string, was, is []T) {
		if is == nil {
			p.count.Deleted++
			p.do(func(st *state) {
				v := st.vaults[host]
				if o, err := v.find(kind, name(was[0])); err == nil && !o.deleted {
					v.remove(kind, o, true)
				}
			})
			return
		}
		field := field + "." + kind + "[" + name(is[0]) + "]"
		if !nameForm.MatchString(name(is[0])) {
			p.problem(field+".name", errors.New("a name has up to 127 letters, digits and hyphens"))
		}
		same := 0
		for same < min(len(was), len(is)-1) && reflect.DeepEqual(was[same], is[same]) {
			same++
		}
		for _, one := range is[same:] {
			change, err := add(one)
			p.problem(field, err)
			p.count.Versions++
			p.do(func(st *state) {
				v := st.vaults[host]
				if o, err := v.find(kind, name(one)); err == nil && o.deleted {
					v.remove(kind, o, false)
				}
				change(v)
			})
		}
	})
}

// replace removes a version that another one with its id is to take the place of.
func (v *vaultState) replace(kind, name, id string) {
	o, ok := v.objects[objectKey{kind, strings.ToLower(name)}]
	if !ok || id == "" {
		return
	}
	o.versions = slices.DeleteFunc(o.versions, func(n *version) bool { return n.id == id })
}

// compare calls changed for each key whose entries differ, in the order of the entries: with none (nil) for what is new
// or gone. What is gone comes first.
func compare[T any](was, is []T, key func(T) string, changed func(key string, was, is []T)) {
	order, before := group(was, key)
	names, now := group(is, key)
	for _, name := range order {
		if now[name] == nil {
			changed(name, before[name], nil)
		}
	}
	for _, name := range names {
		if !reflect.DeepEqual(before[name], now[name]) {
			changed(name, before[name], now[name])
		}
	}
}

func group[T any](all []T, key func(T) string) (order []string, groups map[string][]T) {
	groups = map[string][]T{}
	for _, one := range all {
		name := key(one)
		if groups[name] == nil {
			order = append(order, name)
		}
		groups[name] = append(groups[name], one)
	}
	return order, groups
}
