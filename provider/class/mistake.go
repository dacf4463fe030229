package class

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// mostTold bounds how many mistakes one error line holds.
const mostTold = 8

// String returns the mistake as one line: where, what stands there, what is wrong, what to write.
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
		if i == mostTold {
			lines = append(lines, fmt.Sprintf("and %d more: `keyvault-csi validate` lists them all", len(mistakes)-mostTold))
			break
		}
		lines = append(lines, m.String())
	}
	return &volume.Error{Reason: volume.ReasonInvalidClass, Message: strings.Join(lines, "; ")}
}

// shorten cuts a value to a length that a person reads.
func shorten(text string) string {
	const most = 80
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// nearest returns the known name that a person may have meant, or nothing.
func nearest(name string, known []string) string {
	best, most := "", 1+len(name)/5
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d <= most {
			best, most = k, d-1
		}
	}
	return best
}

// distance is the number of insertions, deletions, substitutions and swaps of neighbours between two words.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
