package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

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
