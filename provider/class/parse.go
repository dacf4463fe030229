package class

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

// The bounds of what a class may ask for.
const (
	// ShortestInterval bounds rotationInterval below: the vault's budget is shared.
	ShortestInterval = 10 * time.Second
	// LongestStale bounds staleIfError above: a value that old is no longer what its owner meant.
	LongestStale = 24 * time.Hour
	// MaxSize bounds the names and values of all parameters together, in bytes.
	MaxSize = 1 << 20
	// MaxParameters bounds the number of parameters, those of the Pod's volumeAttributes included.
	MaxParameters = 256
	// MaxObjects bounds the number of objects.
	MaxObjects = 1000
	// MaxFiles bounds the files of one fetch; how many a version history makes is known only then.
	MaxFiles = 10_000
)

// DefaultMode is the mode of files whose object says none.
const DefaultMode fs.FileMode = 0o644

// Clouds finds clouds by the parameters cloudName and cloudEnvFileName.
type Clouds interface {
	Lookup(name, file string) (cloud.Cloud, error)
}

// Options are the driver's settings that bear on classes.
type Options struct {
	Clouds Clouds
	// SplitCertAndKey is the default of writeCertAndKeyInSeparateFiles.
	SplitCertAndKey bool
	// AllowedHosts are vault hosts, or suffixes with a leading dot, that keyvaultURI may name beside the cloud's own.
	AllowedHosts []string
	// Lint adds warnings about what the driver accepts and the services do not, and looks for the exact lines of mistakes in YAML. It is for
	// tools: it costs more.
	Lint bool
}

// reserved are keys of the volume context that are no parameters.
var reserved = regexp.MustCompile(`^(csi\.storage\.k8s\.io/.*|secretProviderClass|providerName)$`)

// Merge returns the parameters of a class with the volume attributes of a pod, which go over those of the same name.
// Keys that kubelet sets never count.
func Merge(parameters, attributes map[string]string) map[string]string {
	merged := make(map[string]string, len(parameters)+len(attributes))
	for _, from := range []map[string]string{parameters, attributes} {
		for name, value := range from {
			if !reserved.MatchString(name) {
				merged[name] = value
			}
		}
	}
	return merged
}

// Parse reads parameters. It returns every mistake that it finds, and warnings, which do not stop a mount; the class is nil
// if there is a mistake. Both are in a stable order.
func Parse(parameters map[string]string, opts Options) (c *Class, mistakes, warnings []Mistake) {
	p := &parser{text: make(map[string]string, len(parameters)), opts: opts, class: &Class{}}
	if !p.bounded(parameters) {
		return nil, p.mistakes, nil
	}
	for name, value := range parameters {
		p.text[name] = strings.TrimSpace(value)
	}
	p.unknownParameters()
	p.identity()
	p.cloud()
	p.refresh()
	vault := p.defaultVault()
	p.files()
	p.objects(parameters["objects"], vault, p.classFallbacks(vault))
	p.templates(parameters["templates"])
	p.clashes()
	if len(p.mistakes) > 0 {
		return nil, p.mistakes, p.warnings
	}
	p.class.Warnings = p.warnings
	p.class.Hash = hash(p.class)
	return p.class, nil, p.warnings
}

// bounded reports whether the parameters are few and small enough to be read.
func (p *parser) bounded(parameters map[string]string) bool {
	if len(parameters) > MaxParameters {
		p.parameter("parameters", strconv.Itoa(len(parameters)), "are too many", "write at most "+strconv.Itoa(MaxParameters))
		return false
	}
	size, longest := 0, ""
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		size += len(name) + len(parameters[name])
		if len(parameters[name]) > len(parameters[longest]) {
			longest = name
		}
	}
	if size > MaxSize {
		p.parameter(shorten(longest), "", fmt.Sprintf("makes the parameters %d bytes long", size), "split the class: at most 1 MiB together")
		return false
	}
	return true
}

// parser collects mistakes while it fills a class.
type parser struct {
	text     map[string]string // trimmed
	opts     Options
	class    *Class
	claims   []claim
	names    map[Place][]string // by known
	mistakes []Mistake
	warnings []Mistake
}

// parameter notes a mistake in a parameter.
func (p *parser) parameter(name, value, problem, fix string) {
	p.mistakes = append(p.mistakes, Mistake{Parameter: name, Index: -1, Value: shorten(value), Problem: problem, Fix: fix})
}

func (p *parser) warn(name, problem, fix string) {
	p.warnings = append(p.warnings, Mistake{Parameter: name, Index: -1, Problem: problem, Fix: fix})
}

// known returns the names that may be written at a place.
func (p *parser) known(at Place) []string {
	names, ok := p.names[at]
	if !ok {
		if p.names == nil {
			p.names = map[Place][]string{}
		}
		names = Fields(at)
		p.names[at] = names
	}
	return names
}

func (p *parser) unknownParameters() {
	parameters := p.known(InParameters)
	for _, name := range slices.Sorted(maps.Keys(p.text)) {
		switch {
		case slices.Contains(parameters, name):
		case slices.Contains([]string{"resourceGroup", "subscriptionId", "enableSecretRotation"}, name):
			p.warn(name, "is an old parameter and is ignored", "remove it")
		default:
			p.warn(name, "is an unknown parameter and is ignored", suggestion(name, parameters))
		}
	}
}

// flag reads a boolean as Go's strconv does; empty is false.
func (p *parser) flag(name string) bool {
	text := p.text[name]
	if text == "" {
		return false
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		p.parameter(name, text, "is not a boolean", `write "true" or "false"`)
	}
	return value
}

func (p *parser) identity() {
	pod, vm, proxy := p.flag("usePodIdentity"), p.flag("useVMManagedIdentity"), p.flag("useAzureTokenProxy")
	if pod {
		p.parameter("usePodIdentity", "true", "asks for AAD Pod Identity, which was archived and is not supported",
			"use workload identity: set clientID and remove usePodIdentity; docs/migration.md shows the steps")
	}
	if vm && proxy || pod && (vm || proxy) {
		p.parameter("useVMManagedIdentity", "", "is only one of several identity modes that are on",
			"leave at most one of useVMManagedIdentity and useAzureTokenProxy true")
	}
	p.tenantAndClient(vm)
	switch {
	case vm:
		p.class.Mode = ManagedIdentity
		p.managedIdentity()
		return
	case proxy:
		p.class.Mode = TokenProxy
	}
	if p.text["userAssignedIdentityID"] != "" || p.text["userAssignedIdentityObjectID"] != "" {
		p.warn("userAssignedIdentityID", "is ignored without useVMManagedIdentity", "set useVMManagedIdentity to true, or remove it")
	}
}

// tenantAndClient reads the ids. A managed identity needs neither, so for one any text is accepted, as the Azure provider does.
func (p *parser) tenantAndClient(unused bool) {
	c := p.class
	c.TenantID, c.ClientID = p.text["tenantID"], p.text["clientID"]
	tenantName := "tenantID"
	if c.TenantID == "" {
		c.TenantID, tenantName = p.text["tenantId"], "tenantId"
	}
	if unused {
		return
	}
	if c.TenantID != "" && !tenantPattern.MatchString(c.TenantID) {
		p.parameter(tenantName, c.TenantID, "is not a tenant", "write the directory's id or domain, or adfs")
	}
	if c.ClientID != "" && !clientPattern.MatchString(c.ClientID) {
		p.parameter("clientID", c.ClientID, "is not a client id", "write the application's or identity's client id, a GUID")
	}
}

var (
	tenantPattern     = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)
	clientPattern     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	resourceIDPattern = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourcegroups/[^/]+/providers/microsoft\.managedidentity/userassignedidentities/[^/]+$`)
)

func (p *parser) managedIdentity() {
	c := p.class
	id, object := p.text["userAssignedIdentityID"], p.text["userAssignedIdentityObjectID"]
	if id != "" && object != "" {
		p.parameter("userAssignedIdentityObjectID", object, "and userAssignedIdentityID are both set", "keep one of them")
	}
	switch {
	case object != "":
		c.ManagedObjectID = object
	case strings.HasPrefix(id, "/"):
		if !resourceIDPattern.MatchString(id) {
			p.parameter("userAssignedIdentityID", id, "is not the resource id of a user-assigned identity",
				"write /subscriptions/…/resourceGroups/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME, or its client id")
		}
		c.ManagedResourceID = id
	default:
		c.ManagedClientID = id
	}
	for _, one := range [][2]string{{"userAssignedIdentityID", c.ManagedClientID}, {"userAssignedIdentityObjectID", object}} {
		if name, value := one[0], one[1]; value != "" && !clientPattern.MatchString(value) {
			p.parameter(name, value, "is not the id of an identity", "write a GUID")
		}
	}
}

func (p *parser) cloud() {
	name, file := p.text["cloudName"], p.text["cloudEnvFileName"]
	found, err := p.opts.Clouds.Lookup(name, file)
	if err == nil {
		p.class.Cloud = found
		return
	}
	problem, fix := err.Error(), ""
	parameter, value := "cloudName", name
	if e, ok := errors.AsType[*cloud.LookupError](err); ok {
		problem, fix = e.Problem, e.Fix
		if e.OfFile {
			parameter, value = "cloudEnvFileName", file
		}
	}
	p.parameter(parameter, value, problem, fix)
}

func (p *parser) refresh() {
	if text := p.text["rotationInterval"]; text != "" {
		interval, err := time.ParseDuration(text)
		if strings.EqualFold(text, "off") {
			interval, err = 0, nil
		}
		switch {
		case err != nil:
			p.parameter("rotationInterval", text, "is not a duration", "write one like 30s, 2m or 1h, or off")
		case interval != 0 && interval < ShortestInterval:
			p.parameter("rotationInterval", text, "is shorter than "+ShortestInterval.String(), "write at least that, or off")
		}
		p.class.RotationInterval = &interval
	}
	if text := p.text["staleIfError"]; text != "" {
		age, err := time.ParseDuration(text)
		switch {
		case err != nil:
			p.parameter("staleIfError", text, "is not a duration", "write one like 1h")
		case age < 0 || age > LongestStale:
			p.parameter("staleIfError", text, "is not between 0 and "+LongestStale.String(), "write one like 1h")
		}
		p.class.StaleIfError = age
	}
	switch text := p.text["changeDetection"]; text {
	case "", "get":
	case "list":
		p.class.Lists = true
	default:
		p.parameter("changeDetection", text, "is not a way to detect changes", "write get or list")
	}
}

// files reads what files look like for which nothing else is said, and where the metadata goes.
func (p *parser) files() {
	p.class.Files = readLook(Look{Mode: DefaultMode}, func(name string) string { return p.text[name] }, p.parameter)
	const name = "metadataFile"
	if file := p.text[name]; file != "" {
		if problem := pathProblem(file); problem != "" {
			p.parameter(name, file, problem, pathFix)
		}
		p.class.MetadataFile = file
		p.claim(claim{path: file, mistake: Mistake{Parameter: name, Index: -1, Value: shorten(file), Fix: "give one of them another path"}})
	}
}

var vaultPattern = regexp.MustCompile(`^[-A-Za-z0-9]{3,24}$`)

// defaultVault returns the base URL of the vault that objects use which name none; empty where the class names none.
func (p *parser) defaultVault() string {
	name, uri := p.text["keyvaultName"], p.text["keyvaultURI"]
	if name != "" && uri != "" {
		p.parameter("keyvaultURI", uri, "and keyvaultName are both set", "keep one of them")
	}
	base, problem, fix := p.vaultURL(name, uri)
	if problem != "" {
		if uri != "" {
			p.parameter("keyvaultURI", uri, problem, fix)
		} else {
			p.parameter("keyvaultName", name, problem, fix)
		}
	}
	return base
}

// maxFallbacks bounds the vaults that are asked after the first one.
const maxFallbacks = 5

// classFallbacks returns the base URLs of the vaults that are asked where the class's own cannot be reached.
func (p *parser) classFallbacks(vault string) []string {
	const name = "fallbackKeyvaultNames"
	text := p.text[name]
	if text == "" {
		return nil
	}
	list, problem, fix := p.vaultList(text)
	switch {
	case problem != "":
		p.parameter(name, text, problem, fix)
	case vault != "" && slices.Contains(list, vault):
		p.parameter(name, text, "names the class's own vault", "remove it from the list")
	}
	return list
}

// vaultList returns the base URLs of the vaults in a list of names, or what is wrong with it.
func (p *parser) vaultList(text string) (list []string, problem, fix string) {
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		base, problem, fix := p.vaultURL(name, "")
		switch {
		case name == "":
			return nil, "has an empty name", "write names of vaults, separated by commas"
		case problem != "":
			return nil, "has " + strconv.Quote(shorten(name)) + ", which " + problem, fix
		case slices.Contains(list, base):
			return nil, "names " + name + " twice", "remove one"
		}
		list = append(list, base)
	}
	if len(list) > maxFallbacks {
		return nil, fmt.Sprintf("names %d vaults", len(list)), fmt.Sprintf("write at most %d", maxFallbacks)
	}
	return list, "", ""
}

// vaultURL returns the base URL of the vault with the name or the URI, or what is wrong with it.
func (p *parser) vaultURL(name, uri string) (base, problem, fix string) {
	switch {
	case uri != "":
		return p.checkURI(uri)
	case name == "":
		return "", "", ""
	case !vaultPattern.MatchString(name):
		return "", "is not a vault name", "write 3 to 24 letters, digits and hyphens: the first part of the vault's host name"
	}
	return "https://" + name + "." + p.class.Cloud.VaultSuffix + "/", "", ""
}

func (p *parser) checkURI(uri string) (base, problem, fix string) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Port() != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		strings.Trim(u.Path, "/") != "" {
		return "", "is not a vault URI", "write https://HOST/ with nothing behind it"
	}
	host := strings.ToLower(u.Host)
	if suffix := p.class.Cloud.VaultSuffix; suffix != "" && strings.HasSuffix(host, "."+suffix) {
		return "https://" + host + "/", "", ""
	}
	for _, allowed := range p.opts.AllowedHosts {
		allowed = strings.ToLower(allowed)
		if host == allowed || strings.HasPrefix(allowed, ".") && strings.HasSuffix(host, allowed) {
			return "https://" + host + "/", "", ""
		}
	}
	return "", "is not a vault of the cloud", "use a host below " + p.class.Cloud.VaultSuffix +
		", or have the driver's operator add it to --allowed-vault-hosts"
}

func hash(c *Class) string {
	bare := *c
	bare.Warnings, bare.Objects = nil, nil
	h := sha256.New()
	encoder := json.NewEncoder(h) // a document for each part, so that no part of a large class is copied as a whole
	err := encoder.Encode(bare)
	for i := range c.Objects {
		err = errors.Join(err, encoder.Encode(&c.Objects[i]))
	}
	if err != nil {
		panic(fmt.Sprintf("a class does not marshal: %v", err)) // it holds plain values only
	}
	return hex.EncodeToString(h.Sum(nil))
}
