package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Cloud is one Azure cloud.
type Cloud struct {
	// Name is the canonical name, such as AzurePublicCloud.
	Name string
	// Authority is the base URL of Entra ID (or AD FS), with a trailing slash.
	Authority string
	// VaultSuffix is the DNS suffix of vaults, without a leading dot.
	VaultSuffix string
	// Scope is the OAuth scope of the vault service, such as https://vault.azure.net/.default.
	Scope string
}

// custom is the name of clouds that a file describes.
const custom = "AzureStackCloud"

// biggestFile bounds a custom cloud's file, in bytes.
const biggestFile = 1 << 20

// named returns one of Azure's own clouds by any of the spellings in use, in any letter case.
func named(name string) (Cloud, bool) {
	switch strings.ToUpper(name) {
	case "AZUREPUBLICCLOUD", "AZURECLOUD":
		return Cloud{
			Name: "AzurePublicCloud", Authority: "https://login.microsoftonline.com/",
			VaultSuffix: "vault.azure.net", Scope: "https://vault.azure.net/.default",
		}, true
	case "AZUREUSGOVERNMENTCLOUD", "AZUREUSGOVERNMENT":
		return Cloud{
			Name: "AzureUSGovernmentCloud", Authority: "https://login.microsoftonline.us/",
			VaultSuffix: "vault.usgovcloudapi.net", Scope: "https://vault.usgovcloudapi.net/.default",
		}, true
	case "AZURECHINACLOUD":
		return Cloud{
			Name: "AzureChinaCloud", Authority: "https://login.chinacloudapi.cn/",
			VaultSuffix: "vault.azure.cn", Scope: "https://vault.azure.cn/.default",
		}, true
	}
	return Cloud{}, false
}

// Resolver finds clouds by name, and custom ones in files below one directory.
type Resolver struct {
	fallback string
	dir      string

	mu    sync.Mutex
	files map[string]parsed
}

type parsed struct {
	cloud    Cloud
	modified time.Time
	size     int64
}

// NewResolver returns a resolver. The default name serves classes that name none; it must be a cloud of Azure's own.
// The directory may be empty: then there are no custom clouds.
func NewResolver(defaultName, dir string) (*Resolver, error) {
	if _, ok := named(defaultName); !ok {
		return nil, fmt.Errorf("cloud %q is not known: use AzurePublicCloud, AzureUSGovernmentCloud or "+
			"AzureChinaCloud", defaultName)
	}
	return &Resolver{fallback: defaultName, dir: dir, files: map[string]parsed{}}, nil
}

// LookupError is why a class names no cloud.
type LookupError struct {
	// Problem is what is wrong, and Fix what to do.
	Problem, Fix string
	// OfFile is true where cloudEnvFileName is wrong, false where cloudName is.
	OfFile bool
}

// Error implements error.
func (e *LookupError) Error() string { return e.Problem + ": " + e.Fix }

// Lookup returns the cloud of a class: cloudName, and for AzureStackCloud the file that cloudEnvFileName names, which
// is read again when it changed. Errors are of type *LookupError.
func (r *Resolver) Lookup(name, file string) (Cloud, error) {
	if name == "" {
		name = r.fallback
	}
	if c, ok := named(name); ok {
		return c, nil
	}
	switch {
	case strings.EqualFold(name, "AzureGermanCloud"):
		return Cloud{}, &LookupError{Problem: "is a cloud that was closed in 2021", Fix: "use the vault's new cloud"}
	case !strings.EqualFold(name, custom):
		return Cloud{}, &LookupError{
			Problem: "is not a cloud",
			Fix: "use AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, or AzureStackCloud with " +
				"cloudEnvFileName",
		}
	case file == "":
		return Cloud{}, &LookupError{
			Problem: "is a custom cloud, which needs cloudEnvFileName",
			Fix:     "name a file below the driver's --cloud-config-dir",
		}
	case r.dir == "":
		return Cloud{}, &LookupError{
			Problem: "is a custom cloud, and the driver has none",
			Fix:     "the driver's operator sets --cloud-config-dir (in the chart cloudConfig.configMap or cloudConfig.hostPath)",
		}
	}
	return r.read(file)
}

// read returns the cloud of a file, which must be below the directory. Its path is relative to it; an absolute one must
// begin with it.
func (r *Resolver) read(file string) (Cloud, error) {
	name := file
	if filepath.IsAbs(name) {
		relative, err := filepath.Rel(r.dir, name)
		if err != nil || !filepath.IsLocal(relative) {
			return Cloud{}, wrongFile("is outside the driver's --cloud-config-dir",
				"name a file below "+r.dir+", or the driver's operator sets --cloud-config-dir (in the chart cloudConfig) to its directory")
		}
		name = relative
	}
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return Cloud{}, wrongFile("cannot be read, because the driver's --cloud-config-dir cannot be opened",
			"the driver's operator makes "+r.dir+" readable")
	}
	defer func() { _ = root.Close() }()
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Cloud{}, wrongFile("does not exist", "name a file below the driver's --cloud-config-dir "+r.dir)
	}
	if err != nil {
		return Cloud{}, wrongFile("is not a readable file", "name a file below the driver's --cloud-config-dir "+r.dir)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return Cloud{}, wrongFile("is not a regular file", "name a file below the driver's --cloud-config-dir "+r.dir)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.files[name]; ok && known.modified.Equal(info.ModTime()) && known.size == info.Size() {
		return known.cloud, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, biggestFile))
	if err != nil {
		return Cloud{}, wrongFile("cannot be read", "name a file below the driver's --cloud-config-dir "+r.dir)
	}
	c, err := Parse(data)
	if err != nil {
		return Cloud{}, wrongFile("does not describe a cloud", err.Error())
	}
	r.files[name] = parsed{cloud: c, modified: info.ModTime(), size: info.Size()}
	return c, nil
}

func wrongFile(problem, fix string) error {
	return &LookupError{Problem: problem, Fix: fix, OfFile: true}
}

// Parse reads a custom cloud's JSON: name, activeDirectoryEndpoint, keyVaultEndpoint and keyVaultDNSSuffix of the
// environment files that Azure Stack hands out; everything else in it is ignored.
func Parse(data []byte) (Cloud, error) {
	var raw struct {
		Name      string `json:"name"`
		Authority string `json:"activeDirectoryEndpoint"`
		Endpoint  string `json:"keyVaultEndpoint"`
		Suffix    string `json:"keyVaultDNSSuffix"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return Cloud{}, errors.New("the file is not JSON as a cloud's environment file is")
	}
	var wrong []error
	authority, err := httpsBase(raw.Authority)
	if err != nil {
		wrong = append(wrong, fmt.Errorf("activeDirectoryEndpoint %w", err))
	}
	suffix := strings.Trim(strings.ToLower(raw.Suffix), ".")
	if !dnsSuffix.MatchString(suffix) {
		wrong = append(wrong, errors.New("keyVaultDNSSuffix is not a DNS suffix, such as vault.local.example.com"))
	}
	scope := "https://" + suffix + "/.default"
	if raw.Endpoint != "" {
		endpoint, err := httpsBase(raw.Endpoint)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("keyVaultEndpoint %w", err))
		}
		scope = endpoint + ".default"
	}
	if len(wrong) > 0 {
		lines := strings.ReplaceAll(errors.Join(wrong...).Error(), "\n", "; ")
		return Cloud{}, fmt.Errorf("the file is wrong: %s", lines)
	}
	name := raw.Name
	if name == "" {
		name = custom
	}
	return Cloud{Name: name, Authority: authority, VaultSuffix: suffix, Scope: scope}, nil
}

// dnsSuffix is one or more DNS labels (RFC 1123, 2.1).
var dnsSuffix = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`)

// httpsBase returns the URL with a trailing slash.
func httpsBase(text string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("is not an https URL, such as https://login.example.com/")
	}
	return strings.TrimSuffix(u.String(), "/") + "/", nil
}
