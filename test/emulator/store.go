package emulator

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The files in the directory, and the version of the form of the state.
const (
	stateFile   = "state.json"
	lockName    = "lock"
	stateFormat = 1
)

// store keeps the state in a directory. Its zero value keeps nothing.
type store struct {
	dir string
	// lock keeps other emulators out of the directory.
	lock *os.File

	mu sync.Mutex
	// saved is the generation of the state that the file has.
	saved uint64
}

type savedState struct {
	Format int `json:"format"`
	// Ahead is the clock's.
	Ahead  Duration `json:"ahead"`
	Sealer []byte   `json:"sealer"`
	// Certificate and Key are the authority's, in PEM; empty where they were given.
	Certificate []byte       `json:"certificate,omitempty"`
	Key         []byte       `json:"key,omitempty"`
	Vaults      []savedVault `json:"vaults"`
}

type savedVault struct {
	Host            string                 `json:"host"`
	Name            string                 `json:"name"`
	Tenant          string                 `json:"tenant"`
	Policies        bool                   `json:"policies,omitempty"`
	Network         string                 `json:"network,omitempty"`
	Grants          map[string][]string    `json:"grants"`
	Retention       int                    `json:"retention"`
	PurgeProtection bool                   `json:"purgeProtection,omitempty"`
	Issuers         map[string]*issuerBody `json:"issuers,omitempty"`
	Contacts        *contactsBody          `json:"contacts,omitempty"`
	Objects         []savedObject          `json:"objects"`
}

type savedObject struct {
	backupObject

	Deleted   bool      `json:"deleted,omitempty"`
	DeletedAt time.Time `json:"deletedAt,omitzero"`
	// OperationGone is true where nothing is known of how a certificate was made.
	OperationGone bool `json:"operationGone,omitempty"`
}

// openStore makes the directory where there is none, and locks it.
func openStore(dir string) (*store, error) {
	s := &store{dir: dir}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	locked, err := lockFile(f)
	switch {
	case err != nil:
		err = fmt.Errorf("data directory: lock %s: %w", f.Name(), err)
	case !locked:
		err = fmt.Errorf("data directory: another emulator uses %s: stop it, or give each its own", dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.lock = f
	return s, nil
}

// close lets others use the directory.
func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}

// readState returns the state of a directory. A state with a key for backups alone
// is a new one.
func readState(dir string) (saved savedState, err error) {
	saved = savedState{Format: stateFormat, Sealer: make([]byte, 32)}
	_, _ = rand.Read(saved.Sealer)
	if dir == "" {
		return saved, nil
	}
	left, err := filepath.Glob(filepath.Join(dir, stateFile+".*.tmp"))
	if err != nil {
		return saved, fmt.Errorf("data directory: %w", err)
	}
	for _, name := range left { // of an emulator that was killed
		if err := os.Remove(name); err != nil {
			return saved, fmt.Errorf("data directory: %w", err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return saved, nil
	}
	if err != nil {
		return saved, fmt.Errorf("data directory: %w", err)
	}
	var read savedState
	if err := json.Unmarshal(text, &read); err != nil {
		return saved, fmt.Errorf("data directory: %s is not a state of the emulator (remove it to begin anew): %w",
			filepath.Join(dir, stateFile), err)
	}
	if read.Format != stateFormat || len(read.Sealer) != len(saved.Sealer) {
		return saved, fmt.Errorf("data directory: %s is of another version of the emulator: remove it to begin anew",
			filepath.Join(dir, stateFile))
	}
	return read, nil
}

// authority is the one of the state, while it is valid, or a new one.
func (saved *savedState) authority() (*authority, error) {
	if len(saved.Certificate) > 0 {
		a, err := readAuthority(saved.Certificate, saved.Key)
		if err != nil {
			return nil, err
		}
		if !a.endsSoon() {
			return a, nil
		}
	}
	a, err := newAuthority(authorityName)
	if err != nil {
		return nil, err
	}
	saved.Certificate = a.pem
	saved.Key, err = a.keyPEM()
	return a, err
}

// load puts the vaults of a saved state into the state.
func (st *state) load(saved *savedState) error {
	st.ahead = time.Duration(saved.Ahead)
	for i := range saved.Vaults {
		one := &saved.Vaults[i]
		v := st.newVault(one.Host, one.Name)
		v.tenant, v.policies, v.network = one.Tenant, one.Policies, one.Network
		v.retention, v.purgeProtection, v.contacts = one.Retention, one.PurgeProtection, one.Contacts
		if one.Grants != nil {
			v.grants = one.Grants
		}
		if one.Issuers != nil {
			v.issuers = one.Issuers
		}
		for j := range one.Objects {
			kept := &one.Objects[j]
			o, err := kept.load()
			if err != nil {
				return fmt.Errorf("data directory: vault %s: %s %s: %w", one.Name, kept.Kind, kept.Name, err)
			}
			o.deleted, o.deletedAt, o.operationGone = kept.Deleted, kept.DeletedAt, kept.OperationGone
			v.put(kept.Kind, o)
		}
	}
	return nil
}

// save is what is kept of the state. The caller holds the lock.
func (st *state) save(saved *savedState) error {
	saved.Ahead, saved.Vaults = Duration(st.ahead), nil
	for host, v := range st.vaults {
		one := savedVault{
			Host: host, Name: v.name, Tenant: v.tenant, Policies: v.policies, Network: v.network, Grants: v.grants,
			Retention: v.retention, PurgeProtection: v.purgeProtection, Issuers: v.issuers, Contacts: v.contacts,
		}
		for key, o := range v.objects {
			kept, err := o.save(key.kind)
			if err != nil {
				return err
			}
			if len(kept.Versions) > 0 {
				one.Objects = append(one.Objects, savedObject{
					backupObject: kept, Deleted: o.deleted, DeletedAt: o.deletedAt, OperationGone: o.operationGone,
				})
			}
		}
		saved.Vaults = append(saved.Vaults, one)
	}
	return nil
}

// persist writes the state where it has changed since it was written. A request that changes something is answered
// after that; several that wait are written at once.
func (s *Server) persist() error {
	if s.store.dir == "" {
		return nil
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	generation := s.state.generation.Load()
	if generation == s.store.saved {
		return nil
	}
	text, err := s.marshalState()
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := replaceFile(filepath.Join(s.store.dir, stateFile), text); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	s.store.saved = generation
	return nil
}

func (s *Server) marshalState() ([]byte, error) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	if err := s.state.save(&s.savedState); err != nil {
		return nil, err
	}
	text, err := json.Marshal(&s.savedState)
	s.savedState.Vaults = nil
	return text, err
}

// replaceFile puts a file in the place of another one, which is whole until then.
func replaceFile(name string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.tmp") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// vaultsOf are the vaults of a seed that a state has.
func (s *Seed) vaultsOf(st *state) (known []Vault) {
	for _, v := range s.Vaults {
		if _, ok := st.vaults[v.host()]; ok {
			known = append(known, v)
		}
	}
	return known
}

// host is the vault's host name.
func (v Vault) host() string {
	suffix := v.Suffix
	if suffix == "" {
		suffix = "vault.azure.net"
	}
	return strings.ToLower(v.Name) + "." + suffix
}
