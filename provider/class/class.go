package class

import (
	"io/fs"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/fields"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// Served reports whether spec.provider of a SecretProviderClass names this project's provider.
func Served(provider string) bool { return strings.EqualFold(strings.TrimSpace(provider), "azure") }

// Kind is the kind of a Key Vault object, spelled as in objectType.
type Kind string

// The kinds of Key Vault objects.
const (
	Secret      Kind = "secret"
	Key         Kind = "key"
	Certificate Kind = "cert"
)

// Format is how a certificate-backed secret is written.
type Format string

// The formats of objectFormat.
const (
	PEM Format = "pem"
	PFX Format = "pfx"
	// CA is a certificate's chain without its leaf and its private key.
	CA Format = "ca"
)

// Encoding is how a secret's text becomes bytes.
type Encoding string

// The encodings of objectEncoding.
const (
	UTF8   Encoding = encode.EncodingUTF8
	Base64 Encoding = encode.EncodingBase64
	Hex    Encoding = encode.EncodingHex
)

// Mode is how the driver proves the identity.
type Mode string

// The identity modes. A class that names none uses workload identity where it has a client id and the pod a token, else
// a service principal from nodePublishSecretRef.
const (
	Automatic       Mode = ""
	ManagedIdentity Mode = "managed identity"
	TokenProxy      Mode = "identity binding"
)

// Class is the meaning of a SecretProviderClass's parameters. It is immutable.
type Class struct {
	Cloud cloud.Cloud
	Mode  Mode
	// TenantID and ClientID are empty where the class leaves them out.
	TenantID, ClientID string
	// ManagedClientID, ManagedObjectID and ManagedResourceID name a user-assigned identity; at most one is set. All
	// empty means system-assigned.
	ManagedClientID, ManagedObjectID, ManagedResourceID string
	Objects                                             []Object
	// RotationInterval is nil where the class leaves it to the driver; 0 means never.
	RotationInterval *time.Duration
	// StaleIfError is how old a last known good value may be that a new pod starts from; 0 means never.
	StaleIfError time.Duration
	// Lists is true where a poll lists the vaults' objects and gets what changed.
	Lists bool `json:",omitzero"`
	// MetadataFile is the path of the file that describes the others; empty where there is none.
	MetadataFile string `json:",omitzero"`
	// Files says how files look that belong to no object: the metadata.
	Files Look
	// Templates are files that are made from those of the objects.
	Templates []Template `json:",omitempty"`
	// Warnings are mistakes that do not stop a mount.
	Warnings []Mistake
	// Hash is equal for classes that ask for the same files in the same way of the same vaults.
	Hash string
}

// Look is what a file looks like beside its content.
type Look struct {
	// Mode holds the file's permission bits.
	Mode fs.FileMode
	// Owner and Group are numeric ids; nil where the class says nothing.
	Owner, Group *int64 `json:",omitempty"`
	// GroupWins is true where the group goes before the Pod's fsGroup, because an object or template says it for itself.
	GroupWins bool `json:",omitzero"`
}

// Template is a file that is made from those of the objects.
type Template struct {
	// Index is the position in the array, from 0.
	Index int
	Path  string
	Look
	Text string
	// Line is the line of the text's first line in the parameter's text, from 1.
	Line int `json:"-"`
	// Parsed is the template without mistakes.
	Parsed *render.Template `json:"-"`
}

// ContentFormat is how a secret's value is read for its fields.
type ContentFormat = fields.Format

// The formats of contentFormat.
const (
	JSON       = fields.JSON
	YAML       = fields.YAML
	Dotenv     = fields.Dotenv
	Properties = fields.Properties
)

// Extract says which fields of a secret's value become files.
type Extract struct {
	Content ContentFormat
	// All is true where every field of the top level becomes a file in the directory of the object's path.
	All bool `json:",omitzero"`
	// Entries are single fields.
	Entries []Entry `json:",omitempty"`
	// Whole is true where the whole value is written too.
	Whole bool `json:",omitzero"`
}

// Entry is one field of a secret's value that becomes a file.
type Entry struct {
	// Expression is a JMESPath expression, and Compiled what it means.
	Expression string
	Compiled   *fields.Expression `json:"-"`
	// Path is the file name.
	Path string
	Mode fs.FileMode
	// Optional is true where the file is left out if the expression matches nothing.
	Optional bool `json:",omitzero"`
	// Line is the entry's line in the parameter's text, from 1.
	Line int `json:"-"`
}

// Object is one entry of the objects parameter.
type Object struct {
	// Index is the position in the array, from 0.
	Index int
	// VaultURL is the vault's base URL, https://host/.
	VaultURL string
	Kind     Kind
	// Name is empty where Selector is set.
	Name string
	// Selector takes all objects that match, in place of one by its name; nil where Name is set.
	Selector *Selector `json:",omitempty"`
	// Listed is true for an object that a selection took.
	Listed bool `json:"-"`
	// Path is the file name: the alias, else the name. Where Selector is set it holds NamePlaceholder.
	Path string
	// Version is empty for the current one; "latest" is already turned into empty.
	Version string
	// History is how many versions to write; 0 or 1 means the one version as Path.
	History  int
	Format   Format
	Encoding Encoding
	Look
	// SplitCertAndKey writes <path>.crt and <path>.key beside a certificate-backed secret.
	SplitCertAndKey bool
	// ConvertPFX turns a hand-uploaded PFX (content type application/x-pkcs12, not backed by a certificate) into PEM.
	ConvertPFX bool
	// Optional is true where the object may be missing or disabled.
	Optional bool `json:",omitzero"`
	// LatestEnabled is true where the newest enabled version is taken if the newest is disabled.
	LatestEnabled bool `json:",omitzero"`
	// Fallbacks are the base URLs of vaults that are asked in this order where the one before cannot be reached.
	Fallbacks []string `json:",omitempty"`
	// Extract says which fields of the value become files; nil where only the whole value is written.
	Extract *Extract `json:",omitempty"`
}

// Mistake is one thing that is wrong with a class.
type Mistake struct {
	// Parameter is the parameter's name, such as keyvaultName or objects.
	Parameter string
	// Index is the object's position in the array, -1 where the mistake is not in an object.
	Index int
	// Object is the object's name, where it is known.
	Object string
	// Field is the object's field, empty for a parameter.
	Field string
	// Value is the offending text, cut to a readable length; never a secret.
	Value string
	// Problem says what is wrong, Fix what to write instead.
	Problem, Fix string
	// Line is the line inside the parameter's text, from 1; 0 where it is not known.
	Line int
}
