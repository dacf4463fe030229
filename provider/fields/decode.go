package fields

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
)

// Format says how a text is read.
type Format string

// The formats of contentFormat.
const (
	JSON       Format = "json"
	YAML       Format = "yaml"
	Dotenv     Format = "dotenv"
	Properties Format = "properties"
)

// Formats returns all formats.
func Formats() []Format { return []Format{JSON, YAML, Dotenv, Properties} }

const (
	// MaxSize bounds a text, in bytes. A secret of Key Vault has 25,000 characters at most, which are 100,000 bytes.
	MaxSize = 128 << 10
	// maxDepth bounds how deep lists and objects are nested.
	maxDepth = 64
	// maxValues bounds the values of a text, those that YAML's aliases repeat included.
	maxValues = 20_000
	// maxKey bounds the name of a field, in bytes, and maxShown what an error shows of it.
	maxKey   = 1024
	maxShown = 60
)

// Decode reads a text. The result is made of map[string]any, []any, string, bool, json.Number and nil; numbers are as
// they are written in the text. A key that comes twice in one object is an error, because readers disagree about which
// one counts.
func Decode(text string, format Format) (any, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("the value has %d bytes, of which no fields are read: at most %d", len(text), MaxSize)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("the value is not UTF-8 text, so it has no fields")
	}
	switch format {
	case JSON, "":
		return decodeJSON(text)
	case YAML:
		return decodeYAML(text)
	case Dotenv:
		return decodeDotenv(text)
	case Properties:
		return decodeProperties(text)
	default:
		return nil, fmt.Errorf("%q is not a format of fields", string(format))
	}
}

// budget bounds what is made of one text.
type budget struct{ values int }

func newBudget() *budget { return &budget{values: maxValues} }

// take counts one value at a depth.
func (b *budget) take(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("the value is nested more than %d levels deep", maxDepth)
	}
	if b.values--; b.values < 0 {
		return fmt.Errorf("the value has more than %d fields and elements in all", maxValues)
	}
	return nil
}

// put adds a field to an object.
func put(object map[string]any, key string, value any) error {
	if len(key) > maxKey {
		return fmt.Errorf("the field %s has a name of %d bytes: at most %d", shown(key), len(key), maxKey)
	}
	if _, exists := object[key]; exists {
		return fmt.Errorf("the field %s is a duplicate in its object", shown(key))
	}
	object[key] = value
	return nil
}

// shown is a field's name in an error.
func shown(name string) string { return fmt.Sprintf("%q", printable.Cut(name, maxShown)) }
