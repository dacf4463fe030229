// Package pages reads the documentation for the tests that check it.
package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Root is the project's directory, seen from a package two below it.
const Root = "../.."

// All returns the pages by path.
func All(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/cli/*.md", "deploy/chart/README.md"} {
		paths, err := filepath.Glob(filepath.Join(Root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found[path] = string(data)
		}
	}
	if len(found) < 15 {
		t.Fatalf("only %d pages", len(found))
	}
	return found
}

// Command is a line of a page that a person would type.
type Command struct {
	Page, Line string
	// Words are the line's, as a shell splits them, without assignments before.
	Words []string
}

var (
	// Fenced is a block between fences: its language and its text.
	Fenced     = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```")
	assignment = regexp.MustCompile(`^[A-Z_]+=`)
)

// Commands returns what people would type: lines of sh blocks and of indented blocks that begin with a known program.
func Commands(t testing.TB) (all []Command) {
	t.Helper()
	for path, text := range All(t) {
		if strings.Contains(path, "/cli/") {
			continue // generated
		}
		var lines []string
		for _, block := range Fenced.FindAllStringSubmatch(text, -1) {
			if block[1] == "sh" {
				lines = append(lines, strings.Split(block[2], "\n")...)
			}
		}
		for line := range strings.SplitSeq(Fenced.ReplaceAllString(text, ""), "\n") {
			if strings.HasPrefix(line, "    ") {
				lines = append(lines, line)
			}
		}
		for _, line := range joined(lines) {
			for part := range strings.SplitSeq(line, " && ") {
				if words := Program(split(part)); words != nil {
					all = append(all, Command{Page: path, Line: strings.TrimSpace(part), Words: words})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Command) int { return strings.Compare(a.Page, b.Page) })
	return all
}

// joined puts lines together that a backslash at the end continues.
func joined(lines []string) (whole []string) {
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, "\\") + strings.TrimSpace(lines[i])
		}
		whole = append(whole, line)
	}
	return whole
}

// programs are those whose commands are checked.
var programs = []string{"keyvault-csi", "keyvault-emulator", "make", "helm", "kubectl", "curl", "az", "kind", "openssl", "keytool"}

// Program drops assignments and the path before a known program; nil where the line is something else.
func Program(words []string) []string {
	for len(words) > 0 && (assignment.MatchString(words[0]) || words[0] == "export") {
		words = words[1:]
	}
	// a table of a page may begin with a program's name: commands have arguments, and no columns
	if len(words) == 0 || len(words) == 1 && words[0] != "make" {
		return nil
	}
	words[0] = strings.TrimPrefix(strings.TrimPrefix(words[0], "bin/"), "/")
	if !slices.Contains(programs, words[0]) {
		return nil
	}
	return words
}

// split is how a shell would split the line, up to a comment, a pipe or a redirection.
func split(line string) (words []string) {
	var word strings.Builder
	inWord, quote := false, rune(0)
	flush := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ':
			flush()
		case (r == '#' || r == '|' || r == '>' || r == '<' || r == ';') && !inWord:
			return words
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	flush()
	return words
}
