package emulator

import (
	"crypto"
	"crypto/cipher"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// metadataHost is the instance metadata service.
const metadataHost = "169.254.169.254"

// hostKind is what a host is to the emulator.
type hostKind int

const (
	noHost hostKind = iota
	vaultHost
	authorityHost
)

// state is everything that the emulator knows. All of it is guarded by mu.
type state struct {
	mu          sync.Mutex
	latency     time.Duration
	lifetime    time.Duration
	paging      paging
	suffixes    []string
	authorities []string
	issuers     map[string][]crypto.PublicKey
	tenants     map[string]map[string]*application // by tenant, by client id
	managed     []ManagedIdentity
	vaults      map[string]*vaultState // by host
	faults      []*Fault
	requests    []Request       // the last of them: at most twice maxRequests
	counts      map[string]int  // of all requests, by operation
	revoked     map[string]bool // token ids
	// verified are access tokens whose signature is known to be right.
	verified  map[string]accessClaims
	nextFault int
	sealer    cipher.AEAD
	issuance  time.Duration
	senders   []*sender
	// generation counts what changed that a data directory keeps, and what may have. It is changed after that.
	generation atomic.Uint64
	// clock is the machine's, and ahead is how far the emulator's is ahead of it.
	clock func() time.Time
	ahead time.Duration
}

// now is the emulator's clock. The caller holds the lock.
func (st *state) now() time.Time { return st.clock().Add(st.ahead) }

type application struct {
	Application
	certificates []*x509.Certificate
}

// What is so where the seed does not say: how long access tokens are valid, and how much a page of a list holds.
const (
	defaultLifetime = time.Hour
	defaultPage     = 25
)

func newState(sealer cipher.AEAD) *state {
	return &state{
		clock:    time.Now,
		sealer:   sealer,
		lifetime: defaultLifetime, paging: paging{size: defaultPage},
		suffixes: []string{"vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn"},
		authorities: []string{
			"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net",
			"login.microsoftonline.us", "login.chinacloudapi.cn",
		},
		counts:  map[string]int{},
		issuers: map[string][]crypto.PublicKey{}, tenants: map[string]map[string]*application{},
		vaults: map[string]*vaultState{}, revoked: map[string]bool{}, verified: map[string]accessClaims{},
	}
}

// route is what a host is; known is false for a vault that does not exist.
func (st *state) route(host string) (kind hostKind, known bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if slices.Contains(st.authorities, host) {
		return authorityHost, true
	}
	if _, suffix, ok := strings.Cut(host, "."); ok && slices.Contains(st.suffixes, suffix) {
		_, known := st.vaults[host]
		return vaultHost, known
	}
	return noHost, false
}

// Apply adds a seed to the state.
func (s *Server) Apply(seed Seed) error {
	st := s.state
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.generation.Add(1)
	if seed.Latency > 0 {
		st.latency = time.Duration(seed.Latency)
	}
	if seed.TokenLifetime > 0 {
		st.lifetime = time.Duration(seed.TokenLifetime)
	}
	if seed.Issuance > 0 {
		st.issuance = time.Duration(seed.Issuance)
	}
	if seed.PageSize > 0 {
		st.paging.size = seed.PageSize
	}
	st.paging.short = st.paging.short || seed.ShortPages
	st.suffixes = append(st.suffixes, seed.VaultSuffixes...)
	st.authorities = append(st.authorities, seed.Authorities...)
	var errs []error
	for _, i := range seed.Issuers {
		errs = append(errs, st.addIssuer(i))
	}
	for _, t := range seed.Tenants {
		errs = append(errs, st.addTenant(t))
	}
	st.managed = append(st.managed, seed.ManagedIdentities...)
	for _, v := range seed.Vaults {
		errs = append(errs, st.addVault(v))
	}
	for _, f := range seed.Faults {
		if err := f.Validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		st.addFault(f)
	}
	return errors.Join(errs...)
}

func (st *state) addTenant(t Tenant) error {
	apps, ok := st.tenants[t.ID]
	if !ok {
		apps = map[string]*application{}
		st.tenants[t.ID] = apps
	}
	for _, a := range t.Applications {
		app, err := newApplication(a)
		if err != nil {
			return fmt.Errorf("application %s: %w", a.ClientID, err)
		}
		apps[a.ClientID] = app
	}
	return nil
}

func newApplication(a Application) (*application, error) {
	app := &application{Application: a}
	for _, text := range a.Certificates {
		certificate, err := parseCertificate(text)
		if err != nil {
			return nil, err
		}
		app.certificates = append(app.certificates, certificate)
	}
	return app, nil
}

// networks are the states of a vault's network rules.
var networks = []string{"", "firewall", "private"}

// permissionForm is what a grant may permit.
var permissionForm = regexp.MustCompile(`^(\*|(secrets|keys|certificates)/(get|list|delete|recover|backup|restore|purge|\*)|` +
	`secrets/set|keys/(create|import|update|sign|verify|encrypt|decrypt|wrapKey|unwrapKey|rotate|getrotationpolicy|` +
	`setrotationpolicy)|certificates/(create|import|update|getissuers|listissuers|setissuers|deleteissuers|manageissuers|managecontacts))$`)

func checkPermissions(permissions []string) error {
	for _, p := range permissions {
		if !permissionForm.MatchString(p) {
			return fmt.Errorf("unknown permission %q: such as secrets/get, keys/list, certificates/* or *", p)
		}
	}
	return nil
}

func checkNetwork(network string) error {
	if !slices.Contains(networks, network) {
		return fmt.Errorf("unknown network %q: firewall, private, or empty", network)
	}
	return nil
}

func checkRetention(days int) error {
	if days != 0 && (days < 7 || days > retention) {
		return fmt.Errorf("%d days are not between 7 and %d", days, retention)
	}
	return nil
}

func (v Vault) check() error {
	errs := []error{checkNetwork(v.Network), checkRetention(v.RetentionDays)}
	for _, g := range v.Grants {
		errs = append(errs, checkPermissions(g.Permissions))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("vault %s: %w", v.Name, err)
	}
	return nil
}

func (st *state) newVault(host, name string) *vaultState {
	v := &vaultState{
		host: host, name: name, grants: map[string][]string{}, objects: map[objectKey]*object{}, now: st.now,
		retention: retention, sealer: st.sealer, issuers: map[string]*issuerBody{}, issuance: &st.issuance,
	}
	v.created = func(kind, name string, n *version) { st.created(v, kind, name, n) }
	v.issued = func() { st.generation.Add(1) }
	st.vaults[host] = v
	return v
}

func (st *state) addVault(v Vault) error {
	if err := v.check(); err != nil {
		return err
	}
	vs, ok := st.vaults[v.host()]
	if !ok {
		vs = st.newVault(v.host(), v.Name)
	}
	vs.tenant, vs.policies, vs.network = v.Tenant, v.Policies, v.Network
	if v.RetentionDays != 0 {
		vs.retention = v.RetentionDays
	}
	vs.purgeProtection = vs.purgeProtection || v.PurgeProtection
	for _, g := range v.Grants {
		vs.grants[g.ClientID] = append(vs.grants[g.ClientID], g.Permissions...)
	}
	var errs []error
	for _, secret := range v.Secrets {
		vs.addSecret(secret)
	}
	for _, key := range v.Keys {
		errs = append(errs, vs.addKey(key))
	}
	for _, certificate := range v.Certificates {
		errs = append(errs, vs.addCertificate(certificate))
	}
	return errors.Join(errs...)
}

func (st *state) addFault(f Fault) string {
	if f.ID == "" {
		st.nextFault++
		f.ID = "fault-" + strconv.Itoa(st.nextFault)
	}
	st.faults = append(st.faults, &f)
	return f.ID
}

// fault returns the first fault that matches the request, counted down, and how long the answer is to wait.
func (st *state) fault(r *Request) (*Fault, time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delay := st.latency
	for i, f := range st.faults {
		if f.Kind == FaultConnect || f.Host != "" && !strings.EqualFold(f.Host, r.Host) ||
			f.Operation != "" && f.Operation != r.Operation && !strings.HasPrefix(r.Operation, f.Operation+" ") ||
			f.Name != "" && !strings.EqualFold(f.Name, r.Name) || f.Kind == FaultFailover && changeName(r.Operation) == "" {
			continue
		}
		copied := *f
		if f.Kind == FaultFailover && f.Message == "" {
			copied.Message = fmt.Sprintf("Operation %q is unavailable: the service is currently in a read-only state.", changeName(r.Operation))
		}
		if f.Count > 0 {
			if f.Count--; f.Count == 0 {
				st.faults = slices.Delete(st.faults, i, i+1)
			}
		}
		if f.Kind == FaultLatency {
			return &copied, time.Duration(f.Delay)
		}
		return &copied, delay
	}
	return nil, delay
}

// connectFault returns the status that CONNECT to the host is to be refused with, or 0.
func (st *state) connectFault(host string) int {
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, f := range st.faults {
		if f.Kind != FaultConnect || f.Host != "" && !strings.EqualFold(f.Host, host) {
			continue
		}
		status := f.Status
		if status == 0 {
			status = http.StatusBadGateway
		}
		if f.Count > 0 {
			if f.Count--; f.Count == 0 {
				st.faults = slices.Delete(st.faults, i, i+1)
			}
		}
		return status
	}
	return 0
}

func (st *state) log(r Request) {
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.counts[r.Operation]++
	if len(st.requests) >= 2*maxRequests {
		st.requests = append(make([]Request, 0, 2*maxRequests), st.requests[maxRequests:]...)
	}
	st.requests = append(st.requests, r)
}

// maxRequests is how many requests the log has at least, once there were as many. Older ones are forgotten, but counted.
const maxRequests = 20000

// The methods below are the control API for Go; control.go serves the same over HTTP.

// SetSecret adds a version of a secret, which becomes the current one, and returns the version.
func (s *Server) SetSecret(vault string, secret Secret) (string, error) {
	var version string
	err := s.withVault(vault, func(v *vaultState) error {
		version = v.addSecret(secret)
		return nil
	})
	return version, err
}

// SetKey adds a version of a key and returns the version.
func (s *Server) SetKey(vault string, key Key) error {
	return s.withVault(vault, func(v *vaultState) error { return v.addKey(key) })
}

// SetCertificate adds a version of a certificate.
func (s *Server) SetCertificate(vault string, certificate Certificate) error {
	return s.withVault(vault, func(v *vaultState) error { return v.addCertificate(certificate) })
}

// Disable switches a version of an object off or on; all versions where the id is empty. The kind is secrets, keys or
// certificates; with a certificate, its secret and its key are switched.
func (s *Server) Disable(vault, kind, name, id string, disabled bool) error {
	return s.withVault(vault, func(v *vaultState) error {
		o, err := v.find(kind, name)
		if err != nil {
			return err
		}
		if op := o.operation; op != nil && !op.done && !disabled {
			v.issue(o)
		}
		return v.update(kind, v.withSides(kind, o), id, func(n *version) {
			n.disabled = disabled
			n.pending = n.pending && disabled
		})
	})
}

// Attributes are what SetAttributes changes of a version. What is nil stays.
type Attributes struct {
	Tags        map[string]string `json:"tags"`
	ContentType *string           `json:"contentType"`
	NotBefore   *time.Time        `json:"notBefore"`
	Expires     *time.Time        `json:"expires"`
}

// SetAttributes changes the attributes of a version of an object, of all versions where the id is empty, as an update
// (PATCH) does: their time of update moves.
func (s *Server) SetAttributes(vault, kind, name, id string, a Attributes) error {
	return s.withVault(vault, func(v *vaultState) error {
		o, err := v.find(kind, name)
		if err != nil {
			return err
		}
		return v.update(kind, []*object{o}, id, func(n *version) {
			if a.Tags != nil {
				n.tags = a.Tags
			}
			if a.ContentType != nil {
				n.contentType = *a.ContentType
			}
			if a.NotBefore != nil {
				n.notBefore = *a.NotBefore
			}
			if a.Expires != nil {
				n.expires = *a.Expires
			}
		})
	})
}

// Delete deletes an object, or recovers it; with a certificate, its secret and its key too.
func (s *Server) Delete(vault, kind, name string, deleted bool) error {
	return s.withVault(vault, func(v *vaultState) error {
		o, err := v.find(kind, name)
		if err == nil {
			v.remove(kind, o, deleted)
		}
		return err
	})
}

// Grant sets the permissions of an identity on a vault; none revokes all.
func (s *Server) Grant(vault, clientID string, permissions ...string) error {
	if err := checkPermissions(permissions); err != nil {
		return err
	}
	return s.withVault(vault, func(v *vaultState) error {
		v.grants[clientID] = permissions
		return nil
	})
}

// SetNetwork closes a vault to the network ("firewall" or "private"), or opens it ("").
func (s *Server) SetNetwork(vault, network string) error {
	if err := checkNetwork(network); err != nil {
		return err
	}
	return s.withVault(vault, func(v *vaultState) error {
		v.network = network
		return nil
	})
}

func (s *Server) withVault(name string, f func(*vaultState) error) error {
	defer s.state.generation.Add(1)
	return s.inVault(name, f)
}

// inVault is withVault for what changes nothing.
func (s *Server) inVault(name string, f func(*vaultState) error) error {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	for host, v := range s.state.vaults {
		if host == strings.ToLower(name) || strings.EqualFold(v.name, name) {
			return f(v)
		}
	}
	return fmt.Errorf("no vault %q", name)
}

// SetLatency changes what is added to every answer.
func (s *Server) SetLatency(d time.Duration) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.latency = d
}

// AdvanceClock moves the emulator's clock: tokens, assertions and client secrets end earlier.
func (s *Server) AdvanceClock(d time.Duration) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.ahead += d
	s.state.generation.Add(1)
}

// AddFault injects a fault and returns its id.
func (s *Server) AddFault(f Fault) string {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return s.state.addFault(f)
}

// ClearFaults removes all faults.
func (s *Server) ClearFaults() {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.faults = nil
}

// Requests returns the request log: the last 20,000 requests or more.
func (s *Server) Requests() []Request {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return slices.Clone(s.state.requests)
}

// Counts returns how many requests each operation had.
func (s *Server) Counts() map[string]int {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return maps.Clone(s.state.counts)
}

// ResetRequests empties the request log.
func (s *Server) ResetRequests() {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.requests, s.state.counts = nil, map[string]int{}
}

// RevokeTokens makes all tokens that were given so far invalid.
func (s *Server) RevokeTokens() {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	for id := range maps.Keys(s.state.revoked) {
		s.state.revoked[id] = true
	}
}
