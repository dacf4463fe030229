package class

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// mostID is the largest id of a user or group that Linux has; the one above it means none.
const mostID = 1<<32 - 2

// itemParser reads one item of a parameter that holds a list of texts, each of which is a YAML mapping.
type itemParser struct {
	*parser
	// parameter is objects or templates; title names the item to people.
	parameter, title string
	index, line      int
	fields           map[string]value
	// reported are fields whose mistake is noted, so that no second one follows from it.
	reported map[string]bool
}

// wrong notes a mistake in a field of the item, or in the item where the field is empty.
func (o *itemParser) wrong(field, value, problem, fix string) {
	line := 1
	if v, ok := o.fields[field]; ok {
		line = v.line
	}
	if o.reported[field] && field != "" {
		return
	}
	o.reported[field] = true
	o.mistakes = append(o.mistakes, o.mistakeAt(line, field, value, problem, fix))
}

// wrongAt notes a mistake at a line of the item's text.
func (o *itemParser) wrongAt(line int, field, value, problem, fix string) {
	o.mistakes = append(o.mistakes, o.mistakeAt(line, field, value, problem, fix))
}

// doubt notes what does not stop a mount.
func (o *itemParser) doubt(field, value, problem, fix string) {
	o.warnings = append(o.warnings, o.mistakeAt(o.fields[field].line, field, value, problem, fix))
}

func (o *itemParser) mistakeAt(line int, field, value, problem, fix string) Mistake {
	return Mistake{
		Parameter: o.parameter,
		Index:     o.index,
		Object:    o.title,
		Field:     field,
		Value:     shorten(value),
		Problem:   problem,
		Fix:       fix,
		Line:      o.line + max(line, 1) - 1,
	}
}

func (o *itemParser) get(field string) string { return o.fields[field].text }

// has reports whether a field is set to something.
func (o *itemParser) has(field string) bool {
	v, ok := o.fields[field]
	return ok && (v.text != "" || isSet(v.node))
}

// read reads the item's YAML into fields; of names that are unknown it warns. Those of structured may be more than a single value. It is
// false where there are no fields at all.
func (o *itemParser) read(text string, place Place, most int, structured ...string) bool {
	o.fields, o.reported = map[string]value{}, map[string]bool{}
	if len(text) > most {
		o.wrong("", "", fmt.Sprintf("is %d bytes long", len(text)), fmt.Sprintf("write at most %d", most))
		return false
	}
	fields, mistakes := readFields(text, o.opts.Lint)
	known := o.known(place)
	for _, f := range fields {
		if slices.Contains(known, f.name) {
			o.fields[f.name] = f.value
		}
	}
	good := true
	for _, m := range mistakes {
		o.reported[m.field] = true
		o.wrongAt(m.line, m.field, "", m.problem, m.fix)
		good = good && m.field != ""
	}
	for _, f := range fields {
		switch {
		case !slices.Contains(known, f.name):
			o.warnings = append(o.warnings,
				o.mistakeAt(f.value.line, f.name, "", "is an unknown field and is ignored", suggestion(f.name, known)))
		case !f.value.scalar && !slices.Contains(structured, f.name):
			o.wrong(f.name, "", "is not plain text", "write a single value")
		}
	}
	return good
}

// boolean reads a boolean field; false where it is not set.
func (o *itemParser) boolean(field string) (value bool) {
	text := o.get(field)
	if text == "" {
		return false
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		o.wrong(field, text, "is not a boolean", "write true or false")
	}
	return value
}

// look reads how the item's file looks; the class's look is the default.
func (o *itemParser) look() Look {
	look := readLook(o.class.Files, o.get, o.wrong)
	look.GroupWins = o.get("fileGroup") != ""
	if text := o.get("filePermission"); text != "" && o.opts.Lint {
		if problem, fix := oddMode(text); problem != "" {
			o.doubt("filePermission", text, problem, fix)
		}
	}
	return look
}

// readLook reads what get has of the mode, the owner and the group of files; what it has not is as before.
func readLook(look Look, get func(name string) string, wrong func(name, value, problem, fix string)) Look {
	if text := get("filePermission"); text != "" {
		mode, problem, fix := fileMode(text)
		if look.Mode = mode; problem != "" {
			wrong("filePermission", text, problem, fix)
		}
	}
	for _, id := range []struct {
		name string
		to   **int64
	}{{"fileOwner", &look.Owner}, {"fileGroup", &look.Group}} {
		if text := get(id.name); text != "" {
			number, problem, fix := fileID(text)
			if *id.to = &number; problem != "" {
				wrong(id.name, text, problem, fix)
			}
		}
	}
	return look
}

// checkPath checks the path of a file that the item writes.
func (o *itemParser) checkPath(field, file string) {
	if problem := pathProblem(file); problem != "" {
		o.wrong(field, file, problem, pathFix)
	}
}

const pathFix = "write a relative path like tls/server.pem"

// pathProblem returns why a path cannot be a file; empty where it can. The Azure provider refuses two dots anywhere.
func pathProblem(file string) string {
	if err := volume.CheckPath(file); err != nil {
		return "cannot be a file: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	if strings.Contains(file, "..") {
		return "cannot be a file: file name must not contain '..'"
	}
	return ""
}

// fileMode reads a file's mode.
func fileMode(text string) (mode fs.FileMode, problem, fix string) {
	number, err := strconv.ParseInt(text, 8, 32)
	if err != nil || !modePattern.MatchString(text) || number > 0o777 {
		return 0, "is not a file mode", "write octal digits from 0000 to 0777, such as 0400"
	}
	return fs.FileMode(number) & fs.ModePerm, "", "" //nolint:gosec // checked above
}

// fileID reads the id of a user or a group.
func fileID(text string) (id int64, problem, fix string) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 0 || id > mostID {
		return 0, "is not the id of a user or group", "write a whole number such as 1000"
	}
	return id, "", ""
}
