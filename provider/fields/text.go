package fields

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// ErrNull is the error of Text for null, which is also what an expression that matches nothing gives.
var ErrNull = errors.New("no match, or the value is null")

// MaxText bounds what Text makes, in bytes. An expression may repeat a part of its document.
const MaxText = 1 << 20

// Text is what a file holds of a value: a string as it is, another scalar as JSON, a list or an object as compact JSON
// with sorted keys.
func Text(value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return nil, ErrNull
	case string:
		if len(v) > MaxText {
			return nil, errTooLarge()
		}
		return []byte(v), nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&limited{to: &b})
	e.SetEscapeHTML(false)
	if err := measure(value, new(int), 0); err != nil {
		return nil, err
	}
	if err := e.Encode(value); err != nil {
		return nil, errors.New("the result cannot be written as JSON")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func errTooLarge() error { return fmt.Errorf("the result has more than %d bytes", MaxText) }

// measure returns an error where the JSON of a value would be too large. The encoder itself builds all of it before it
// writes.
func measure(value any, size *int, depth int) error {
	*size += 2
	switch v := value.(type) {
	case string:
		if !utf8.ValidString(v) { // of YAML's !!binary
			return errors.New("the result holds bytes that JSON has no text for: take the field itself")
		}
		*size += len(v)
	case json.Number:
		*size += len(v)
	case []any:
		for _, element := range v {
			if err := measure(element, size, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, element := range v {
			if err := errors.Join(measure(key, size, depth), measure(element, size, depth+1)); err != nil {
				return err
			}
		}
	}
	if *size > MaxText || depth > 2*maxDepth {
		return errTooLarge()
	}
	return nil
}

// limited is a writer that fails past MaxText.
type limited struct{ to *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.to.Len()+len(p) > MaxText+1 {
		return 0, errTooLarge()
	}
	return l.to.Write(p)
}

// CheckName returns why a field's name cannot be the name of a file, or nil. Letters and digits of all scripts are
// allowed, and ASCII's other printable characters but the slash: what looks like a dot or a slash and is neither is not.
func CheckName(name string) error {
	if err := volume.CheckPath(name); err != nil {
		return fmt.Errorf("the field %s cannot be a file: %s", shown(name), strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for _, r := range name {
		if r == '/' || r > unicode.MaxASCII && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			return fmt.Errorf("the field %s cannot be a file: its name has the character %U", shown(name), r)
		}
	}
	return nil
}
