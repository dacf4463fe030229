package emulator

import (
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is a SHA-1 thumbprint
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
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

	// Audience is one text, as Entra ID writes it, and not a list.
	Audience string `json:"aud"`
	AppID    string `json:"appid"`
	OID      string `json:"oid"`
	Tenant   string `json:"tid"`
}

// entra answers as Entra ID and AD FS do.
func (s *Server) entra(x *exchange) reply {
	x.header = map[string]string{
		"Cache-Control":             "no-store, no-cache",
		"Expires":                   "-1",
		"Pragma":                    "no-cache",
		"P3p":                       `CP="DSP CUR OTPi IND OTRi ONL FIN"`,
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains",
		"X-Content-Type-Options":    "nosniff",
		"X-Ms-Ests-Server":          "2.1.0.0 - EMULATOR ProdSlices",
		"X-Xss-Protection":          "0",
	}
	if id := x.Header.Get("Client-Request-Id"); id != "" {
		x.header["Client-Request-Id"] = id
	}
	parts := strings.Split(strings.Trim(x.URL.Path, "/"), "/")
	if x.URL.Path == "/common/discovery/instance" {
		x.record.Operation = "discovery"
		return s.instanceDiscovery(x)
	}
	tenant := parts[0]
	switch rest := strings.Join(parts[1:], "/"); rest {
	case "v2.0/.well-known/openid-configuration", ".well-known/openid-configuration":
		x.record.Operation = "openid configuration"
		return s.openIDConfiguration(x, tenant, strings.HasPrefix(rest, "v2.0/"))
	case "discovery/v2.0/keys", "discovery/keys":
		x.record.Operation = "keys"
		return s.publicKeys(x)
	case "oauth2/v2.0/token", "oauth2/token":
		x.record.Operation = "token"
		return s.token(x, tenant)
	}
	x.record.Operation = "unknown"
	return x.oauth(http.StatusNotFound, "invalid_request", 900144, "unknown endpoint "+x.URL.Path)
}

// discoverable makes an answer of the discovery endpoints: clients may keep it for a day.
func (x *exchange) discoverable(body any) reply {
	x.header["Cache-Control"] = "max-age=86400, private"
	x.header["Access-Control-Allow-Origin"] = "*"
	x.header["Access-Control-Allow-Methods"] = "GET, OPTIONS"
	delete(x.header, "Expires")
	delete(x.header, "Pragma")
	return reply{status: http.StatusOK, body: body}
}

// openIDConfiguration is a tenant's discovery document.
type openIDConfiguration struct {
	TokenEndpoint         string   `json:"token_endpoint"`
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported"`
	JWKSURI               string   `json:"jwks_uri"`
	ResponseModes         []string `json:"response_modes_supported"`
	SubjectTypes          []string `json:"subject_types_supported"`
	SigningAlgorithms     []string `json:"id_token_signing_alg_values_supported"`
	ResponseTypes         []string `json:"response_types_supported"`
	Scopes                []string `json:"scopes_supported"`
	Issuer                string   `json:"issuer"`
	RequestURIs           bool     `json:"request_uri_parameter_supported"`
	UserInfoEndpoint      string   `json:"userinfo_endpoint"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	DeviceEndpoint        string   `json:"device_authorization_endpoint"`
	HTTPLogout            bool     `json:"http_logout_supported"`
	FrontChannelLogout    bool     `json:"frontchannel_logout_supported"`
	EndSessionEndpoint    string   `json:"end_session_endpoint"`
	Claims                []string `json:"claims_supported"`
	KerberosEndpoint      string   `json:"kerberos_endpoint"`
	TenantRegionScope     string   `json:"tenant_region_scope"`
	CloudInstance         string   `json:"cloud_instance_name"`
	CloudGraphHost        string   `json:"cloud_graph_host_name"`
	GraphHost             string   `json:"msgraph_host"`
	RBACURL               string   `json:"rbac_url"`
}

func (s *Server) openIDConfiguration(x *exchange, tenant string, v2 bool) reply {
	s.state.mu.Lock()
	_, known := s.state.tenants[tenant]
	s.state.mu.Unlock()
	if !known {
		return x.oauth(http.StatusBadRequest, "invalid_tenant", 90002, noTenant(tenant))
	}
	base := "https://" + x.record.Host + "/" + tenant
	token, issuer := base+"/oauth2/v2.0/token", base+"/v2.0"
	switch {
	case tenant == "adfs":
		token, issuer = base+"/oauth2/token", base
	case !v2:
		issuer = v1Issuer(tenant)
	}
	return x.discoverable(openIDConfiguration{
		TokenEndpoint:         token,
		TokenAuthMethods:      []string{"client_secret_post", "private_key_jwt", "client_secret_basic"},
		JWKSURI:               base + "/discovery/v2.0/keys",
		ResponseModes:         []string{"query", "fragment", "form_post"},
		SubjectTypes:          []string{"pairwise"},
		SigningAlgorithms:     []string{"RS256"},
		ResponseTypes:         []string{"code", "id_token", "code id_token", "id_token token"},
		Scopes:                []string{"openid", "profile", "email", "offline_access"},
		Issuer:                issuer,
		UserInfoEndpoint:      "https://graph.microsoft.com/oidc/userinfo",
		AuthorizationEndpoint: base + "/oauth2/v2.0/authorize",
		DeviceEndpoint:        base + "/oauth2/v2.0/devicecode",
		HTTPLogout:            true,
		FrontChannelLogout:    true,
		EndSessionEndpoint:    base + "/oauth2/v2.0/logout",
		Claims: []string{
			"sub", "iss", "cloud_instance_name", "cloud_instance_host_name", "cloud_graph_host_name", "msgraph_host", "aud",
			"exp", "iat", "auth_time", "acr", "nonce", "preferred_username", "name", "tid", "ver", "at_hash", "c_hash", "email",
		},
		KerberosEndpoint:  base + "/kerberos",
		TenantRegionScope: "WW",
		CloudInstance:     "microsoftonline.com",
		CloudGraphHost:    "graph.windows.net",
		GraphHost:         "graph.microsoft.com",
		RBACURL:           "https://pas.windows.net",
	})
}

func noTenant(tenant string) string {
	return fmt.Sprintf("Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. "+
		"Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.", tenant)
}

// instanceMetadata are the clouds of Entra ID, with the names that mean the same.
type instanceMetadata struct {
	TenantDiscoveryEndpoint string          `json:"tenant_discovery_endpoint"`
	APIVersion              string          `json:"api-version"`
	Metadata                []cloudInstance `json:"metadata"`
}

type cloudInstance struct {
	PreferredNetwork string   `json:"preferred_network"`
	PreferredCache   string   `json:"preferred_cache"`
	Aliases          []string `json:"aliases"`
}

func (s *Server) instanceDiscovery(x *exchange) reply {
	endpoint := x.URL.Query().Get("authorization_endpoint")
	tenant := "common"
	if parts := strings.Split(endpoint, "/"); len(parts) > 3 {
		tenant = parts[3]
	}
	return x.discoverable(instanceMetadata{
		TenantDiscoveryEndpoint: "https://" + x.record.Host + "/" + tenant + "/v2.0/.well-known/openid-configuration",
		APIVersion:              "1.1",
		Metadata: []cloudInstance{
			{
				"login.microsoftonline.com", "login.windows.net",
				[]string{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
			},
			{
				"login.partner.microsoftonline.cn", "login.partner.microsoftonline.cn",
				[]string{"login.partner.microsoftonline.cn", "login.chinacloudapi.cn"},
			},
			{"login.microsoftonline.de", "login.microsoftonline.de", []string{"login.microsoftonline.de"}},
			{
				"login.microsoftonline.us", "login.microsoftonline.us",
				[]string{"login.microsoftonline.us", "login.usgovcloudapi.net"},
			},
			{"login-us.microsoftonline.com", "login-us.microsoftonline.com", []string{"login-us.microsoftonline.com"}},
		},
	})
}

// oauthProblem is an OAuth error (RFC 6749, 5.2) as Entra ID and the instance metadata service write it.
type oauthProblem struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes,omitempty"`
	Timestamp     string `json:"timestamp,omitempty"`
	TraceID       string `json:"trace_id,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
	URI           string `json:"error_uri,omitempty"`
}

// oauth makes an error body with an AADSTS code. The trace id is that of the header; the correlation id is the
// client's.
func (x *exchange) oauth(status int, kind string, code int, text string) reply {
	now := time.Now().UTC().Format("2006-01-02 15:04:05Z")
	// the JavaScript clients send it in the body
	correlation := cmp.Or(x.Header.Get("Client-Request-Id"), x.Form.Get("client-request-id"),
		x.Header.Get("X-Ms-Client-Request-Id"), newID())
	x.header["X-Ms-Clitelem"] = fmt.Sprintf("1,%d,0,,", code)
	return reply{status: status, body: oauthProblem{
		Error: kind,
		Description: fmt.Sprintf("AADSTS%d: %s\r\nTrace ID: %s\r\nCorrelation ID: %s\r\nTimestamp: %s", code, text, x.requestID,
			correlation, now),
		Codes: []int{code}, Timestamp: now, TraceID: x.requestID, CorrelationID: correlation,
		URI: fmt.Sprintf("https://%s/error?code=%d", x.record.Host, code),
	}}
}

// tokenBody is an access token. Where it lasts two hours or more, half of it is when clients are to ask again.
type tokenBody struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	ExtExpiresIn int    `json:"ext_expires_in"`
	RefreshIn    int    `json:"refresh_in,omitempty"`
	AccessToken  string `json:"access_token"`
}

func (s *Server) token(x *exchange, tenant string) reply {
	x.Body = http.MaxBytesReader(nil, x.Body, 1<<20)
	if err := x.ParseForm(); err != nil || x.Method != http.MethodPost {
		return x.oauth(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: 'grant_type'.")
	}
	form := x.PostForm
	client := form.Get("client_id")
	x.record.Name, x.record.Caller = client, client
	if form.Get("grant_type") != "client_credentials" {
		return x.oauth(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	apps, ok := s.state.tenants[tenant]
	if !ok {
		return x.oauth(http.StatusBadRequest, "invalid_request", 90002, noTenant(tenant))
	}
	app, ok := apps[client]
	if !ok {
		return x.oauth(http.StatusBadRequest, "unauthorized_client", 700016, fmt.Sprintf("Application with identifier '%s' was not found in the "+
			"directory '%s'. This can happen if the application has not been installed by the administrator of the tenant or consented to by "+
			"any user in the tenant. You may have sent your authentication request to the wrong tenant.", client, tenant))
	}
	var audience string
	for scope := range strings.FieldsSeq(form.Get("scope") + " " + form.Get("resource")) {
		if strings.HasPrefix(scope, "https://") {
			audience = strings.TrimSuffix(scope, "/.default")
		}
	}
	if audience == "" {
		return x.oauth(http.StatusBadRequest, "invalid_scope", 70011, fmt.Sprintf("The provided request must include a 'scope' input parameter. "+
			"The provided value for the input parameter 'scope' is not valid. The scope %s is not valid.", form.Get("scope")))
	}
	if refused := s.checkClient(app, tenant, form.Get("client_secret"), form.Get("client_assertion"), x); refused != nil {
		return *refused
	}
	x.header["X-Ms-Clitelem"] = "1,0,0,,"
	body := tokenBody{
		TokenType:   "Bearer",
		ExpiresIn:   max(0, int(s.state.lifetime.Seconds())-1),
		AccessToken: s.accessToken(caller{clientID: client, objectID: app.ObjectID, tenant: tenant}, audience),
	}
	body.ExtExpiresIn = body.ExpiresIn
	if s.state.lifetime >= 2*time.Hour {
		body.RefreshIn = body.ExpiresIn / 2
	}
	return reply{status: http.StatusOK, body: body}
}

// checkClient verifies a client secret or assertion; it returns nil where it is good. The caller holds the lock.
func (s *Server) checkClient(app *application, tenant, secret, assertion string, x *exchange) *reply {
	refuse := func(kind string, code int, text string) *reply {
		a := x.oauth(http.StatusUnauthorized, kind, code, text)
		return &a
	}
	switch {
	case secret != "":
		for _, known := range app.Secrets {
			if known.Value != secret {
				continue
			}
			if !known.Expires.IsZero() && s.state.now().After(known.Expires) {
				return refuse("invalid_client", 7000222, fmt.Sprintf("The provided client secret keys for app '%s' are expired. "+
					"Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate "+
					"credentials for added security: https://aka.ms/certCreds.", app.ClientID))
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
		return s.checkCertificateAssertion(parser, app, tenant, assertion, thumb, which, x)
	}
	keys, known := s.state.issuers[claims.Issuer]
	if !known {
		return 700211, noFederated("issuer", claims.Issuer)
	}
	var federated *Federated
	for i, f := range app.Federated {
		if f.Issuer == claims.Issuer && f.Subject == claims.Subject {
			federated = &app.Federated[i]
		}
	}
	if federated == nil {
		return 700213, noFederated("subject", claims.Subject)
	}
	audience := federated.Audience
	if audience == "" {
		audience = exchangeAudience
	}
	if !slices.Contains(claims.Audience, audience) {
		return 700212, noFederated("audience", strings.Join(claims.Audience, " "))
	}
	for _, key := range keys {
		_, err = parser.ParseWithClaims(assertion, &jwt.RegisteredClaims{}, func(*jwt.Token) (any, error) { return key, nil })
		if err == nil {
			return 0, ""
		}
		if errors.Is(err, jwt.ErrTokenExpired) {
			return 700024, s.outOfTime(claims)
		}
	}
	return 7000272, "The signature of the client assertion is not valid."
}

func noFederated(part, value string) string {
	return fmt.Sprintf("No matching federated identity record found for presented assertion %s '%s'. Check your federated identity credential "+
		"Subject, Audience and Issuer against the presented assertion. https://learn.microsoft.com/entra/workload-id/workload-identity-federation",
		part, value)
}

// outOfTime explains AADSTS700024. The caller holds the lock.
func (s *Server) outOfTime(claims jwt.RegisteredClaims) string {
	const form = "2006-01-02T15:04:05.0000000Z"
	from, to := time.Unix(0, 0), time.Unix(0, 0)
	if claims.NotBefore != nil {
		from = claims.NotBefore.Time
	}
	if claims.ExpiresAt != nil {
		to = claims.ExpiresAt.Time
	}
	return fmt.Sprintf("Client assertion is not within its valid time range. Current time: %s, assertion valid from %s, expiry time of "+
		"assertion %s. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .",
		s.state.now().UTC().Format(form), from.UTC().Format(form), to.UTC().Format(form))
}

func thumbprint(header map[string]any) (value, which string) {
	for _, which := range []string{"x5t#S256", "x5t"} {
		if value, ok := header[which].(string); ok {
			return value, which
		}
	}
	return "", ""
}

func (s *Server) checkCertificateAssertion(parser *jwt.Parser, app *application, tenant, assertion, thumb, which string,
	x *exchange,
) (code int, text string) {
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
				return 700024, s.outOfTime(claims)
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
		"was not found., Thumbprint of key used by client: '%s', Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see "+
		"configured keys for app Id '%s'.", hexadecimal(thumb), app.ClientID)
}

// hexadecimal writes a base64 thumbprint as Entra ID quotes it.
func hexadecimal(thumb string) string {
	raw, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(thumb, "=")))
	if err != nil {
		return thumb
	}
	return strings.ToUpper(hex.EncodeToString(raw))
}

// accessToken signs an access token. The caller holds the lock.
func (s *Server) accessToken(c caller, audience string) string {
	id, now := newID(), s.state.now()
	s.state.revoked[id] = false
	token := jwt.NewWithClaims(jwt.SigningMethodES256, accessClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: id, Issuer: v1Issuer(c.tenant), Subject: c.objectID,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)),
			ExpiresAt: jwt.NewNumericDate(now.Add(s.state.lifetime)),
		},
		Audience: audience, AppID: c.clientID, OID: c.objectID, Tenant: c.tenant,
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
		return deny("AKV10000: Request is missing a Bearer, PoP, or MTLS_POP token.")
	}
	claims, err := s.verify(bearer)
	_, suffix, _ := strings.Cut(v.host, ".")
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return deny("[TokenExpired] Error validating token: IDX10223")
	case err != nil:
		return deny("AKV10001: Signature could not be validated.")
	case s.state.revoked[claims.ID]:
		return deny("[TokenRevoked] Error validating token")
	case claims.Audience != "https://"+suffix:
		return deny("AKV10022: Invalid audience. Expected https://" + suffix + ", found: " + claims.Audience + ".")
	case claims.Tenant != v.tenant:
		return deny("AKV10032: Invalid issuer. Expected one of https://sts.windows.net/" + v.tenant + "/, found " + claims.Issuer + ".")
	}
	return caller{clientID: claims.AppID, objectID: claims.OID, tenant: claims.Tenant}, nil
}

// mostVerified bounds the tokens whose signature is known to be right.
const mostVerified = 10000

// verify checks the signature of an access token, once, and its times. The caller holds the lock.
func (s *Server) verify(bearer string) (accessClaims, error) {
	options := []jwt.ParserOption{jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(s.state.now)}
	if known, ok := s.state.verified[bearer]; ok {
		return known, jwt.NewValidator(options...).Validate(known)
	}
	var claims accessClaims
	if _, err := jwt.ParseWithClaims(bearer, &claims, func(*jwt.Token) (any, error) { return s.signer.Public(), nil }, options...); err != nil {
		return claims, err
	}
	if len(s.state.verified) >= mostVerified {
		clear(s.state.verified)
	}
	s.state.verified[bearer] = claims
	return claims, nil
}

// addIssuer makes the keys of a service account issuer known.
func (st *state) addIssuer(i Issuer) error {
	text := []byte(i.PublicKey + i.JWKS)
	if i.File != "" {
		data, err := readFile(i.File)
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
