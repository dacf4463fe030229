// Package canary finds the secret values of the tests where they must not be: in logs, metrics, status objects, events and all that
// a run of the tests prints.
package canary

import (
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strings"
)

// Marks are what the values of secrets in tests begin with.
var marks = []string{"canary-", "s3cret"}

// pattern matches the marks as they are, and in base64 and hexadecimal digits.
var pattern = regexp.MustCompile(strings.Join(forms(), "|"))

// forms are the marks in each form that a program may print them in.
func forms() (all []string) {
	for _, mark := range marks {
		all = append(all, regexp.QuoteMeta(mark), "(?i:"+hex.EncodeToString([]byte(mark))+")")
		for lead := range 3 { // base64 depends on how many bytes are before
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", lead) + mark))
			first, last := (lead*8+5)/6, (lead+len(mark))*8/6
			all = append(all, regexp.QuoteMeta(encoded[first:last]))
		}
	}
	return all
}

// Find returns where a mark is, as the text around it with the mark and what follows replaced; empty where there is none.
func Find(text string) string {
	at := pattern.FindStringIndex(text)
	if at == nil {
		return ""
	}
	return text[max(0, at[0]-200):at[0]] + "[a secret value]"
}
