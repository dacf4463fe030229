package class

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// maxListed bounds how many mistakes one error line holds.
const maxListed = 8

// String returns the mistake as one line: the place, the value, what is wrong, what to write.
func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.Parameter)
	if m.Index >= 0 {
		fmt.Fprintf(&b, "[%d]", m.Index)
		if m.Object != "" {
			b.WriteString(" " + strconv.Quote(m.Object))
		}
	}
	if m.Field != "" {
		b.WriteString(" " + m.Field)
	}
	if m.Value != "" {
		b.WriteString(" " + strconv.Quote(m.Value))
	}
	b.WriteString(" " + m.Problem)
	if m.Fix != "" {
		b.WriteString(": " + m.Fix)
	}
	return b.String()
}

// Error returns all mistakes as one line.
func Error(mistakes []Mistake) error {
	lines := make([]string, 0, len(mistakes))
	for i, m := range mistakes {
		if i == maxListed {
			lines = append(lines, fmt.Sprintf("and %d more: `keyvault-csi validate` lists them all", len(mistakes)-maxListed))
			break
		}
		lines = append(lines, m.String())
	}
	return &volume.Error{Reason: volume.ReasonInvalidClass, Message: strings.Join(lines, "; ")}
}

// maxShown bounds what a mistake shows of a value, in bytes.
const maxShown = 83

func shorten(text string) string { return printable.Cut(text, maxShown) }

// Nearest returns the known name that a person may have meant, or nothing.
func Nearest(name string, known []string) string {
	best, most := "", 1+len(name)/5
	for _, k := range known {
		if len(k)-len(name) > most || len(name)-len(k) > most {
			continue // at least as many insertions or deletions
		}
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d <= most {
			best, most = k, d-1
		}
	}
	return best
}

// distance is the number of insertions, deletions, substitutions and swaps of neighbours between two words.
func distance(a, b string) int {
	// the rows of the last three letters of a; each column is a letter of b
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
