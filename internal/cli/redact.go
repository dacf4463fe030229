package cli

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// redacted is shown in place of what is left out.
const redacted = "[redacted]"

// redactor takes out of text what could be a secret. Ids of tenants, clients and subscriptions become names that are the same within one
// archive, and differ between archives.
type redactor struct {
	salt   []byte
	blocks *regexp.Regexp
	named  *regexp.Regexp
	bearer *regexp.Regexp
	user   *regexp.Regexp
	guid   *regexp.Regexp
	runs   *regexp.Regexp
}

func newRedactor() *redactor {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	return &redactor{
		salt:   salt,
		blocks: regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|$)`),
		// password=…, "clientSecret": "…", --token …, ?sig=…
		named: regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:password|passwd|pwd|secret|token|credential|apikey|api_key|access_?key|account_?key|private_?key|connectionstring|sig|assertion)` +
			`(?:\\?["'])?\s*(?:=|:|\s)\s*)((?:\\?")[^"\\]*(?:\\?")|'[^']*'|[^\s,;&"'}\]]+)`),
		bearer: regexp.MustCompile(`(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]+`),
		user:   regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@`),
		guid:   regexp.MustCompile(`(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`),
		runs:   regexp.MustCompile(`[A-Za-z0-9+/_=.-]{20,}`),
	}
}

// text returns a text of the driver, of Kubernetes or of Azure without what could be a secret in it.
func (r *redactor) text(text string) string {
	text = r.blocks.ReplaceAllString(text, redacted)
	text = r.bearer.ReplaceAllString(text, "${1} "+redacted)
	text = r.user.ReplaceAllString(text, "${1}"+redacted+"@")
	text = r.named.ReplaceAllStringFunc(text, func(found string) string {
		parts := r.named.FindStringSubmatch(found)
		if harmless(parts[1], parts[2]) {
			return found
		}
		return parts[1] + redacted
	})
	text = r.runs.ReplaceAllStringFunc(text, func(run string) string {
		if random(run) {
			return redacted
		}
		return run
	})
	return r.guid.ReplaceAllStringFunc(text, r.alias)
}

// alias is a name for an id.
func (r *redactor) alias(id string) string {
	h := hmac.New(sha256.New, r.salt)
	_, _ = h.Write([]byte(strings.ToLower(id)))
	return "id-" + hex.EncodeToString(h.Sum(nil))[:8]
}

// harmless reports whether what follows a word such as secret or token in a sentence is no value: the next word of the sentence.
func harmless(name, value string) bool {
	last := name[len(name)-1]
	if last != ' ' || strings.ContainsAny(name, "=:") || strings.HasPrefix(name, "-") {
		return false
	}
	return strings.Trim(value, "abcdefghijklmnopqrstuvwxyz.`()") == ""
}

// random reports whether a run of characters looks like a key or a token: letters in both cases and digits without words, or a JSON web token.
// Names of Kubernetes and Azure, host names and versions of objects are none.
func random(run string) bool {
	if strings.HasPrefix(run, "eyJ") {
		return true
	}
	var upper, lower, digit, changes int
	kind := byte(0)
	for i := range len(run) {
		c := run[i]
		now := byte('.')
		switch {
		case 'A' <= c && c <= 'Z':
			upper++
			now = 'A'
		case 'a' <= c && c <= 'z':
			lower++
			now = 'a'
		case '0' <= c && c <= '9':
			digit++
			now = '0'
		}
		if now != kind {
			changes++
		}
		kind = now
	}
	return upper > 1 && lower > 1 && digit > 0 && changes*4 > len(run)
}
