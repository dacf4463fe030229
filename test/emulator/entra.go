package emulator

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is a SHA-1 thumbprint
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const exchangeAudience = "api://AzureADTokenExchange"

// caller is whom an access token is for.
type caller struct{ clientID, objectID, tenant string }

// accessClaims are those of the access tokens that the emulator gives.
type accessClaims struct {
	jwt.RegisteredClaims
	AppID  string `json:"appid"`
	OID    string `json:"oid"`
	Tenant string `json:"tid"`
}

// entra answers as Entra ID and AD FS do.
func (s *Server) entra(x *exchange) reply {
	parts := strings.Split(strings.Trim(x.URL.Path, "/"), "/")
	if x.URL.Path == "/common/discovery/instance" {
		x.record.Operation = "discovery"
		return s.instanceDiscovery(x)
	}
	tenant := parts[0]
	base := "https://" + x.record.Host + "/" + tenant
	switch rest := strings.Join(parts[1:], "/"); rest {
	case "v2.0/.well-known/openid-configuration", ".well-known/openid-configuration":
		x.record.Operation = "openid configuration"
		s.state.mu.Lock()
		_, known := s.state.tenants[tenant]
		s.state.mu.Unlock()
		if !known {
			return s.oauth(http.StatusBadRequest, "invalid_tenant", 90002, fmt.Sprintf("Tenant '%s' not found. Check to make sure you have the "+
				"correct tenant ID and are signing into the correct cloud.", tenant))
		}
		token, issuer := base+"/oauth2/v2.0/token", base+"/v2.0"
		if tenant == "adfs" {
			token, issuer = base+"/oauth2/token", base
		}
		return reply{status: http.StatusOK, body: map[string]any{
			"issuer": issuer, "token_endpoint": token, "authorization_endpoint": base + "/oauth2/v2.0/authorize",
			"jwks_uri": base + "/discovery/v2.0/keys",
		}}
	case "oauth2/v2.0/token", "oauth2/token":
		x.record.Operation = "token"
		return s.token(x, tenant)
	}
	x.record.Operation = "unknown"
	return s.oauth(http.StatusNotFound, "invalid_request", 900144, "unknown endpoint "+x.URL.Path)
}

func (s *Server) instanceDiscovery(x *exchange) reply {
	endpoint := x.URL.Query().Get("authorization_endpoint")
	tenant := "common"
	if parts := strings.Split(endpoint, "/"); len(parts) > 3 {
		tenant = parts[3]
	}
	return reply{status: http.StatusOK, body: map[string]any{
		"tenant_discovery_endpoint": "https://" + x.record.Host + "/" + tenant + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata": []any{map[string]any{
			"preferred_network": "login.microsoftonline.com", "preferred_cache": "login.windows.net",
			"aliases": []string{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
		}},
	}}
}

// oauth makes an error body with an AADSTS code.
func (s *Server) oauth(status int, kind string, code int, text string) reply {
	trace, correlation, now := newID(), newID(), time.Now().UTC().Format("2006-01-02 15:04:05Z")
	return reply{status: status, body: map[string]any{
		"error": kind, "error_codes": []int{code}, "timestamp": now, "trace_id": trace, "correlation_id": correlation,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s", code, text, trace, correlation, now),
		"error_uri":         fmt.Sprintf("https://login.microsoftonline.com/error?code=%d", code),
	}}
}

func (s *Server) token(x *exchange, tenant string) reply {
	x.Body = http.MaxBytesReader(nil, x.Body, 1<<20)
	if err := x.ParseForm(); err != nil || x.Method != http.MethodPost {
		return s.oauth(http.StatusBadRequest, "invalid_request", 900144, "The request body must be a form.")
	}
	form := x.PostForm
	client := form.Get("client_id")
	x.record.Name, x.record.Caller = client, client
	if form.Get("grant_type") != "client_credentials" {
		return s.oauth(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	apps, ok := s.state.tenants[tenant]
	if !ok {
		return s.oauth(http.StatusBadRequest, "invalid_request", 90002, fmt.Sprintf("Tenant '%s' not found.", tenant))
	}
	app, ok := apps[client]
	if !ok {
		return s.oauth(http.StatusBadRequest, "unauthorized_client", 700016, fmt.Sprintf("Application with identifier '%s' was not found in the "+
			"directory '%s'.", client, tenant))
	}
	var audience string
	for scope := range strings.FieldsSeq(form.Get("scope") + " " + form.Get("resource")) {
		if strings.HasPrefix(scope, "https://") {
			audience = strings.TrimSuffix(scope, "/.default")
		}
	}
	if audience == "" {
		return s.oauth(http.StatusBadRequest, "invalid_scope", 70011, "The provided value for the input parameter 'scope' is not valid.")
	}
	if refused := s.checkClient(app, tenant, form.Get("client_secret"), form.Get("client_assertion"), x); refused != nil {
		return *refused
	}
	token := s.accessToken(caller{clientID: client, objectID: app.ObjectID, tenant: tenant}, audience)
	seconds := int(s.state.lifetime.Seconds())
	return reply{status: http.StatusOK, body: map[string]any{
		"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token,
	}}
}

// checkClient verifies a client secret or assertion; it returns nil where it is good. The caller holds the lock.
func (s *Server) checkClient(app *application, tenant, secret, assertion string, x *exchange) *reply {
	refuse := func(kind string, code int, text string) *reply {
		a := s.oauth(http.StatusUnauthorized, kind, code, text)
		return &a
	}
	switch {
	case secret != "":
		for _, known := range app.Secrets {
			if known.Value != secret {
				continue
			}
			if !known.Expires.IsZero() && s.state.now().After(known.Expires) {
				return refuse("invalid_client", 7000222, fmt.Sprintf("The provided client secret keys for app '%s' are expired.", app.ClientID))
			}
			return nil
		}
		return refuse("invalid_client", 7000215, fmt.Sprintf("Invalid client secret provided. Ensure the secret being sent in the request is "+
			"the client secret value, not the client secret ID, for a secret added to app '%s'.", app.ClientID))
	case assertion == "":
		return refuse("invalid_client", 7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
	}
	code, text := s.checkAssertion(app, tenant, assertion, x)
	if code == 0 {
		return nil
	}
	kind := "invalid_client"
	if code == 700016 {
		kind = "unauthorized_client"
	}
	return refuse(kind, code, text)
}

// checkAssertion verifies a client assertion: by a certificate of the application where its header names one, else by a
// federated credential. It returns the AADSTS code of what is wrong, or 0.
func (s *Server) checkAssertion(app *application, tenant, assertion string, x *exchange) (code int, text string) {
	parser := jwt.NewParser(jwt.WithExpirationRequired(), jwt.WithLeeway(5*time.Minute), jwt.WithTimeFunc(s.state.now),
		jwt.WithValidMethods([]string{"RS256", "PS256", "ES256", "ES384"}))
	var claims jwt.RegisteredClaims
	unverified, _, err := jwt.NewParser().ParseUnverified(assertion, &claims)
	if err != nil {
		return 50027, "JWT token is invalid or malformed."
	}
	if thumb, which := thumbprint(unverified.Header); which != "" {
		return checkCertificateAssertion(parser, app, tenant, assertion, thumb, which, x)
	}
	keys, known := s.state.issuers[claims.Issuer]
	if !known {
		return 700211, fmt.Sprintf("No matching federated identity record found for presented assertion issuer '%s'. Please note that the "+
			"matching is done using a case-sensitive comparison.", claims.Issuer)
	}
	var federated *Federated
	for i, f := range app.Federated {
		if f.Issuer == claims.Issuer && f.Subject == claims.Subject {
			federated = &app.Federated[i]
		}
	}
	if federated == nil {
		return 700213, fmt.Sprintf("No matching federated identity record found for presented assertion subject '%s'. Please note that the "+
			"matching is done using a case-sensitive comparison.", claims.Subject)
	}
	audience := federated.Audience
	if audience == "" {
		audience = exchangeAudience
	}
	if !slices.Contains(claims.Audience, audience) {
		return 700212, fmt.Sprintf("No matching federated identity record found for presented assertion audience '%s'.",
			strings.Join(claims.Audience, " "))
	}
	for _, key := range keys {
		_, err = parser.ParseWithClaims(assertion, &jwt.RegisteredClaims{}, func(*jwt.Token) (any, error) { return key, nil })
		if err == nil {
			return 0, ""
		}
		if errors.Is(err, jwt.ErrTokenExpired) {
			return 700024, "Client assertion is not within its valid time range."
		}
	}
	return 7000272, "The signature of the client assertion is not valid."
}

func thumbprint(header map[string]any) (value, which string) {
	for _, which := range []string{"x5t#S256", "x5t"} {
		if value, ok := header[which].(string); ok {
			return value, which
		}
	}
	return "", ""
}

func checkCertificateAssertion(parser *jwt.Parser, app *application, tenant, assertion, thumb, which string, x *exchange) (code int, text string) {
	for _, certificate := range app.certificates {
		sum := sha256.Sum256(certificate.Raw)
		have := sum[:]
		if which == "x5t" {
			legacy := sha1.Sum(certificate.Raw) //nolint:gosec // x5t is a SHA-1 thumbprint
			have = legacy[:]
		}
		// Entra ID takes both base64 alphabets: Azure's own clients send the standard one
		sent := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(thumb, "="))
		if sent != base64.RawURLEncoding.EncodeToString(have) {
			continue
		}
		var claims jwt.RegisteredClaims
		if _, err := parser.ParseWithClaims(assertion, &claims, func(*jwt.Token) (any, error) { return certificate.PublicKey, nil }); err != nil {
			if errors.Is(err, jwt.ErrTokenExpired) {
				return 700024, "Client assertion is not within its valid time range."
			}
			return 700027, "Client assertion failed signature validation."
		}
		audience := "https://" + x.record.Host + "/" + tenant
		if claims.Issuer != app.ClientID || claims.Subject != app.ClientID || len(claims.Audience) != 1 ||
			!strings.HasPrefix(claims.Audience[0], audience) {
			return 700023, "Client assertion audience claim does not match Realm issuer."
		}
		return 0, ""
	}
	return 700027, fmt.Sprintf("The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key "+
		"was not found., Thumbprint of key used by client: '%s']", thumb)
}

// accessToken signs an access token. The caller holds the lock.
func (s *Server) accessToken(c caller, audience string) string {
	id, now := newID(), s.state.now()
	s.state.revoked[id] = false
	token := jwt.NewWithClaims(jwt.SigningMethodES256, accessClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: id, Issuer: "https://sts.windows.net/" + c.tenant + "/", Subject: c.objectID, Audience: jwt.ClaimStrings{audience},
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)),
			ExpiresAt: jwt.NewNumericDate(now.Add(s.state.lifetime)),
		},
		AppID: c.clientID, OID: c.objectID, Tenant: c.tenant,
	})
	signed, err := token.SignedString(s.signer)
	if err != nil {
		panic(err) // an ECDSA key signs
	}
	return signed
}

// authenticate verifies the access token of a request to a vault. The caller holds the lock.
func (s *Server) authenticate(x *exchange, v *vaultState) (caller, *reply) {
	deny := func(message string) (caller, *reply) {
		a := challenge(v.tenant, message)
		_, suffix, _ := strings.Cut(v.host, ".")
		a.header["WWW-Authenticate"] = strings.ReplaceAll(a.header["WWW-Authenticate"], "vault.azure.net", suffix)
		return caller{}, &a
	}
	bearer, ok := strings.CutPrefix(x.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return deny("AKV10000: Request is missing a Bearer or PoP token.")
	}
	var claims accessClaims
	_, err := jwt.ParseWithClaims(bearer, &claims, func(*jwt.Token) (any, error) { return s.signer.Public(), nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(s.state.now))
	_, suffix, _ := strings.Cut(v.host, ".")
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return deny("[TokenExpired] Error validating token: IDX10223")
	case err != nil:
		return deny("AKV10001: Signature could not be validated.")
	case s.state.revoked[claims.ID]:
		return deny("[TokenRevoked] Error validating token")
	case len(claims.Audience) != 1 || strings.TrimSuffix(claims.Audience[0], "/") != "https://"+suffix:
		return deny("AKV10022: Invalid audience. Expected https://" + suffix + ", found: " + strings.Join(claims.Audience, " ") + ".")
	case claims.Tenant != v.tenant:
		return deny("AKV10032: Invalid issuer. Expected one of https://sts.windows.net/" + v.tenant + "/, found " + claims.Issuer + ".")
	}
	return caller{clientID: claims.AppID, objectID: claims.OID, tenant: claims.Tenant}, nil
}

// addIssuer makes the keys of a service account issuer known.
func (st *state) addIssuer(i Issuer) error {
	text := []byte(i.PublicKey + i.JWKS)
	if i.File != "" {
		data, err := os.ReadFile(i.File)
		if err != nil {
			return fmt.Errorf("issuer %s: %w", i.Issuer, err)
		}
		text = data
	}
	keys, err := parsePublicKeys(text)
	if err != nil {
		return fmt.Errorf("issuer %s: %w", i.Issuer, err)
	}
	st.issuers[i.Issuer] = append(st.issuers[i.Issuer], keys...)
	return nil
}

func parsePublicKeys(text []byte) (keys []crypto.PublicKey, err error) {
	if strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
		return parseJWKS(text)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key crypto.PublicKey
		switch block.Type {
		case "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(block.Bytes); err == nil {
				key = c.PublicKey
			}
		default:
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no public key: give publicKey (PEM), jwks or file")
	}
	return keys, nil
}

func parseCertificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if _, ok := c.PublicKey.(*rsa.PublicKey); !ok {
		return nil, errors.New("only RSA certificates can sign client assertions")
	}
	return c, nil
}
