package emulator_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

const inProgress = `"cancellation_requested":false,"status":"inProgress","status_details":"Pending certificate created. `

func TestCreateCertificates(t *testing.T) {
	w := newWire(t)
	created := w.send(http.MethodPost, "/certificates/new/create", `{"policy":{"issuer":{"name":"self"},"x509_props":{"subject":"CN=DefaultPolicy"}}}`)
	created.is(t, "create", http.StatusAccepted, `{"id":"`+factsHost+`/certificates/new/pending","issuer":{"name":"self"},"csr":"MII…",`+inProgress+
		`Certificate request is in progress. This may take some time based on the issuer provider. Please check again later.","request_id":"…"}`)
	id := created.field(t, "request_id")
	created.has(t, "create", map[string]string{
		"Retry-After": "10",
		"Location":    factsHost + "/certificates/new/pending?api-version=2025-07-01&request_id=" + id,
	})
	w.get("/certificates/new/pending").is(t, "operation", http.StatusOK, `{"id":"…/pending","issuer":{"name":"self"},"csr":"`+created.field(t, "csr")+
		`","cancellation_requested":false,"status":"completed","target":"`+factsHost+`/certificates/new","request_id":"`+id+`"}`)
	const policy = `{"id":"…/certificates/new/policy","key_props":{"exportable":true,"kty":"RSA","key_size":2048,"reuse_key":false},"secret_props":` +
		`{"contentType":"application/x-pkcs12"},"x509_props":{"subject":"CN=DefaultPolicy","ekus":["1.3.6.1.5.5.7.3.1","1.3.6.1.5.5.7.3.2"],` +
		`"key_usage":["digitalSignature","keyEncipherment"],"validity_months":12,"basic_constraints":{"ca":false}},"lifetime_actions":[{"trigger":` +
		`{"lifetime_percentage":80},"action":{"action_type":"AutoRenew"}}],"issuer":{"name":"self"},"attributes":{"enabled":true,"created":…,"updated":…}}`
	got := w.get("/certificates/new")
	got.is(t, "get", http.StatusOK, `{"id":"…","kid":"…","sid":"…","x5t":"…","cer":"…","attributes":{"enabled":true,"nbf":…,"exp":…,"created":…,`+
		`"updated":…,`+recovery+`},"policy":`+policy+`,"pending":{"id":"…/certificates/new/pending"}}`)
	w.get("/certificates/new/policy").is(t, "policy", http.StatusOK, policy)
	version := strings.TrimPrefix(got.field(t, "id"), factsHost+"/certificates/new/")
	w.get("/keys/new").is(t, "key", http.StatusOK, `{"key":{"kid":"…/keys/new/`+version+`","kty":"RSA","key_ops":["sign","verify","wrapKey","unwrapKey"],…"managed":true}`)
	secret := w.get("/secrets/new")
	secret.is(t, "secret", http.StatusOK, `{"value":"…","contentType":"application/x-pkcs12","id":"…/secrets/new/`+version+`","managed":true,…"kid":"…/keys/new/`+version+`"}`)
	pfx, err := base64.StdEncoding.DecodeString(secret.field(t, "value"))
	if err != nil {
		t.Fatal(err)
	}
	key, leaf, _, err := pkcs12.DecodeChain(pfx, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok || base64.StdEncoding.EncodeToString(leaf.Raw) != got.field(t, "cer") || leaf.CheckSignatureFrom(leaf) == nil && !leaf.IsCA {
		t.Errorf("%T %v", key, leaf.Subject)
	}
	if public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		t.Error("the secret's key is another one")
	}
	if months := leaf.NotAfter.Sub(leaf.NotBefore); months < 365*24*time.Hour || months > 367*24*time.Hour {
		t.Errorf("valid for %v", months)
	}
	second := w.send(http.MethodPost, "/certificates/new/create", `{}`)
	second.is(t, "renew by its policy", http.StatusAccepted, `{…}`)
	renewed := w.get("/certificates/new")
	if renewed.field(t, "id") == got.field(t, "id") || renewed.field(t, "cer") == got.field(t, "cer") {
		t.Errorf("not renewed: %+v", renewed)
	}
	w.get("/secrets/new").is(t, "with its secret", http.StatusOK, `{…"previousVersion":"`+version+`"}`)
}

func TestCertificatesFollowTheirPolicy(t *testing.T) {
	w := newWire(t)
	w.send(http.MethodPost, "/certificates/full/create", `{"policy":{"key_props":{"kty":"EC","crv":"P-384","exportable":false,"reuse_key":true},
		"secret_props":{"contentType":"application/x-pem-file"},"x509_props":{"subject":"CN=shop, O=\"Contoso, Ltd\", S=Some-State, C=AU",
		"sans":{"dns_names":["a.example.com","b.example.com"],"emails":["a@b.example"],"ipAddresses":["192.0.2.1"],"uris":["https://c.example"]},
		"ekus":["1.3.6.1.5.5.7.3.1","1.2.3.4"],"key_usage":["digitalSignature","dataEncipherment"],"validity_months":3,
		"basic_constraints":{"ca":true}},"lifetime_actions":[{"trigger":{"days_before_expiry":10},"action":{"action_type":"EmailContacts"}}],
		"issuer":{"name":"Self","cert_transparency":false}},"attributes":{"enabled":false},"tags":{"a":"b"}}`).is(t, "create", http.StatusAccepted,
		`{…"issuer":{"name":"Self"},…}`)
	got := w.get("/certificates/full")
	got.is(t, "get", http.StatusOK, `{…"attributes":{"enabled":false,…},"tags":{"a":"b"},"policy":{…"key_props":{"exportable":false,"kty":"EC","key_size":384,`+
		`"reuse_key":true,"crv":"P-384"},"secret_props":{"contentType":"application/x-pem-file"},…"sans":{"emails":["a@b.example"],"dns_names":`+
		`["a.example.com","b.example.com"],"uris":["https://c.example"],"ipAddresses":["192.0.2.1"]},"ekus":["1.3.6.1.5.5.7.3.1","1.2.3.4"],…`+
		`"validity_months":3,"basic_constraints":{"ca":true}},"lifetime_actions":[{"trigger":{"days_before_expiry":10},"action":{"action_type":`+
		`"EmailContacts"}}],"issuer":{"name":"Self","cert_transparency":false},…}`)
	der, err := base64.StdEncoding.DecodeString(got.field(t, "cer"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Subject.String() != `CN=shop,O=Contoso\, Ltd,ST=Some-State,C=AU` || !slices.Equal(leaf.DNSNames, []string{"a.example.com", "b.example.com"}) ||
		len(leaf.EmailAddresses)+len(leaf.IPAddresses)+len(leaf.URIs) != 3 || !leaf.IsCA ||
		leaf.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageDataEncipherment || len(leaf.ExtKeyUsage) != 1 || len(leaf.UnknownExtKeyUsage) != 1 {
		t.Errorf("%+v", leaf)
	}
	w.get("/secrets/full").is(t, "its secret", http.StatusForbidden, `{…"SecretDisabled"…}`)
	w.send(http.MethodPatch, "/certificates/full", `{"attributes":{"enabled":true,"exp":1893459661},"tags":{"c":"d"}}`).is(t,
		"its times are those of its content", http.StatusOK, fmt.Sprintf(`{…"attributes":{"enabled":true,"nbf":%d,"exp":%d,…},"tags":{"c":"d"},"policy":…}`,
			leaf.NotBefore.Unix(), leaf.NotAfter.Unix()))
	secret := w.get("/secrets/full")
	secret.is(t, "its secret", http.StatusOK, `{"value":"-----BEGIN CERTIFICATE-----…","contentType":"application/x-pem-file",…}`)
	if strings.Contains(secret.body, "PRIVATE KEY") {
		t.Error("the key is exported")
	}
	key := publicKey(t, w.get("/keys/full"))
	w.send(http.MethodPost, "/certificates/full/create", `{}`)
	if again, ok := publicKey(t, w.get("/keys/full")).(*ecdsa.PublicKey); !ok || !again.Equal(key) {
		t.Error("the key is not used again")
	}
	patched := w.send(http.MethodPatch, "/certificates/full/policy", `{"key_props":{"crv":"P-256K","exportable":true,"key_size":256,"kty":"EC","reuse_key":false}}`)
	patched.is(t, "update the policy", http.StatusOK, `{"id":"…","key_props":{"exportable":true,"kty":"EC","key_size":256,"reuse_key":false,`+
		`"crv":"P-256K"},"secret_props":{"contentType":"application/x-pem-file"},…}`)
	w.get("/certificates/full/policy").is(t, "get the policy", http.StatusOK, patched.body)
	w.send(http.MethodPatch, "/certificates/web/policy", `{"x509_props":{"validity_months":6}}`).is(t, "of one from the seed", http.StatusOK,
		`{…"x509_props":{"subject":"CN=web",…"validity_months":6,…},…"issuer":{"name":"Self"},…}`)
}

func TestMergeCertificates(t *testing.T) {
	w := newWire(t)
	created := w.send(http.MethodPost, "/certificates/new/create", `{"policy":{"issuer":{"cert_transparency":false,"name":"Unknown"},"key_props":{"kty":"EC"},`+
		`"x509_props":{"subject":"CN=MyCert","sans":{"dns_names":["my.example"]}}}}`)
	created.is(t, "create", http.StatusAccepted, `{"id":"…","issuer":{"name":"Unknown"},"csr":"MII…",`+inProgress+
		`Please Perform Merge to complete the request.","request_id":"…"}`)
	pending := w.get("/certificates/new/pending")
	pending.is(t, "operation", http.StatusOK, created.body)
	pending.has(t, "operation", map[string]string{"Retry-After": "10"})
	w.get("/certificates/new").is(t, "not issued", http.StatusOK, `{"id":"…/certificates/new/…","attributes":{"enabled":false,"nbf":…},"policy":{…},"pending":{…}}`)
	w.send(http.MethodPost, "/certificates/new/create", `{}`).is(t, "another one", http.StatusConflict, `{"error":{"code":"Forbidden","message":"A new `+
		`key vault certificate can not be created or imported while a pending key vault certificate's status is inProgress."}}`)
	der, err := base64.StdEncoding.DecodeString(created.field(t, "csr"))
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil || request.CheckSignature() != nil || request.Subject.String() != "CN=MyCert" || !slices.Equal(request.DNSNames, []string{"my.example"}) {
		t.Fatalf("%v %+v", err, request)
	}
	authority, key := selfSigned(t, "authority")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: request.Subject, NotBefore: time.Unix(1600000000, 0), NotAfter: time.Unix(2200000000, 0),
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, authority, request.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	merge := func(ders ...[]byte) answer {
		var texts []string
		for _, der := range ders {
			texts = append(texts, `"`+base64.StdEncoding.EncodeToString(der)+`"`)
		}
		return w.send(http.MethodPost, "/certificates/new/pending/merge", `{"x5c":[`+strings.Join(texts, ",")+`]}`)
	}
	merge(authority.Raw).is(t, "of another key", http.StatusBadRequest, `{"error":{"code":"BadParameter","message":"The public key of the end-entity `+
		`certificate in the specified X.509 certificate content does not match the public part of the specified private key. Please check if `+
		`certificate is valid."}}`)
	merge().is(t, "of nothing", http.StatusBadRequest, `{…}`)
	merge([]byte("x")).is(t, "of no certificate", http.StatusBadRequest, `{…}`)
	merged := merge(leaf, authority.Raw)
	merged.is(t, "merge", http.StatusCreated, `{"id":"…","kid":"…","sid":"…","x5t":"…","cer":"`+base64.StdEncoding.EncodeToString(leaf)+`","attributes":`+
		`{"enabled":true,"nbf":1600000000,"exp":2200000000,…},"policy":{…"lifetime_actions":[{"trigger":{"lifetime_percentage":80},"action":{"action_type":`+
		`"EmailContacts"}}],"issuer":{"name":"Unknown","cert_transparency":false},…},"pending":{"id":"…"}}`)
	merged.has(t, "merge", map[string]string{"Location": merged.field(t, "id")})
	w.get("/certificates/new").is(t, "get", http.StatusOK, merged.body)
	w.get("/certificates/new/pending").is(t, "operation", http.StatusOK, `{…"status":"completed",…}`)
	pfx, err := base64.StdEncoding.DecodeString(w.get("/secrets/new").field(t, "value"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, issuers, err := pkcs12.DecodeChain(pfx, ""); err != nil || len(issuers) != 1 {
		t.Errorf("%v %v", issuers, err)
	}
	merge(leaf).is(t, "again", http.StatusNotFound, `{"error":{"code":"PendingCertificateNotFound","message":"Pending Certificate not found: new"}}`)
	w.send(http.MethodPost, "/certificates/new/create", `{}`).is(t, "the next version", http.StatusAccepted, `{…}`)
	if a := w.get("/certificates/new"); a.field(t, "id") != merged.field(t, "id") || a.field(t, "cer") != merged.field(t, "cer") {
		t.Errorf("the issued one does not stay the latest: %s", a.body)
	}
	if err := w.Disable("contoso", "certificates", "new", "", false); err != nil {
		t.Fatal(err)
	}
	if a := w.get("/certificates/new"); a.field(t, "id") == merged.field(t, "id") {
		t.Error("the control API's enable does not issue it")
	}
}

func TestCertificateOperations(t *testing.T) {
	w := newWire(t)
	seed, err := emulator.ParseSeed([]byte("issuance: 1h"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Apply(seed); err != nil {
		t.Fatal(err)
	}
	const body = `{"policy":{"key_props":{"kty":"EC"},"secret_props":{},"x509_props":{"subject":"cn=MyCert","sans":{}},"issuer":{"name":"Self"},"attributes":{}},"attributes":{}}`
	w.send(http.MethodPost, "/certificates/slow/create", body)
	w.get("/certificates/slow").is(t, "in progress", http.StatusOK, `{"id":"…","attributes":{"enabled":false,…},"policy":{…"subject":"cn=MyCert","sans":{},…},"pending":{…}}`)
	w.get("/secrets/slow").is(t, "its secret", http.StatusForbidden, `{…}`)
	before := w.get("/certificates/slow").field(t, "id")
	w.AdvanceClock(time.Hour)
	w.bearer = w.tokenOf(factsClient)
	if a := w.get("/certificates/slow"); a.field(t, "id") == before {
		t.Errorf("issued under the id that it had in progress: %s", a.body)
	}
	w.get("/certificates/slow/pending").is(t, "issued", http.StatusOK, `{…"status":"completed",…}`)
	w.send(http.MethodPatch, "/certificates/slow/pending", `{"cancellation_requested":true}`).is(t, "too late", http.StatusBadRequest, `{…}`)
	w.send(http.MethodPost, "/certificates/stop/create", body)
	w.send(http.MethodPatch, "/certificates/stop/pending", `{"cancellation_requested":true}`).is(t, "cancel", http.StatusOK,
		`{…"cancellation_requested":true,"status":"inProgress",…}`)
	w.AdvanceClock(time.Hour)
	w.bearer = w.tokenOf(factsClient)
	w.get("/certificates/stop").is(t, "cancelled", http.StatusOK, `{"id":"…","attributes":{"enabled":false,…}`)
	w.send(http.MethodDelete, "/certificates/stop/pending", "").is(t, "delete", http.StatusOK, `{…"cancellation_requested":true,…}`)
	const none = `{"error":{"code":"PendingCertificateNotFound","message":"Pending Certificate not found: stop"}}`
	w.get("/certificates/stop/pending").is(t, "deleted", http.StatusNotFound, none)
	w.send(http.MethodDelete, "/certificates/stop/pending", "").is(t, "again", http.StatusNotFound, none)
	w.send(http.MethodDelete, "/certificates/web/pending", "").is(t, "of one from the seed", http.StatusOK, `{…"status":"completed",…}`)
	w.get("/certificates/web/pending").is(t, "deleted", http.StatusNotFound, `{…}`)
	if a := w.get("/certificates/web"); strings.Contains(a.body, `"pending"`) {
		t.Errorf("the certificate names its operation, which is deleted: %s", a.body)
	}
	for _, bad := range []string{
		`{}`,
		`{"policy":{}}`,
		`{"policy":{"issuer":{"name":"Self"}}}`,
		`{"policy":{"issuer":{"name":"nobody"},"x509_props":{"subject":"CN=a"}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"no name"}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=\"a"}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"XX=a"}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a","validity_months":0}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a","validity_months":100000}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a","ekus":["x"]}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a","key_usage":["x"]}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a","sans":{"ipAddresses":["x"]}}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a"},"key_props":{"kty":"oct"}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a"},"key_props":{"key_size":1024}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a"},"key_props":{"kty":"EC","crv":"P-256K"}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a"},"secret_props":{"contentType":"text/plain"}}}`,
		`{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a"},"lifetime_actions":[{}]}}`,
	} {
		w.send(http.MethodPost, "/certificates/bad/create", bad).is(t, bad, http.StatusBadRequest, `{"error":{"code":"BadParameter",…}}`)
	}
	w.send(http.MethodPost, "/certificates/db/create", body).is(t, "a secret's name", http.StatusConflict, `{…}`)
}

func selfSigned(t *testing.T, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(1600000000, 0), NotAfter: time.Unix(2200000000, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func TestImportCertificates(t *testing.T) {
	w := newWire(t)
	leaf, key := selfSigned(t, "imported")
	other, _ := selfSigned(t, "other")
	pfxOf := func(password string) string {
		pfx, err := pkcs12.Modern2023.Encode(key, leaf, []*x509.Certificate{other}, password)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(pfx)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	text := block("PRIVATE KEY", pkcs8) + block("CERTIFICATE", leaf.Raw) + block("CERTIFICATE", other.Raw)
	send := func(value, more string) answer {
		quoted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return w.send(http.MethodPost, "/certificates/in/import", `{"value":`+string(quoted)+more+`}`)
	}
	const policy = `"policy":{"id":"…/certificates/in/policy","key_props":{"exportable":true,"kty":"EC","key_size":256,"reuse_key":false,"crv":"P-256"},` +
		`"secret_props":{"contentType":"…"},"x509_props":{"subject":"CN=imported","ekus":[],"key_usage":["keyCertSign"],"validity_months":…,` +
		`"basic_constraints":{"ca":true}},"lifetime_actions":[{"trigger":{"lifetime_percentage":80},"action":{"action_type":"EmailContacts"}}],` +
		`"issuer":{"name":"Unknown"},"attributes":{"enabled":true,"created":…,"updated":…}}}`
	cer := base64.StdEncoding.EncodeToString(leaf.Raw)
	for _, tc := range []struct{ what, value, more, secret string }{
		{"PFX", pfxOf(""), "", "M"},
		{"PFX with a password", pfxOf("p4ss"), `,"pwd":"p4ss"`, "M"},
		{"PEM", text, `,"policy":{"secret_props":{"contentType":"application/x-pem-file"}}`, "-----BEGIN PRIVATE KEY-----"},
		{"PEM in base64", base64.StdEncoding.EncodeToString([]byte(text)), "", "-----BEGIN PRIVATE KEY-----"},
		{"disabled, with tags", pfxOf(""), `,"attributes":{"enabled":false},"tags":{"a":"b"}`, ""},
	} {
		a := send(tc.value, tc.more)
		a.is(t, tc.what, http.StatusOK, `{"id":"…","kid":"…","sid":"…","x5t":"…","cer":"`+cer+`","attributes":{"enabled":…,"nbf":1600000000,"exp":2200000000,…`+policy)
		w.get("/certificates/in").is(t, tc.what, http.StatusOK, a.body)
		if tc.secret != "" {
			w.get("/secrets/in").is(t, tc.what, http.StatusOK, `{"value":"`+tc.secret+`…}`)
		}
	}
	w.get("/secrets/in").is(t, "disabled", http.StatusForbidden, `{…}`)
	w.get("/certificates/in/pending").is(t, "no operation", http.StatusNotFound, `{…}`)
	send(pfxOf(""), `,"policy":{"key_props":{"exportable":false,"kty":"RSA"}}`).is(t, "not exportable", http.StatusOK,
		`{…"key_props":{"exportable":false,"kty":"EC",…}`)
	const badPFX = `{"error":{"code":"BadParameter","message":"The specified PKCS#12 X.509 certificate content can not be read. Please check if certificate ` +
		`is in valid PKCS#12 format."}}`
	const badPEM = `{"error":{"code":"BadParameter","message":"The specified PEM X.509 certificate content is in an unexpected format. Please check if ` +
		`certificate is in valid PEM format."}}`
	for _, tc := range []struct{ what, value, form string }{
		{"nothing", "", badPFX},
		{"no base64", "?", badPFX},
		{"no PFX", "AAAA", badPFX},
		{"a PFX with an unknown password", pfxOf("p4ss"), badPFX},
		{"another key format", block("EC PRIVATE KEY", sec1) + block("CERTIFICATE", leaf.Raw), badPEM},
		{"no key", block("CERTIFICATE", leaf.Raw), badPEM},
		{"no certificate", block("PRIVATE KEY", pkcs8), badPEM},
		{"two keys", block("PRIVATE KEY", pkcs8) + text, badPEM},
		{"a broken certificate", block("PRIVATE KEY", pkcs8) + block("CERTIFICATE", leaf.Raw[1:]), badPEM},
		{"another key", block("PRIVATE KEY", pkcs8) + block("CERTIFICATE", other.Raw), `{…"The public key of the end-entity certificate …}`},
	} {
		send(tc.value, "").is(t, tc.what, http.StatusBadRequest, tc.form)
	}
	backup := w.send(http.MethodPost, "/certificates/in/backup", "")
	before := w.get("/certificates/in").body
	w.send(http.MethodDelete, "/certificates/in", "")
	w.send(http.MethodDelete, "/deletedcertificates/in", "")
	w.send(http.MethodPost, "/certificates/restore", backup.body).is(t, "restore", http.StatusOK, before)
}

func TestIssuersAndContacts(t *testing.T) {
	w := newWire(t)
	const details = `"credentials":{"account_id":"keyvaultuser"},"org_details":{"zip":0,"admin_details":[{"first_name":"First","last_name":"Last",` +
		`"email":"foo@bar","phone":"42"}]}`
	set := w.send(http.MethodPut, "/certificates/issuers/issuer1", `{"attributes":{"enabled":true},"credentials":{"account_id":"keyvaultuser","pwd":"p4ss"},`+
		`"org_details":{"admin_details":[{"email":"foo@bar","first_name":"First","last_name":"Last","phone":"42"}]},"provider":"Test"}`)
	set.is(t, "set", http.StatusOK, `{"id":"`+factsHost+`/certificates/issuers/issuer1","provider":"Test",`+details+`,"attributes":{"enabled":true,"created":…,"updated":…}}`)
	w.get("/certificates/issuers/ISSUER1").is(t, "get", http.StatusOK, set.body)
	w.get("/certificates/issuers").is(t, "list", http.StatusOK, `{"value":[{"id":"`+factsHost+`/certificates/issuers/issuer1","provider":"Test"}],"nextLink":null}`)
	patched := w.send(http.MethodPatch, "/certificates/issuers/issuer1", `{"attributes":{"enabled":false}}`)
	patched.is(t, "update", http.StatusOK, `{"id":"…","provider":"Test",`+details+`,"attributes":{"enabled":false,…}}`)
	w.send(http.MethodPost, "/certificates/asked/create", `{"policy":{"key_props":{"kty":"EC"},"issuer":{"name":"issuer1"},"x509_props":{"subject":"CN=a"}}}`).is(t,
		"a certificate of it", http.StatusAccepted, `{…"issuer":{"name":"issuer1"},…"status":"inProgress",…}`)
	w.get("/certificates/asked/pending").is(t, "in progress", http.StatusOK, `{…"status":"inProgress",…}`)
	w.send(http.MethodDelete, "/certificates/issuers/issuer1", "").is(t, "delete", http.StatusOK, patched.body)
	const noIssuer = `{"error":{"code":"CertificateIssuerNotFound","message":"Issuer not found"}}`
	w.send(http.MethodDelete, "/certificates/issuers/issuer1", "").is(t, "again", http.StatusNotFound, noIssuer)
	w.send(http.MethodPatch, "/certificates/issuers/issuer1", "{}").is(t, "update none", http.StatusNotFound, noIssuer)
	w.send(http.MethodPut, "/certificates/issuers/issuer1", "{}").is(t, "no provider", http.StatusBadRequest, `{…}`)
	const contacts = `{"id":"` + factsHost + `/certificates/contacts","contacts":[{"email":"one@localhost","name":"One","phone":"1111111111"},{"email":"two@localhost"}]}`
	w.send(http.MethodPut, "/certificates/contacts", `{"contacts":[{"email":"one@localhost","name":"One","phone":"1111111111"},{"email":"two@localhost"}]}`).is(t,
		"set contacts", http.StatusOK, contacts)
	w.get("/certificates/contacts").is(t, "get contacts", http.StatusOK, contacts)
	w.send(http.MethodDelete, "/certificates/contacts", "").is(t, "delete contacts", http.StatusOK, contacts)
	w.send(http.MethodDelete, "/certificates/contacts", "").is(t, "no contacts", http.StatusNotFound, `{"error":{"code":"ContactsNotFound","message":"Contacts not found"}}`)
	w.send(http.MethodPut, "/certificates/contacts", `{}`).is(t, "no contact", http.StatusBadRequest, `{…}`)
}
