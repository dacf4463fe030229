//go:build clients

package clients

import (
	"crypto/sha1" //nolint:gosec // what x5t is
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const (
	vault   = "https://contoso.vault.azure.net/"
	first   = "/00000000000000000000000000000001"
	second  = "/00000000000000000000000000000002"
	third   = "/00000000000000000000000000000003"
	current = `new: ä € 𝄞 \ "`
)

type object = map[string]any

// results are what the steps that succeed give, but for what the test reads with own code.
var results = map[string]any{
	"secret": object{
		"id":            vault + "secrets/db" + third,
		"value":         current,
		"contentType":   "text/plain",
		"tags":          object{"team": "shop", "stage": "1"},
		"enabled":       true,
		"created":       1772323200,
		"updated":       1772323200,
		"notBefore":     1772409600,
		"expires":       2208988800,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       nil,
		"kid":           nil,
	},
	"secret version": object{
		"id":            vault + "secrets/db" + first,
		"value":         "old",
		"contentType":   nil,
		"tags":          nil,
		"enabled":       true,
		"created":       1767225600,
		"updated":       1767225600,
		"notBefore":     nil,
		"expires":       nil,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       nil,
		"kid":           nil,
	},
	"secret of a certificate": object{
		"id":            vault + "secrets/shop" + second,
		"contentType":   "application/x-pem-file",
		"tags":          nil,
		"enabled":       true,
		"created":       1769904000,
		"updated":       1769904000,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       true,
		"kid":           vault + "keys/shop" + second,
	},
	"secrets":         list("secrets/busy", "secrets/db", "secrets/off", "secrets/off-cert", "secrets/shop"),
	"secret versions": list("secrets/db"+first, "secrets/db"+second, "secrets/db"+third),
	"deleted secret":  deleted("secrets", "gone"),
	"deleted secrets": list("secrets/gone", "secrets/gone-cert"),

	"key": object{
		"id":            vault + "keys/signing" + second,
		"type":          "EC-HSM",
		"curve":         "P-384",
		"operations":    []any{"sign", "verify"},
		"tags":          object{"team": "shop"},
		"enabled":       true,
		"created":       1769904000,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       nil,
		"modulus":       0,
		"x":             48,
		"private":       false,
	},
	"key version": object{
		"id":            vault + "keys/signing" + first,
		"type":          "EC",
		"curve":         "P-256",
		"operations":    []any{"sign", "verify"},
		"tags":          nil,
		"enabled":       true,
		"created":       1767225600,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       nil,
		"modulus":       0,
		"x":             32,
		"private":       false,
	},
	"RSA key": object{
		"id":            vault + "keys/wrapping" + first,
		"type":          "RSA",
		"curve":         nil,
		"operations":    []any{"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"},
		"tags":          nil,
		"enabled":       true,
		"created":       1767225600,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       nil,
		"modulus":       256,
		"x":             0,
		"private":       false,
	},
	"disabled key": object{
		"id":            vault + "keys/off" + first,
		"type":          "EC",
		"curve":         "P-256",
		"operations":    []any{"sign", "verify"},
		"tags":          nil,
		"enabled":       false,
		"created":       1767225600,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       nil,
		"modulus":       0,
		"x":             32,
		"private":       false,
	},
	"key of a certificate": object{
		"id":            vault + "keys/shop" + second,
		"type":          "EC",
		"curve":         "P-256",
		"operations":    []any{"sign", "verify"},
		"tags":          nil,
		"enabled":       true,
		"created":       1769904000,
		"recoveryLevel": "Recoverable+Purgeable",
		"managed":       true,
		"modulus":       0,
		"x":             32,
		"private":       false,
	},
	"keys":                list("keys/off", "keys/off-cert", "keys/shop", "keys/signing", "keys/wrapping"),
	"key versions":        list("keys/signing"+first, "keys/signing"+second),
	"key rotation policy": 1,
	"deleted key":         deleted("keys", "gone"),
	"deleted keys":        list("keys/gone", "keys/gone-cert"),

	"certificate": object{
		"id":            vault + "certificates/shop" + second,
		"kid":           vault + "keys/shop" + second,
		"sid":           vault + "secrets/shop" + second,
		"tags":          object{"team": "shop"},
		"enabled":       true,
		"created":       1769904000,
		"recoveryLevel": "Recoverable+Purgeable",
		"policy": object{
			"subject":     "CN=shop.example.com",
			"contentType": "application/x-pem-file",
			"type":        "EC",
			"issuer":      "Self",
		},
	},
	"certificate version": object{
		"id":            vault + "certificates/shop" + first,
		"kid":           vault + "keys/shop" + first,
		"sid":           vault + "secrets/shop" + first,
		"tags":          nil,
		"enabled":       true,
		"created":       1767225600,
		"recoveryLevel": "Recoverable+Purgeable",
		"policy":        nil,
	},
	"disabled certificate": object{
		"id":            vault + "certificates/off-cert" + first,
		"kid":           vault + "keys/off-cert" + first,
		"sid":           vault + "secrets/off-cert" + first,
		"tags":          nil,
		"enabled":       false,
		"created":       1767225600,
		"recoveryLevel": "Recoverable+Purgeable",
		"policy": object{
			"subject":     "CN=off-cert",
			"contentType": "application/x-pkcs12",
			"type":        "RSA",
			"issuer":      "Self",
		},
	},
	"certificate policy":    object{"subject": "CN=shop.example.com"},
	"certificate operation": object{"status": "completed", "target": vault + "certificates/shop"},
	"certificate issuers":   []any{},
	"certificates":          list("certificates/off-cert", "certificates/shop"),
	"certificate versions":  list("certificates/shop"+first, "certificates/shop"+second),
	"deleted certificate":   deleted("certificates", "gone-cert"),
	"deleted certificates":  list("certificates/gone-cert"),

	"set secret": object{
		"value":   "v1",
		"tags":    object{"a": "b"},
		"expires": 2100000000, // the JavaScript client has 31 bits
		"enabled": true,
	},
	"update secret":  object{"tags": object{"c": "d"}, "enabled": true},
	"restore secret": "v1",
	"recover secret": "v1",

	"create keys":         []any{"RSA", 256, "EC", "P-256"},
	"import key":          object{"type": "EC", "curve": "P-256"},
	"sign with RS256":     true,
	"sign with PS256":     true,
	"sign with ES256":     true,
	"encrypt and decrypt": "plaintext",
	"wrap and unwrap":     "key",
	"rotate key":          object{"actions": 2, "days": 90},
	"update key":          object{"enabled": false, "operations": []any{"verify"}},
	"restore key":         "P-256",

	"create certificate": object{
		"subject":     "CN=made.example",
		"names":       []any{"made.example"},
		"contentType": "application/x-pem-file",
		"enabled":     true,
		"secret":      "-----BEGIN PRIVATE KEY-----",
	},
	"update certificate":  object{"c": "d"},
	"import certificate":  true,
	"certificate issuer":  "Test user",
	"set contacts":        []any{"one@localhost"},
	"restore certificate": true,

	"throttled once":                "free",
	"default credential":            current,
	"federated token":               current,
	"client certificate":            current,
	"managed identity":              current,
	"managed identity by client ID": current,
}

func list(ids ...string) (all []any) {
	for _, id := range ids {
		all = append(all, vault+id)
	}
	return all
}

func deleted(kind, name string) object {
	return object{"id": vault + kind + "/" + name + first, "recoveryId": vault + "deleted" + kind + "/" + name, "days": 90}
}

// failures are how the other steps fail. Clients give the status and the code of a vault's errors, and the text of
// others.
var failures = map[string]failure{
	"missing secret": {404, "SecretNotFound",
		"A secret with (name/id) none was not found in this key vault. If you recently deleted this secret"},
	"missing deleted secret": {404, "SecretNotFound", "Deleted Secret not found: db"},
	"deleted secret that never was": {404, "SecretNotFound",
		"A secret with (name/id) none was not found in this key vault."},
	"certificate contacts": {404, "ContactsNotFound", "Contacts not found"},
	"missing key":          {404, "KeyNotFound", "A key with (name/id) none was not found in this key vault."},
	"missing certificate": {404, "CertificateNotFound",
		"A certificate with (name/id) none was not found in this key vault."},
	"set a deleted secret": {409, "Conflict", "Secret made is currently in a deleted but recoverable state, and its name cannot be reused"},
	"malformed backup":     {400, "Malformed backup blob", "Backup blob is corrupt."},

	"disabled secret":       {403, "Forbidden", "Operation get is not allowed on a disabled secret."},
	"name of no secret":     {400, "BadParameter", "The request URI contains an invalid name: no_name"},
	"forbidden by role":     {403, "Forbidden", "Caller is not authorized to perform action on resource."},
	"forbidden by policy":   {403, "Forbidden", "does not have secrets get permission on key vault 'tailspin;location="},
	"forbidden by firewall": {403, "Forbidden", "Client address is not authorized and caller is not a trusted service."},

	"managed identity that is none":      {0, "", "Identity not found"},
	"wrong client secret":                {0, "", "AADSTS7000215: Invalid client secret provided."},
	"unknown client":                     {0, "", "AADSTS700016: Application with identifier"},
	"unknown tenant":                     {0, "", "AADSTS90002: Tenant '99999999-9999-9999-9999-999999999999' not found."},
	"federated token of another subject": {0, "", "AADSTS700213: No matching federated identity record found"},
}

// words are what Python's clients say in place of the service.
var words = map[string]map[string]string{
	"python": {
		"managed identity that is none": "The requested identity has not been assigned to this resource.",
		"unknown tenant":                "Unable to get authority configuration",
	},
}

// reads are how often the steps read what they do not repeat: clients follow the pages.
var reads = map[string]int{
	"list secret":              5,
	"list key":                 4,
	"list certificate":         2,
	"list deleted secret":      1,
	"list deleted key":         1,
	"list deleted certificate": 1,
	"get certificate policy":   1,
}

func TestClients(t *testing.T) {
	for language, command := range languages(t) {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			e := start(t)
			found := e.run(t, command)
			for step, want := range results {
				o := found[step]
				if o.Error != nil {
					t.Errorf("%s: %+v", step, *o.Error)
					continue
				}
				own(t, step, o.Result)
				if want := normal(t, want); !reflect.DeepEqual(o.Result, want) {
					t.Errorf("%s:\ngot  %v\nwant %v", step, o.Result, want)
				}
			}
			for step, want := range failures {
				got := found[step].Error
				if text, ok := words[language][step]; ok {
					want.Message = text
				}
				if got == nil || want.Status != 0 && (got.Status != want.Status || got.Code != want.Code) ||
					!strings.Contains(got.Message, want.Message) {
					t.Errorf("%s:\ngot  %+v\nwant %+v", step, got, want)
				}
			}
			for _, step := range slices.Sorted(maps.Keys(found)) {
				if _, ok := failures[step]; !ok && results[step] == nil {
					t.Errorf("%s is not expected", step)
				}
			}
			var counts map[string]int
			must(t, json.Unmarshal(e.control(t, "GET", "/counts", ""), &counts))
			for operation, want := range reads {
				if counts[operation] != want {
					t.Errorf("%s: %d requests, not %d", operation, counts[operation], want)
				}
			}
		})
	}
}

// own checks and takes out what is made when the emulator starts.
func own(t *testing.T, step string, result any) {
	t.Helper()
	o, ok := result.(object)
	if !ok {
		return
	}
	if text, ok := o["cer"].(string); ok {
		der, err := base64.StdEncoding.DecodeString(text)
		must(t, err)
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Errorf("%s: %v", step, err)
			return
		}
		sum := sha1.Sum(certificate.Raw) //nolint:gosec // what x5t is
		if hex.EncodeToString(sum[:]) != o["x5t"] {
			t.Errorf("%s: x5t %v is not that of the certificate", step, o["x5t"])
		}
		delete(o, "cer")
		delete(o, "x5t")
	}
	if step == "secret of a certificate" {
		value, _ := o["value"].(string)
		key, rest := pem.Decode([]byte(value))
		leaf, rest := pem.Decode(rest)
		issuer, rest := pem.Decode(rest)
		if key == nil || key.Type != "PRIVATE KEY" || leaf == nil || issuer == nil || len(rest) > 0 {
			t.Errorf("%s: not a key with a chain of two certificates", step)
			return
		}
		certificate, err := x509.ParseCertificate(leaf.Bytes)
		must(t, err)
		got := []any{o["notBefore"], o["expires"]}
		want := []any{float64(certificate.NotBefore.Unix()), float64(certificate.NotAfter.Unix())}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: valid %v, not %v as its certificate", step, got, want)
		}
		for _, field := range []string{"value", "notBefore", "expires"} {
			delete(o, field)
		}
	}
}

// normal is a value as it is read from JSON.
func normal(t *testing.T, value any) (read any) {
	t.Helper()
	data, err := json.Marshal(value)
	must(t, err)
	must(t, json.Unmarshal(data, &read))
	return read
}
