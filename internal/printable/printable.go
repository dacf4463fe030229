// Package printable makes text that came from outside fit to be shown: in one line, printable and of a readable length.
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// more marks text that was cut.
const more = "…"

// OneLine returns the text as one line of printable UTF-8, its white space folded.
func OneLine(text string) string {
	printable := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, ""))
	return strings.Join(strings.Fields(printable), " ")
}

// Cut returns the text where it is at most limit bytes long, else its beginning and an ellipsis, which together are at
// most limit bytes long. The limit is at least the ellipsis' three bytes.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	end := limit - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return strings.ToValidUTF8(text[:end], "") + more
}
