package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// claims are those of a service account token that say whose it is.
type claims struct {
	Issuer  string  `json:"iss"`
	Subject string  `json:"sub"`
	Expires float64 `json:"exp"`
}

// parseClaims reads the payload of a JWT. The signature is Entra's to check: a token that is not the cluster's gets nobody
// anything.
func parseClaims(token string) (claims, error) {
	var c claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, errors.New("it is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, errors.New("its payload is not base64url")
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, errors.New("its payload is not JSON")
	}
	if c.Issuer == "" || c.Subject == "" {
		return c, errors.New("it has no issuer or subject")
	}
	return c, nil
}

// expiry returns the earlier of what the token says and what kubelet says.
func (c claims) expiry(token volume.Token) time.Time {
	var at time.Time
	if c.Expires > 0 && c.Expires < 1<<40 {
		at = time.Unix(int64(c.Expires), 0)
	}
	if !token.Expires.IsZero() && (at.IsZero() || token.Expires.Before(at)) {
		at = token.Expires
	}
	return at
}
