package class

import (
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// mostHistory is how many versions of an object may be asked for; Key Vault itself keeps as many as are made.
const mostHistory = 500

var (
	namePattern    = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)
	versionPattern = regexp.MustCompile(`^[0-9a-zA-Z]{1,64}$`)
	modePattern    = regexp.MustCompile(`^[0-7]{1,4}$`)
	// fields are all that an object may hold.
	fields = []string{
		"objectName", "objectType", "objectAlias", "objectVersion", "objectVersionHistory", "objectFormat", "objectEncoding",
		"filePermission", "keyvaultName", "keyvaultURI", "writeCertAndKeyInSeparateFiles", "convertPFX",
	}
)

// objects reads the objects parameter: a YAML mapping whose key array holds strings, each of which is a YAML mapping of
// one object.
func (p *parser) objects(vault string) {
	const name = "objects"
	raw, ok := p.raw[name]
	if !ok || strings.TrimSpace(raw) == "" {
		p.parameter(name, "", "is not set", "write what to fetch: docs/parameters.md has examples")
		return
	}
	items, mistake := items(raw)
	if mistake != nil {
		mistake.Parameter, mistake.Index = name, -1
		p.mistakes = append(p.mistakes, *mistake)
		return
	}
	if len(items) == 0 {
		p.warn(name, "names no object: the volume is empty", "add objects below array")
	}
	needsVault := len(items) == 0
	for i, item := range items {
		o := &objectParser{parser: p, index: i, line: item.line}
		o.parse(item.text, vault)
		needsVault = needsVault || o.usesDefault
	}
	if needsVault && vault == "" && p.text["keyvaultName"] == "" && p.text["keyvaultURI"] == "" {
		p.parameter("keyvaultName", "", "is not set", "write the vault's name")
	}
	p.clashes()
}

// item is the text of one object and the line of the parameter on which it begins.
type item struct {
	text string
	line int
}

func items(text string) ([]item, *Mistake) {
	const shape = "write a mapping with the key array, whose items are strings: array: [ | …, | … ]"
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		problem, line := yamlProblem(err)
		return nil, &Mistake{Problem: "is not YAML: " + problem, Fix: shape, Line: line}
	}
	if len(doc.Content) == 0 {
		return nil, &Mistake{Problem: "is empty", Fix: shape, Line: 1}
	}
	top := resolve(doc.Content[0])
	if top.Kind != yaml.MappingNode {
		return nil, &Mistake{Problem: "is not a mapping", Fix: shape, Line: top.Line}
	}
	var array *yaml.Node
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value != "array" {
			continue
		}
		if array != nil {
			return nil, &Mistake{Problem: "has the key array twice", Fix: "merge them", Line: top.Content[i].Line}
		}
		array = resolve(top.Content[i+1])
	}
	if array == nil || array.Kind == yaml.ScalarNode && scalar(array) == "" {
		return nil, nil
	}
	if array.Kind != yaml.SequenceNode {
		return nil, &Mistake{Problem: "has an array that is no list", Fix: shape, Line: array.Line}
	}
	found := make([]item, 0, len(array.Content))
	for i, node := range array.Content {
		node = resolve(node)
		if node.Kind != yaml.ScalarNode {
			return nil, &Mistake{
				Problem: "has an item (" + strconv.Itoa(i) + ") that is a mapping instead of a string",
				Fix:     "put a | behind the item's dash, so that the object below it is a string", Line: node.Line,
			}
		}
		line := node.Line
		if node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			line++ // the text begins below the indicator
		}
		found = append(found, item{text: node.Value, line: line})
	}
	return found, nil
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for range 100 {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// scalar returns the text as it is written; null is empty.
func scalar(n *yaml.Node) string {
	if n.Tag == "!!null" {
		return ""
	}
	return strings.TrimSpace(n.Value)
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// yamlProblem takes the line out of a parser's message.
func yamlProblem(err error) (problem string, line int) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if at := yamlLine.FindStringSubmatchIndex(text); at != nil {
		line, _ = strconv.Atoi(text[at[2]:at[3]])
		text = text[:at[0]] + text[at[1]:]
	}
	return strings.ReplaceAll(shorten(text), "\n", "; "), line
}

// objectParser reads one object.
type objectParser struct {
	*parser
	index       int
	line        int
	fields      map[string]*yaml.Node
	usesDefault bool
}

func (o *objectParser) wrong(field, value, problem, fix string) {
	o.mistakes = append(o.mistakes, o.mistake(field, value, problem, fix))
}

func (o *objectParser) mistake(field, value, problem, fix string) Mistake {
	line := o.line
	if n, ok := o.fields[field]; ok {
		line += n.Line - 1
	}
	return Mistake{
		Parameter: "objects", Index: o.index, Object: shorten(o.get("objectName")), Field: field, Value: shorten(value),
		Problem: problem, Fix: fix, Line: line,
	}
}

func (o *objectParser) get(field string) string {
	if n, ok := o.fields[field]; ok {
		return scalar(n)
	}
	return ""
}

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
	o.checkName(&object)
	o.checkFormat(&object)
	o.checkVersions(&object)
	o.checkMode(&object)
	o.flags(&object)
	o.class.Objects = append(o.class.Objects, object)
}

// read takes the object's YAML apart.
func (o *objectParser) read(text string) bool {
	o.fields = map[string]*yaml.Node{}
	const fix = "write a mapping: objectName: NAME, objectType: secret"
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		problem, line := yamlProblem(err)
		o.line += max(line-1, 0)
		o.wrong("", "", "is not YAML: "+problem, fix)
		return false
	}
	if len(doc.Content) == 0 || resolve(doc.Content[0]).Kind != yaml.MappingNode {
		o.wrong("", "", "is not a mapping", fix)
		return false
	}
	top := resolve(doc.Content[0])
	good := true
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], resolve(top.Content[i+1])
		if _, twice := o.fields[key.Value]; twice {
			o.wrong(key.Value, "", "stands in the object twice", "remove one")
			good = false
			continue
		}
		o.fields[key.Value] = value
		if slices.Contains(fields, key.Value) && value.Kind != yaml.ScalarNode {
			o.wrong(key.Value, "", "is not plain text", "write a single value")
			good = false
		}
	}
	for _, name := range unknownOf(top) {
		fix := "remove it"
		if near := nearest(name, fields); near != "" {
			fix = "did you mean " + near + "?"
		}
		o.warnings = append(o.warnings, o.mistake(name, "", "is an unknown field and means nothing", fix))
	}
	return good
}

func unknownOf(top *yaml.Node) (names []string) {
	for i := 0; i+1 < len(top.Content); i += 2 {
		if name := top.Content[i].Value; !slices.Contains(fields, name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
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
		return // said already
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
		n, err := strconv.ParseInt(text, 10, 32)
		switch {
		case err != nil:
			o.wrong("objectVersionHistory", text, "is not a whole number", "write how many versions to fetch, such as 5")
		case n > mostHistory:
			o.wrong("objectVersionHistory", text, "is more than "+strconv.Itoa(mostHistory), "write a smaller number")
		case n > 1:
			object.History = int(n)
		}
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
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || !modePattern.MatchString(text) || mode > 0o777 {
		o.wrong("filePermission", text, "is not a file mode", "write octal digits from 0000 to 0777, such as 0400")
		return
	}
	object.Mode = fs.FileMode(mode)
}

func (o *objectParser) flags(object *Object) {
	for field, to := range map[string]*bool{
		"writeCertAndKeyInSeparateFiles": &object.SplitCertAndKey,
		"convertPFX":                     &object.ConvertPFX,
	} {
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
