package volume

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Tokens are the service account tokens of one volume, by audience. They are immutable.
type Tokens struct {
	ByAudience map[string]Token
	// hash is that of the text.
	hash [sha256.Size]byte
}

// Renewed returns the tokens of a text as ParseTokens reads them, and known itself where that is their text: kubelet passes the same ones
// for most of their life.
func (known Tokens) Renewed(text string) (Tokens, error) {
	hash := sha256.Sum256([]byte(text))
	if known.ByAudience != nil && known.hash == hash {
		return known, nil
	}
	tokens, err := ParseTokens(text)
	return Tokens{ByAudience: tokens, hash: hash}, err
}

// Equal reports whether both are of the same text.
func (known Tokens) Equal(other Tokens) bool { return known.hash == other.hash }

// ParseTokens reads the service account tokens as kubelet passes them: a JSON object from audience to token and
// expiration timestamp (RFC 3339). Errors never quote the text.
func ParseTokens(text string) (map[string]Token, error) {
	var raw map[string]*struct {
		Token      string    `json:"token"`
		Expiration time.Time `json:"expirationTimestamp"`
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, errors.New("not a JSON object from audience to token and expirationTimestamp")
	}
	tokens := make(map[string]Token, len(raw))
	for audience, t := range raw {
		if t == nil || t.Token == "" {
			return nil, fmt.Errorf("the token for audience %q is empty", audience)
		}
		tokens[audience] = Token{Value: t.Token, Expires: t.Expiration}
	}
	return tokens, nil
}
