package class

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
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
func (p *parser) objects(raw, vault string) {
	const name = "objects"
	if p.text[name] == "" {
		p.parameter(name, "", "is not set", "write what to fetch: docs/parameters.md has examples")
		return
	}
	list, warning, mistake := readItems(raw)
	if warning != nil {
		warning.Parameter, warning.Index = name, -1
		p.warnings = append(p.warnings, *warning)
	}
	if mistake != nil {
		mistake.Parameter, mistake.Index = name, -1
		p.mistakes = append(p.mistakes, *mistake)
		return
	}
	needsVault := false
	for i, item := range list {
		o := &objectParser{parser: p, index: i, line: item.line}
		o.parse(item.text, vault)
		needsVault = needsVault || o.usesDefault
	}
	if needsVault && vault == "" && p.text["keyvaultName"] == "" && p.text["keyvaultURI"] == "" {
		p.parameter("keyvaultName", "", "is not set", "write the vault's name")
	}
	p.clashes()
}

// objectParser reads one object.
type objectParser struct {
	*parser
	index       int
	line        int
	fields      map[string]value
	usesDefault bool
}

func (o *objectParser) wrong(field, value, problem, fix string) {
	o.mistakes = append(o.mistakes, o.mistake(field, value, problem, fix))
}

func (o *objectParser) mistake(field, value, problem, fix string) Mistake {
	line := o.line
	if v, ok := o.fields[field]; ok {
		line += v.line - 1
	}
	return Mistake{
		Parameter: "objects", Index: o.index, Object: shorten(o.get("objectName")), Field: field, Value: shorten(value),
		Problem: problem, Fix: fix, Line: line,
	}
}

func (o *objectParser) get(field string) string { return o.fields[field].text }

func (o *objectParser) parse(text, vault string) {
	if !o.read(text) {
		o.usesDefault = true // unknown: do not blame the vault's name too
		return
	}
	object := Object{
		Index: o.index, Name: o.get("objectName"), Kind: Kind(o.get("objectType")), Mode: DefaultMode,
		Version: o.get("objectVersion"), Path: o.get("objectAlias"), SplitCertAndKey: o.opts.SplitCertAndKey,
	}
	if object.Path == "" {
		object.Path = object.Name
	}
	object.VaultURL = o.vault(vault)
	o.checkVersions(&object)
	o.checkName(&object)
	o.checkFormat(&object)
	o.checkMode(&object)
	o.flags(&object)
	o.class.Objects = append(o.class.Objects, object)
}

// read reads the object's YAML into fields. It is false where no field can be relied on.
func (o *objectParser) read(text string) bool {
	o.fields = map[string]value{}
	if len(text) > maxObjectSize {
		o.wrong("", "", fmt.Sprintf("is %d bytes long", len(text)), fmt.Sprintf("write at most %d", maxObjectSize))
		return false
	}
	fields, mistakes := readFields(text)
	good := len(mistakes) == 0
	for _, m := range mistakes {
		o.fields[m.field] = value{line: m.line}
		o.wrong(m.field, "", m.problem, m.fix)
	}
	known := Fields()
	for _, f := range fields {
		o.fields[f.name] = f.value
	}
	for _, f := range fields {
		if !slices.Contains(known, f.name) {
			fix := "remove it"
			if near := nearest(f.name, known); near != "" {
				fix = "did you mean " + near + "?"
			}
			o.warnings = append(o.warnings, o.mistake(f.name, "", "is an unknown field and is ignored", fix))
			continue
		}
		if !f.value.scalar {
			o.wrong(f.name, "", "is not plain text", "write a single value")
			good = false
		}
	}
	return good
}

func (o *objectParser) vault(fallback string) string {
	name, uri := o.get("keyvaultName"), o.get("keyvaultURI")
	if name == "" && uri == "" {
		o.usesDefault = true
		return fallback
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
	if object.Name == "" && object.Path == "" {
		return // reported already
	}
	field := "objectAlias"
	if o.get(field) == "" {
		field = "objectName"
	}
	if err := volume.CheckPath(object.Path); err != nil {
		problem := strings.ReplaceAll(err.Error(), "\n", "; ")
		if field == "objectAlias" || namePattern.MatchString(object.Name) {
			o.wrong(field, object.Path, "cannot be a file: "+problem, "write a relative path like tls/server.pem")
		}
	} else if strings.Contains(object.Path, "..") && field == "objectAlias" {
		o.wrong(field, object.Path, "cannot be a file: file name must not contain '..'", "write a relative path like tls/server.pem")
	}
}

func (o *objectParser) checkFormat(object *Object) {
	object.Format, object.Encoding = PEM, UTF8
	if text := o.get("objectFormat"); text != "" {
		object.Format = Format(strings.ToLower(text))
		switch {
		case object.Format != PEM && object.Format != PFX:
			o.wrong("objectFormat", text, "is not a format", "write pem or pfx")
		case object.Format == PFX && object.Kind != Secret:
			o.wrong("objectFormat", text, "goes with objectType secret only", "use objectType: secret, or remove objectFormat")
		}
	}
	if text := o.get("objectEncoding"); text != "" {
		object.Encoding = Encoding(strings.ToLower(text))
		switch {
		case !slices.Contains([]Encoding{UTF8, Base64, Hex}, object.Encoding):
			o.wrong("objectEncoding", text, "is not an encoding", "write utf-8, base64 or hex")
		case object.Kind != Secret:
			o.wrong("objectEncoding", text, "goes with objectType secret only", "remove it")
		}
	}
}

func (o *objectParser) checkVersions(object *Object) {
	if text := o.get("objectVersionHistory"); text != "" {
		n, err := o.fields["objectVersionHistory"].integer()
		switch {
		case err != nil:
			o.wrong("objectVersionHistory", text, "is not a whole number", "write how many versions to fetch, such as 5")
		case n > maxHistory:
			o.warnings = append(o.warnings, o.mistake("objectVersionHistory", text, "is more than "+strconv.Itoa(maxHistory),
				"the newest "+strconv.Itoa(maxHistory)+" are written"))
			object.History = maxHistory
		case n > 1:
			object.History = int(n)
		}
	}
	if object.History > 1 && object.Path != "" && !strings.Contains(object.Path, "..") {
		object.Path = path.Clean(object.Path) // a directory, so that ./x, x/ and a//b are as good as x and a/b
	}
	if strings.EqualFold(object.Version, "latest") {
		object.Version = ""
	}
	if object.Version != "" && !versionPattern.MatchString(object.Version) {
		o.wrong("objectVersion", object.Version, "is not a version", "write the 32 digits of the version's id, or latest")
	}
}

func (o *objectParser) checkMode(object *Object) {
	text := o.get("filePermission")
	if text == "" {
		return
	}
	mode, err := strconv.ParseInt(text, 8, 32)
	if err != nil || !modePattern.MatchString(text) || mode > 0o777 {
		o.wrong("filePermission", text, "is not a file mode", "write octal digits from 0000 to 0777, such as 0400")
		return
	}
	object.Mode = fs.FileMode(mode) & fs.ModePerm //nolint:gosec // checked above
}

func (o *objectParser) flags(object *Object) {
	for _, flag := range []struct {
		field string
		to    *bool
	}{
		{"writeCertAndKeyInSeparateFiles", &object.SplitCertAndKey},
		{"convertPFX", &object.ConvertPFX},
	} {
		field, to := flag.field, flag.to
		text := o.get(field)
		if text == "" {
			continue
		}
		value, err := strconv.ParseBool(text)
		switch {
		case err != nil:
			o.wrong(field, text, "is not a boolean", "write true or false")
		case value && object.Kind != Secret:
			o.wrong(field, text, "goes with objectType secret only", "remove it")
		}
		*to = value
	}
	object.SplitCertAndKey = object.SplitCertAndKey && object.Kind == Secret
}
