package fields

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeProperties reads text as java.util.Properties.load does: key and value are separated by =, : or space, \ at the
// end of a line continues it, and \uXXXX is a UTF-16 unit. Lines that begin with # or ! are skipped. A key that comes
// twice is an error.
func decodeProperties(text string) (any, error) {
	bound := newBudget()
	object := map[string]any{}
	for number, line := range logicalLines(text) {
		key, value := splitProperty(line)
		name, ok := unescapeProperty(key)
		content, valid := unescapeProperty(value)
		if !ok || !valid {
			return nil, fmt.Errorf("the value is not properties text: line %d has a \\u without four hexadecimal digits of a character", number)
		}
		if err := bound.take(1); err != nil {
			return nil, err
		}
		if err := put(object, name, content); err != nil {
			return nil, err
		}
	}
	return object, nil
}

// logicalLines yields lines with their continuations, and the number of the first of each, from 1. Comments and empty
// lines are left out.
func logicalLines(text string) func(yield func(int, string) bool) {
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(text, "\ufeff")), "\n")
	return func(yield func(int, string) bool) {
		for i := 0; i < len(lines); i++ {
			number, line := i+1, strings.TrimLeft(lines[i], " \t\f")
			if line == "" || line[0] == '#' || line[0] == '!' {
				continue
			}
			var whole strings.Builder
			for continues(line) {
				whole.WriteString(line[:len(line)-1])
				line = ""
				if i+1 < len(lines) {
					i++
					line = strings.TrimLeft(lines[i], " \t\f")
				}
			}
			whole.WriteString(line)
			if !yield(number, whole.String()) {
				return
			}
		}
	}
}

// continues reports whether a line ends in a backslash that is not escaped itself.
func continues(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// splitProperty separates key and value of a line that begins with its key.
func splitProperty(line string) (key, value string) {
	end := len(line)
	for i := 0; i < len(line); i++ {
		if line[i] == '\\' {
			i++
			continue
		}
		if strings.IndexByte("=: \t\f", line[i]) >= 0 {
			end = i
			break
		}
	}
	value = strings.TrimLeft(line[end:], " \t\f")
	if value != "" && (value[0] == '=' || value[0] == ':') {
		value = strings.TrimLeft(value[1:], " \t\f")
	}
	return line[:end], value
}

// unescapeProperty replaces escape sequences. It is false where \u does not make a character.
func unescapeProperty(text string) (string, bool) {
	if !strings.Contains(text, `\`) {
		return text, true
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			if text[i] != '\\' {
				b.WriteByte(text[i])
			}
			continue
		}
		i++
		switch c := text[i]; c {
		case 'u':
			r, size := unit(text[i+1:])
			if size == 0 {
				return "", false
			}
			i += size
			b.WriteRune(r)
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'f':
			b.WriteByte('\f')
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

// unit reads the digits after \u, and those of a second \u where both are a surrogate pair. The size is 0 where they are
// no character.
func unit(text string) (r rune, size int) {
	first, ok := hex4(text)
	switch {
	case !ok:
		return 0, 0
	case !utf16.IsSurrogate(first):
		return first, 4
	case len(text) < 10 || text[4:6] != `\u`:
		return 0, 0
	}
	second, ok := hex4(text[6:])
	if r = utf16.DecodeRune(first, second); !ok || r == utf8.RuneError {
		return 0, 0
	}
	return r, 10
}

func hex4(text string) (rune, bool) {
	if len(text) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(text[:4], 16, 16)
	return rune(n), err == nil
}
