package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"k8s.io/utils/clock"
)

const (
	// keysLife is how long an issuer's keys are used before they are asked for again. A key that is not among them is asked for at once, but
	// not more often than once in keysPause: a forged token must not make requests to the issuer.
	keysLife  = 24 * time.Hour
	keysPause = 10 * time.Second
	// keysTimeout bounds the requests to the issuer.
	keysTimeout = 10 * time.Second
)

// errIssuer is why a token could not be verified, although it may be good.
var errIssuer = errors.New("the issuer's keys are not known")

// verifier verifies the tokens of deliveries.
type verifier struct {
	keys   *issuerKeys
	config *oidc.Config
}

// newVerifier returns a verifier of tokens of one issuer for one audience.
func newVerifier(issuer, audience string, transport http.RoundTripper, clk clock.PassiveClock) *verifier {
	return &verifier{
		keys:   &issuerKeys{issuer: issuer, transport: transport, clock: clk},
		config: &oidc.Config{ClientID: audience, SupportedSigningAlgs: signingAlgorithms(), Now: clk.Now},
	}
}

// signingAlgorithms are those that an issuer may use: none with a shared key.
func signingAlgorithms() []string {
	return []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384}
}

// check returns why a request's token is refused; errIssuer where the issuer could not be asked. The text holds nothing of the token.
func (v *verifier) check(r *http.Request) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return errors.New("the delivery has no bearer token: configure Entra ID in the event subscription")
	}
	keys := &keysOfOne{issuerKeys: v.keys}
	_, err := oidc.NewVerifier(v.keys.issuer, keys, v.config).Verify(r.Context(), strings.TrimSpace(token))
	expired, isExpired := errors.AsType[*oidc.TokenExpiredError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(keys.err, errIssuer):
		return keys.err
	case isExpired:
		return fmt.Errorf("the token expired at %s", expired.Expiry.UTC().Format(time.RFC3339))
	}
	return errors.New("the token is not one of the issuer for the audience, or its signature is wrong: check --events-issuer and --events-audience")
}

// keysOfOne implements oidc.KeySet for one token, and keeps the error, which the library makes a text of.
type keysOfOne struct {
	*issuerKeys

	err error
}

// VerifySignature implements oidc.KeySet.
func (k *keysOfOne) VerifySignature(ctx context.Context, token string) (payload []byte, err error) {
	payload, k.err = k.issuerKeys.VerifySignature(ctx, token)
	return payload, k.err
}

// issuerKeys implements oidc.KeySet with the keys that the issuer's OpenID metadata names.
type issuerKeys struct {
	issuer    string
	transport http.RoundTripper
	clock     clock.PassiveClock

	mu   sync.Mutex
	keys []jose.JSONWebKey
	// asked is when the keys were asked for last, and fetched when they came last.
	asked, fetched time.Time
}

// VerifySignature implements oidc.KeySet.
func (k *issuerKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	algorithms := make([]jose.SignatureAlgorithm, 0, len(signingAlgorithms()))
	for _, a := range signingAlgorithms() {
		algorithms = append(algorithms, jose.SignatureAlgorithm(a))
	}
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || len(signed.Signatures) != 1 {
		return nil, errors.New("no token with one signature")
	}
	id := signed.Signatures[0].Header.KeyID
	keys, err := k.find(ctx, id)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		if payload, err := signed.Verify(&keys[i]); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("no key of the issuer made the signature")
}

// find returns the keys with the id. One request at a time asks the issuer; others wait for it.
func (k *issuerKeys) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	found := k.named(id)
	old := now.Sub(k.fetched) > keysLife
	if len(found) > 0 && !old {
		return found, nil
	}
	if pause := now.Sub(k.asked); pause >= 0 && pause < keysPause && !k.asked.IsZero() {
		if k.fetched.IsZero() {
			return nil, errIssuer
		}
		return found, nil
	}
	k.asked = now
	keys, err := k.fetch(ctx)
	switch {
	case err == nil:
		k.keys, k.fetched = keys, now
		return k.named(id), nil
	case len(found) > 0 || !k.fetched.IsZero() && !old:
		return found, nil // those that are known stay good while the issuer is away
	}
	return nil, fmt.Errorf("%w: %w", errIssuer, err)
}

func (k *issuerKeys) named(id string) (found []jose.JSONWebKey) {
	for _, key := range k.keys {
		if key.KeyID == id && (key.Use == "" || key.Use == "sig") {
			found = append(found, key)
		}
	}
	return found
}

// fetch reads the metadata and the keys.
func (k *issuerKeys) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTimeout) // whoever asked may go away; others wait for the answer
	defer cancel()
	var metadata struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &metadata); err != nil {
		return nil, err
	}
	if metadata.Issuer != k.issuer {
		return nil, fmt.Errorf("the metadata is of the issuer %.200q: write it as --events-issuer", metadata.Issuer)
	}
	if u, err := url.Parse(metadata.Keys); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the metadata names no https URL of keys")
	}
	var set jose.JSONWebKeySet
	if err := k.get(ctx, metadata.Keys, &set); err != nil {
		return nil, err
	}
	keys := make([]jose.JSONWebKey, 0, len(set.Keys))
	for _, key := range set.Keys {
		if key.Valid() && key.IsPublic() {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the issuer has no keys")
	}
	return keys, nil
}

// get reads a JSON document. No redirect is followed.
func (k *issuerKeys) get(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	response, err := k.transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("%s: %w", request.URL.Host, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d", request.URL.Host, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, mostBytes))
	if err != nil {
		return fmt.Errorf("%s: %w", request.URL.Host, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: no JSON of the kind", request.URL.Host)
	}
	return nil
}
