package engine

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"

	sprig "github.com/go-task/slim-sprig/v3"
	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/fields"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/keystore"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// functions are those that templates have beside those of text/template.
func (e executor) functions() template.FuncMap {
	all, from := template.FuncMap{}, sprig.TxtFuncMap()
	for _, name := range render.LibraryFunctions() {
		all[name] = from[name]
	}
	maps.Copy(all, template.FuncMap{
		outFunction:             out,
		"keys":                  keys,
		"values":                values,
		render.FuncFail:         func(string) (string, error) { return "", problem("the template calls fail") },
		render.FuncFromYAML:     fromYAML,
		render.FuncToYAML:       toYAML,
		render.FuncFromJSON:     fromJSON,
		render.FuncPKCS12Trust:  trust(keystore.PKCS12TrustStore),
		render.FuncJKSTrust:     trust(keystore.JKSTrustStore),
		render.FuncHasFile:      e.has,
		render.FuncFiles:        e.match,
		render.FuncFile:         e.text,
		render.FuncJSON:         e.json,
		render.FuncPKCS12:       e.pkcs12,
		render.FuncJKS:          e.jks,
		render.FuncCertificates: e.certificates,
		render.FuncKey:          e.key,
		render.FuncAuthorities:  e.authorities,
	})
	return all
}

func (e executor) has(path string) bool {
	_, ok := e.files[path]
	return ok
}

func (e executor) text(path string) (string, error) {
	data, err := e.file(path)
	return string(data), err
}

// match returns the paths of the files that exist and match a pattern.
func (e executor) match(pattern string) ([]string, error) {
	found := []string{}
	for _, file := range slices.Sorted(maps.Keys(e.files)) {
		match, err := path.Match(pattern, file)
		if err != nil {
			return nil, problem("the pattern is malformed")
		}
		if match {
			found = append(found, file)
		}
	}
	return found, nil
}

func (e executor) json(path string) (any, error) {
	data, err := e.file(path)
	if err != nil {
		return nil, err
	}
	return fromJSON(string(data))
}

func fromJSON(text string) (any, error) { return decode(text, fields.JSON) }

func fromYAML(text string) (any, error) { return decode(text, fields.YAML) }

func decode(text string, format fields.Format) (any, error) {
	value, err := fields.Decode(text, format)
	if err != nil {
		return nil, problem(err.Error()) // names of fields and lines, no value
	}
	return countable(value), nil
}

// toYAML writes a value as YAML with two spaces of indentation and without a line break at its end, as Helm does.
func toYAML(value any) (string, error) {
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(unquoted(value)); err != nil {
		return "", problem("the value cannot be written as YAML")
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// unquoted is a value in which numbers that are kept as they were written are numbers in YAML too.
func unquoted(value any) any {
	switch v := value.(type) {
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = unquoted(v[i])
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for key := range v {
			object[key] = unquoted(v[key])
		}
		return object
	}
	return value
}

// keys returns the keys of objects, those of each sorted: Sprig's come in another order each time.
func keys(objects ...map[string]any) []string {
	all := []string{}
	for _, object := range objects {
		all = append(all, slices.Sorted(maps.Keys(object))...)
	}
	return all
}

// values returns the values of an object in the order of its keys.
func values(object map[string]any) []any {
	all := []any{}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		all = append(all, object[key])
	}
	return all
}

func (e executor) certificates(path string) (string, error) {
	return e.converted(path, encode.TLSCertificates)
}

func (e executor) key(path string) (string, error) { return e.converted(path, encode.TLSKey) }

// converted returns what encode makes of a file. The errors of encode hold no value.
func (e executor) converted(path string, convert func([]byte) ([]byte, error)) (string, error) {
	data, err := e.file(path)
	if err != nil {
		return "", err
	}
	text, err := convert(data)
	if err != nil {
		return "", problemf("file %q: %v", path, err)
	}
	return string(text), nil
}

// authorities returns the CA certificates of files, each once.
func (e executor) authorities(paths ...string) (string, error) {
	var all bytes.Buffer
	seen := map[string]bool{}
	for _, path := range paths {
		text, err := e.converted(path, encode.TLSAuthorities)
		if err != nil {
			return "", err
		}
		for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
			if !seen[string(block.Bytes)] {
				seen[string(block.Bytes)] = true
				all.Write(pem.EncodeToMemory(block))
			}
		}
	}
	return all.String(), nil
}

func (e executor) pkcs12(path, password string) (string, error) {
	id, err := e.identity(path)
	if err != nil {
		return "", err
	}
	return stored(keystore.PKCS12(id, password))
}

func (e executor) jks(file, password string) (string, error) {
	id, err := e.identity(file)
	if err != nil {
		return "", err
	}
	return stored(keystore.JKS(path.Base(file), id, password))
}

// stored is a key store for a template. The errors of keystore hold no value.
func stored(store []byte, err error) (string, error) {
	if err != nil {
		return "", problem(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return string(store), nil
}

// trust returns the function that makes a trust store of certificates in PEM.
func trust(store func([]*x509.Certificate, string) ([]byte, error)) func(text, password string) (string, error) {
	return func(text, password string) (string, error) {
		certificates, err := parsed(text)
		if err != nil {
			return "", err
		}
		return stored(store(certificates, password))
	}
}

// identity reads the private key and the certificates of a file.
func (e executor) identity(path string) (id keystore.Identity, err error) {
	text, err := e.certificates(path)
	if err != nil {
		return id, err
	}
	if id.Chain, err = parsed(text); err != nil {
		return id, err
	}
	if text, err = e.key(path); err != nil {
		return id, err
	}
	block, _ := pem.Decode([]byte(text))
	key, err := privateKey(block)
	if err != nil {
		return id, problemf("file %q: the private key cannot be read", path)
	}
	id.Key = key
	return id, nil
}

// privateKey reads what encode.TLSKey writes.
func privateKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: %w", block.Type, err)
	}
	return signer, nil
}

func parsed(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, problemf("certificate %d cannot be read", len(all)+1)
		}
		all = append(all, c)
	}
	return all, nil
}
