package fields

import (
	"fmt"
	"regexp"
	"strings"
)

var dotenvKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// decodeDotenv reads lines of KEY=VALUE, each with an optional "export " before it. Lines that are empty or begin with #
// are skipped. A value in single quotes is taken as it is; in double quotes, \n, \r, \t, \", \\ and \$ are replaced; both
// may span lines. Without quotes, the value ends before " #" and spaces around it are removed. Variables are not
// expanded.
func decodeDotenv(text string) (any, error) {
	d := dotenvDecoder{budget: newBudget(), rest: strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")}
	object := map[string]any{}
	for d.rest != "" {
		line, _, _ := strings.Cut(d.rest, "\n")
		if trimmed := strings.TrimSpace(line); trimmed == "" || trimmed[0] == '#' {
			d.advance(len(line))
			continue
		}
		key, value, err := d.assignment(line)
		if err != nil {
			return nil, err
		}
		if err := d.take(1); err != nil {
			return nil, err
		}
		if err := put(object, key, value); err != nil {
			return nil, err
		}
	}
	return object, nil
}

type dotenvDecoder struct {
	*budget

	rest string
	line int
}

// advance skips n bytes and the end of the line after them.
func (d *dotenvDecoder) advance(n int) {
	d.line += strings.Count(d.rest[:n], "\n") + 1
	d.rest = strings.TrimPrefix(d.rest[n:], "\n")
}

func (d *dotenvDecoder) wrong(what string) error {
	return fmt.Errorf("the value is not dotenv text: line %d %s", d.line+1, what)
}

// assignment reads the assignment that begins with the line.
func (d *dotenvDecoder) assignment(line string) (key, value string, err error) {
	name, after, ok := strings.Cut(line, "=")
	if !ok {
		return "", "", d.wrong("has no =")
	}
	key = strings.TrimSpace(name)
	if exported, ok := strings.CutPrefix(key, "export "); ok {
		key = strings.TrimSpace(exported)
	}
	if !dotenvKey.MatchString(key) {
		return "", "", d.wrong("has a name that is not made of letters, digits, _, . and -")
	}
	begin := len(name) + 1 + len(after) - len(strings.TrimLeft(after, " \t"))
	quoted := d.rest[begin:]
	if quoted == "" || quoted[0] != '"' && quoted[0] != '\'' {
		d.advance(len(line))
		value, _, _ = strings.Cut(" "+after, " #")
		return key, strings.TrimSpace(value), nil
	}
	value, size, ok := unquote(quoted)
	if !ok {
		return "", "", d.wrong("has a quote without an end")
	}
	tail, _, _ := strings.Cut(quoted[size:], "\n")
	if trimmed := strings.TrimSpace(tail); trimmed != "" && trimmed[0] != '#' {
		return "", "", d.wrong("has text after the closing quote")
	}
	d.advance(begin + size + len(tail))
	return key, value, nil
}

// unquote reads a quoted value from the start of the text, and returns how many bytes it takes with its quotes.
func unquote(text string) (value string, size int, ok bool) {
	quote := text[0]
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == quote:
			return b.String(), i + 1, true
		case c == '\\' && quote == '"' && i+1 < len(text):
			i++
			b.WriteString(unescape(text[i]))
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, false
}

// unescape is the text of an escape sequence in double quotes. An unknown one is kept with its backslash.
func unescape(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 'r':
		return "\r"
	case 't':
		return "\t"
	case '"', '\\', '$':
		return string(c)
	}
	return "\\" + string([]byte{c})
}
