package class

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxHistory caps how many versions of an object are written. People write 1000 for "all", so more is no mistake.
	maxHistory = 500
	// maxObjectSize bounds the text of one object, in bytes, and maxFields its fields.
	maxObjectSize = 16 << 10
	maxFields     = 64
)

var (
	namePattern    = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)
	versionPattern = regexp.MustCompile(`^[0-9a-zA-Z]{1,64}$`)
	modePattern    = regexp.MustCompile(`^\+?[0-7]+$`)
)

// objects reads the objects parameter.
func (p *parser) objects(raw string, vault string, fallbacks []string) {
	const name = "objects"
	if p.text[name] == "" {
		p.parameter(name, "", "is not set", "write what to fetch: docs/parameters.md has examples")
		return
	}
	needsVault, items := false, p.items(name, raw, objectsShape)
	p.class.Objects = make([]Object, 0, len(items)) // an Object is large, and so would be what is copied while the list grows
	for _, item := range items {
		o := &objectParser{itemParser: itemParser{parser: p, parameter: name, index: item.index, line: item.line}}
		o.parse(item.text, vault, fallbacks)
		needsVault = needsVault || o.usesDefault
	}
	if needsVault && vault == "" && p.text["keyvaultName"] == "" && p.text["keyvaultURI"] == "" {
		p.parameter("keyvaultName", "", "is not set", "write the vault's name")
	}
}

// items reads a parameter that holds a list of texts. What is wrong with the list is noted.
func (p *parser) items(name, raw, shape string) []item {
	list, warnings, mistakes := readItems(raw, shape, p.opts.Lint)
	for _, w := range warnings {
		w.Parameter, w.Index = name, max(w.Index, -1)
		p.warnings = append(p.warnings, w)
	}
	for _, m := range mistakes {
		m.Parameter = name
		p.mistakes = append(p.mistakes, m)
	}
	return list
}

// objectParser reads one object.
type objectParser struct {
	itemParser
	// usesDefault is true where the object names no vault of its own.
	usesDefault bool
}

func (o *objectParser) parse(text, vault string, fallbacks []string) {
	if !o.read(text, InObject, maxObjectSize, "objectSelector", "jmesPath") {
		o.usesDefault = true // unknown: do not blame the vault's name too
		return
	}
	o.title = shorten(o.get("objectName"))
	object := Object{
		Index: o.index, Name: o.get("objectName"), Kind: Kind(o.get("objectType")), Look: o.look(),
		Version: o.get("objectVersion"), Path: o.get("objectAlias"), SplitCertAndKey: o.opts.SplitCertAndKey,
		Optional: o.boolean("optional"),
	}
	if object.Path == "" {
		object.Path = object.Name
	}
	object.VaultURL = o.vault(vault)
	o.fallbacks(&object, fallbacks)
	o.checkVersions(&object)
	o.selector(&object)
	o.checkName(&object)
	o.checkFormat(&object)
	o.flags(&object)
	o.extract(&object)
	o.class.Objects = append(o.class.Objects, object)
	o.claims(&object)
}

// claims notes the paths of the object's files.
func (o *objectParser) claims(object *Object) {
	field, fix := "objectAlias", "give one of them another objectAlias"
	line := o.fields[field].line
	if line == 0 {
		line = o.fields["objectName"].line
	}
	m := o.mistakeAt(line, field, object.Path, "", fix)
	if !object.Open() && (object.Extract == nil || object.Extract.Whole) {
		o.claim(claim{path: object.Path, history: object.History, mistake: m})
	}
	if object.Extract == nil {
		return
	}
	for i, e := range object.Extract.Entries {
		m := o.mistakeAt(e.Line-o.line+1, fmt.Sprintf("jmesPath[%d].objectAlias", i), e.Path, "", fix)
		o.claim(claim{path: e.Path, mistake: m})
	}
}

// fallbacks reads the vaults that are asked where the object's own cannot be reached. Those of the class are for its own vault.
func (o *objectParser) fallbacks(object *Object, ofClass []string) {
	const name = "fallbackKeyvaultNames"
	object.Fallbacks = nil
	if text := o.get(name); text != "" {
		list, problem, fix := o.vaultList(text)
		if problem != "" {
			o.wrong(name, text, problem, fix)
		}
		object.Fallbacks = list
	} else if o.usesDefault {
		object.Fallbacks = ofClass
	}
	if slices.Contains(object.Fallbacks, object.VaultURL) && object.VaultURL != "" && o.get(name) != "" {
		o.wrong(name, o.get(name), "names the object's own vault", "remove it from the list")
	}
}

func (o *objectParser) vault(fallback string) string {
	name, uri := o.get("keyvaultName"), o.get("keyvaultURI")
	if name == "" && uri == "" {
		o.usesDefault = true
		return fallback
	}
	if o.opts.Lint && name != "" && vaultPattern.MatchString(name) && !isVaultName(name) {
		o.doubt("keyvaultName", name, vaultNameProblem, vaultNameFix)
	}
	field, value := "keyvaultName", name
	if uri != "" {
		field, value = "keyvaultURI", uri
		if name != "" {
			o.wrong(field, uri, "and keyvaultName are both set", "keep one of them")
		}
	}
	base, problem, fix := o.vaultURL(name, uri)
	if problem != "" {
		o.wrong(field, value, problem, fix)
	}
	return base
}

func (o *objectParser) checkName(object *Object) {
	switch {
	case object.Selector != nil:
	case object.Name == "":
		o.wrong("objectName", "", "is not set", "write the object's name in the vault")
	case !namePattern.MatchString(object.Name):
		o.wrong("objectName", object.Name, "is not a name that Key Vault allows",
			"write 1 to 127 letters, digits and hyphens; use objectAlias for another file name")
	}
	switch object.Kind {
	case Secret, Key, Certificate:
	case "":
		o.wrong("objectType", "", "is not set", "write secret, key or cert")
	default:
		o.wrong("objectType", string(object.Kind), "is not a kind of object", "write secret, key or cert, in lower case")
	}
	file, field := strings.ReplaceAll(object.Path, NamePlaceholder, "name"), "objectAlias"
	if o.get(field) == "" {
		field = "objectName"
	}
	if file != "" && (field == "objectAlias" || namePattern.MatchString(object.Name)) {
		if problem := pathProblem(file); problem != "" {
			o.wrong(field, object.Path, problem, pathFix)
		}
	}
}

func (o *objectParser) checkFormat(object *Object) {
	object.Format, object.Encoding = PEM, UTF8
	if text := o.get("objectFormat"); text != "" {
		object.Format = Format(strings.ToLower(text))
		switch {
		case !slices.Contains([]Format{PEM, PFX, CA}, object.Format):
			o.wrong("objectFormat", text, "is not a format", "write pem, pfx or ca")
		case object.Format != PEM && object.Kind != Secret:
			o.wrong("objectFormat", text, "goes with objectType secret only", "use objectType: secret, or remove objectFormat")
		case object.Format == CA && o.boolean("writeCertAndKeyInSeparateFiles"):
			o.wrong("objectFormat", text, "has no certificate and key of its own, and writeCertAndKeyInSeparateFiles is set", "remove one of them")
		}
	}
	if text := o.get("objectEncoding"); text != "" {
		object.Encoding = Encoding(strings.ToLower(text))
		switch {
		case !slices.Contains([]Encoding{UTF8, Base64, Hex}, object.Encoding):
			o.wrong("objectEncoding", text, "is not an encoding", "write utf-8, base64 or hex")
		case object.Kind != Secret:
			o.wrong("objectEncoding", text, "goes with objectType secret only", "remove it")
		case object.Format == CA && object.Encoding != UTF8:
			o.wrong("objectEncoding", text, "goes with objectFormat pem and pfx only", "remove it")
		}
	}
}

func (o *objectParser) checkVersions(object *Object) {
	o.history(object)
	if object.History > 1 && object.Path != "" && !strings.Contains(object.Path, "..") {
		object.Path = path.Clean(object.Path) // a directory, so that ./x, x/ and a//b are as good as x and a/b
	}
	switch {
	case strings.EqualFold(object.Version, "latest"):
		object.Version = ""
	case strings.EqualFold(object.Version, "latestEnabled"):
		object.Version, object.LatestEnabled = "", true
		if object.History > 1 {
			o.wrong("objectVersion", "latestEnabled", "means nothing with objectVersionHistory, which has enabled versions only", "remove it")
		}
	}
	if object.Version != "" && !versionPattern.MatchString(object.Version) {
		o.wrong("objectVersion", object.Version, "is not a version", "write the 32 digits of the version's id, latest or latestEnabled")
	} else if o.opts.Lint && object.Version != "" && !isVersion(object.Version) {
		o.doubt("objectVersion", object.Version, "cannot exist: Key Vault's versions have 32 hexadecimal digits",
			"copy the version's id from the vault, or write latest")
	}
}

// history reads how many versions are written.
func (o *objectParser) history(object *Object) {
	if text := o.get("objectVersionHistory"); text != "" {
		n, err := o.fields["objectVersionHistory"].integer()
		switch {
		case err != nil:
			o.wrong("objectVersionHistory", text, "is not a whole number", "write how many versions to fetch, such as 5")
		case n > maxHistory:
			o.doubt("objectVersionHistory", text, "is more than "+strconv.Itoa(maxHistory),
				"the newest "+strconv.Itoa(maxHistory)+" are written")
			object.History = maxHistory
		case n > 1:
			object.History = int(n)
		case n < 0 && o.opts.Lint:
			o.doubt("objectVersionHistory", text, "is negative, so the current version alone is written", "write how many versions, or remove it")
		}
	}
}

func (o *objectParser) flags(object *Object) {
	for _, flag := range []struct {
		field string
		to    *bool
	}{
		{"writeCertAndKeyInSeparateFiles", &object.SplitCertAndKey},
		{"convertPFX", &object.ConvertPFX},
	} {
		if o.get(flag.field) == "" {
			continue
		}
		*flag.to = o.boolean(flag.field)
		if *flag.to && object.Kind != Secret {
			o.wrong(flag.field, o.get(flag.field), "goes with objectType secret only", "remove it")
		}
	}
	object.SplitCertAndKey = object.SplitCertAndKey && object.Kind == Secret && object.Format != CA && !o.has("jmesPath") && !o.has("fields")
}
