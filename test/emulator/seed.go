package emulator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Seed is the state to begin with, as a YAML file has it. docs/emulator.md describes it.
type Seed struct {
	// Latency is added to every answer.
	Latency Duration `yaml:"latency"`
	// TokenLifetime is that of access tokens; one hour where 0.
	TokenLifetime Duration `yaml:"tokenLifetime"`
	// Issuance is how long a vault takes to issue a self-signed certificate: by then it is in progress.
	Issuance Duration `yaml:"issuance"`
	// PageSize is the most that a list's page holds; 25 where 0.
	PageSize int `yaml:"pageSize"`
	// ShortPages makes pages of lists empty or not full although more follow, as the service's may be.
	ShortPages bool `yaml:"shortPages"`
	// VaultSuffixes and Authorities are hosts to answer for beside Azure's own.
	VaultSuffixes     []string          `yaml:"vaultSuffixes"`
	Authorities       []string          `yaml:"authorities"`
	Issuers           []Issuer          `yaml:"issuers"`
	Tenants           []Tenant          `yaml:"tenants"`
	ManagedIdentities []ManagedIdentity `yaml:"managedIdentities"`
	Vaults            []Vault           `yaml:"vaults"`
	Faults            []Fault           `yaml:"faults"`
}

// Issuer is an issuer of service account tokens whose keys Entra ID knows.
type Issuer struct {
	Issuer string `yaml:"issuer" json:"issuer"`
	// PublicKey is PEM; JWKS is a JSON Web Key Set. One of them, or the file that holds it.
	PublicKey string `yaml:"publicKey" json:"publicKey,omitempty"`
	JWKS      string `yaml:"jwks" json:"jwks,omitempty"`
	File      string `yaml:"file" json:"file,omitempty"`
}

// Tenant is a directory with its applications.
type Tenant struct {
	ID           string        `yaml:"id" json:"id"`
	Applications []Application `yaml:"applications" json:"applications"`
}

// Application is an application or user-assigned identity that Entra ID gives tokens for.
type Application struct {
	ClientID string `yaml:"clientID" json:"clientID"`
	ObjectID string `yaml:"objectID" json:"objectID,omitempty"`
	// Secrets are client secrets.
	Secrets []ClientSecret `yaml:"secrets" json:"secrets,omitempty"`
	// Certificates are PEM certificates whose key signs client assertions.
	Certificates []string    `yaml:"certificates" json:"certificates,omitempty"`
	Federated    []Federated `yaml:"federated" json:"federated,omitempty"`
}

// ClientSecret is a password of an application.
type ClientSecret struct {
	Value   string    `yaml:"value" json:"value"`
	Expires time.Time `yaml:"expires" json:"expires,omitzero"`
}

// Federated is a federated identity credential.
type Federated struct {
	Issuer  string `yaml:"issuer" json:"issuer"`
	Subject string `yaml:"subject" json:"subject"`
	// Audience is api://AzureADTokenExchange where empty.
	Audience string `yaml:"audience" json:"audience,omitempty"`
}

// ManagedIdentity is assigned to the machine.
type ManagedIdentity struct {
	ClientID   string `yaml:"clientID" json:"clientID"`
	ObjectID   string `yaml:"objectID" json:"objectID,omitempty"`
	ResourceID string `yaml:"resourceID" json:"resourceID,omitempty"`
	// System marks the system-assigned identity.
	System bool `yaml:"system" json:"system,omitempty"`
}

// Vault is a key vault.
type Vault struct {
	Name string `yaml:"name" json:"name"`
	// Suffix is vault.azure.net where empty.
	Suffix string `yaml:"suffix" json:"suffix,omitempty"`
	Tenant string `yaml:"tenant" json:"tenant"`
	// Policies is true for access policies; else the vault uses RBAC. It decides the wording of refusals.
	Policies bool `yaml:"policies" json:"policies,omitempty"`
	// Network is empty, "firewall" or "private": then everybody is refused.
	Network string `yaml:"network" json:"network,omitempty"`
	// RetentionDays is how long what was deleted can be recovered: 7 to 90, and 90 where 0.
	RetentionDays int `yaml:"retentionDays" json:"retentionDays,omitempty"`
	// PurgeProtection refuses to purge what was deleted before the retention is over. It cannot be switched off again.
	PurgeProtection bool `yaml:"purgeProtection" json:"purgeProtection,omitempty"`

	Grants       []Grant       `yaml:"grants" json:"grants,omitempty"`
	Secrets      []Secret      `yaml:"secrets" json:"secrets,omitempty"`
	Keys         []Key         `yaml:"keys" json:"keys,omitempty"`
	Certificates []Certificate `yaml:"certificates" json:"certificates,omitempty"`
}

// Grant permits an identity operations.
type Grant struct {
	// ClientID names the identity.
	ClientID string `yaml:"clientID" json:"clientID"`
	// Permissions are such as secrets/get, secrets/list, keys/get, certificates/get; `secrets/*` and `*` permit more.
	Permissions []string `yaml:"permissions" json:"permissions"`
}

// Secret is one version of a secret; several of one name are versions, the last one current.
type Secret struct {
	Name        string            `yaml:"name" json:"name"`
	Value       string            `yaml:"value" json:"value"`
	Version     string            `yaml:"version" json:"version,omitempty"`
	ContentType string            `yaml:"contentType" json:"contentType,omitempty"`
	Disabled    bool              `yaml:"disabled" json:"disabled,omitempty"`
	NotBefore   time.Time         `yaml:"notBefore" json:"notBefore,omitzero"`
	Expires     time.Time         `yaml:"expires" json:"expires,omitzero"`
	Created     time.Time         `yaml:"created" json:"created,omitzero"`
	Tags        map[string]string `yaml:"tags" json:"tags,omitempty"`
	// KID makes the secret certificate-backed.
	KID string `yaml:"kid" json:"kid,omitempty"`
}

// Key is one version of a key.
type Key struct {
	Name    string `yaml:"name" json:"name"`
	Version string `yaml:"version" json:"version,omitempty"`
	// Type is RSA, RSA-HSM, EC, EC-HSM or oct; Curve P-256, P-384, P-521 or P-256K.
	Type  string `yaml:"type" json:"type"`
	Curve string `yaml:"curve" json:"curve,omitempty"`
	// Bits is an RSA key's size; 2048 where 0.
	Bits int `yaml:"bits" json:"bits,omitempty"`
	// PublicKey is PEM; where empty a key is made.
	PublicKey string    `yaml:"publicKey" json:"publicKey,omitempty"`
	Disabled  bool      `yaml:"disabled" json:"disabled,omitempty"`
	NotBefore time.Time `yaml:"notBefore" json:"notBefore,omitzero"`
	Expires   time.Time `yaml:"expires" json:"expires,omitzero"`
	Created   time.Time `yaml:"created" json:"created,omitzero"`

	Tags map[string]string `yaml:"tags" json:"tags,omitempty"`
}

// Certificate is one version of a certificate, with the secret and the key of the same name and version.
type Certificate struct {
	Name    string `yaml:"name" json:"name"`
	Version string `yaml:"version" json:"version,omitempty"`
	// ContentType is that of the secret: application/x-pkcs12 (where empty) or application/x-pem-file.
	ContentType string `yaml:"contentType" json:"contentType,omitempty"`
	// KeyType is RSA (where empty) or EC; Subject the common name; Chain is the number of issuers above the leaf.
	KeyType string `yaml:"keyType" json:"keyType,omitempty"`
	Subject string `yaml:"subject" json:"subject,omitempty"`
	Chain   int    `yaml:"chain" json:"chain,omitempty"`
	// Pending is true for one that was requested and is not issued: it has no content, and is disabled until it is
	// enabled.
	Pending bool `yaml:"pending" json:"pending,omitempty"`
	// NotExportable leaves the private key out of the secret.
	NotExportable bool `yaml:"notExportable" json:"notExportable,omitempty"`
	// Secret, a PFX in base64 or PEM text, and Leaf, a PEM certificate, replace what would be generated.
	Secret   string    `yaml:"secret" json:"secret,omitempty"`
	Leaf     string    `yaml:"leaf" json:"leaf,omitempty"`
	Disabled bool      `yaml:"disabled" json:"disabled,omitempty"`
	NotAfter time.Time `yaml:"notAfter" json:"notAfter,omitzero"`
	Created  time.Time `yaml:"created" json:"created,omitzero"`
	// Tags are the certificate's; its secret and its key have none.
	Tags map[string]string `yaml:"tags" json:"tags,omitempty"`
}

// ClusterIssuer is how a seed names the issuer of the cluster that the emulator runs in: its URL is not known when the
// seed is written.
const ClusterIssuer = "cluster"

// AddCluster adds an issuer, and puts it in the place of ClusterIssuer wherever the seed says so.
func (s *Seed) AddCluster(issuer Issuer) {
	s.Issuers = append(s.Issuers, issuer)
	for _, t := range s.Tenants {
		for _, a := range t.Applications {
			for i := range a.Federated {
				if a.Federated[i].Issuer == ClusterIssuer {
					a.Federated[i].Issuer = issuer.Issuer
				}
			}
		}
	}
}

// ParseSeed reads a seed. Unknown fields are an error, and so is more than one document.
func ParseSeed(data []byte) (Seed, error) {
	var seed Seed
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	err := decoder.Decode(&seed)
	if err == nil && !errors.Is(decoder.Decode(new(yaml.Node)), io.EOF) {
		err = errors.New("more than one document: remove what follows ---")
	}
	if errors.Is(err, io.EOF) {
		return seed, errors.New("seed: it is empty: write vaults: [] for a seed without vaults")
	}
	if e, ok := errors.AsType[*yaml.TypeError](err); ok { // its text has a line for each mistake
		return seed, fmt.Errorf("seed: %s", strings.Join(e.Errors, "; "))
	}
	if err != nil {
		return seed, fmt.Errorf("seed: %w", err)
	}
	return seed, nil
}

// mostBytes bounds each file that a seed names.
const mostBytes = 16 << 20

// readFile reads a file that is not larger than mostBytes.
func readFile(name string) (text []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err = io.ReadAll(io.LimitReader(f, mostBytes+1))
	if err == nil && len(text) > mostBytes {
		err = fmt.Errorf("%s is larger than %d MiB: make it smaller", name, mostBytes>>20)
	}
	return text, err
}
