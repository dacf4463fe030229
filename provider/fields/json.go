package fields

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// decodeJSON reads one JSON value token by token: the decoder's own way keeps the last of two equal keys, and has no
// bound for the number of values.
func decodeJSON(text string) (any, error) {
	d := &jsonDecoder{budget: newBudget(), tokens: json.NewDecoder(strings.NewReader(text))}
	d.tokens.UseNumber()
	value, err := d.value(1)
	if err != nil {
		return nil, err
	}
	if _, err := d.tokens.Token(); !errors.Is(err, io.EOF) {
		return nil, d.broken("text after the end of the JSON")
	}
	return value, nil
}

type jsonDecoder struct {
	*budget

	tokens *json.Decoder
}

// broken is the error of text that is not JSON. The decoder's own message quotes characters of the text.
func (d *jsonDecoder) broken(what string) error {
	return fmt.Errorf("the value is not JSON: %s at byte %d; contentFormat says which other format it has", what, d.tokens.InputOffset())
}

func (d *jsonDecoder) token() (json.Token, error) {
	token, err := d.tokens.Token()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, d.broken("unexpected end")
	case err != nil:
		return nil, d.broken("syntax error")
	}
	return token, nil
}

func (d *jsonDecoder) value(depth int) (any, error) {
	if err := d.take(depth); err != nil {
		return nil, err
	}
	token, err := d.token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		return d.object(depth)
	case json.Delim('['):
		return d.list(depth)
	case json.Delim('}'), json.Delim(']'):
		return nil, d.broken("syntax error")
	}
	return token, nil
}

func (d *jsonDecoder) object(depth int) (any, error) {
	object := map[string]any{}
	for d.tokens.More() {
		key, err := d.token()
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, d.broken("syntax error")
		}
		value, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := put(object, name, value); err != nil {
			return nil, err
		}
	}
	_, err := d.token()
	return object, err
}

func (d *jsonDecoder) list(depth int) (any, error) {
	list := []any{}
	for d.tokens.More() {
		value, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := d.token()
	return list, err
}
