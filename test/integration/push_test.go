//go:build integration

package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

const (
	hookIssuer   = "https://sts.windows.net/" + kubelet.Tenant + "/"
	hookAudience = "api://events"
)

// localCertificate makes a certificate of this machine, and returns its files and itself in PEM.
func localCertificate(t *testing.T) (certFile, keyFile string, certificate []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(t, os.WriteFile(certFile, certificate, 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile, certificate
}

// pushed is a site whose controller takes events, and polls once a day.
type pushed struct {
	*controllerSite

	hook        string
	certificate []byte
}

// eventValues are those of the chart with which the controller may ask for refreshes.
func eventValues() []string {
	return []string{
		"controller.events.hook.enabled=true", "controller.events.hook.issuer=" + hookIssuer, "controller.events.hook.audience=" + hookAudience,
		"controller.events.hook.tlsSecret=hook-tls",
	}
}

func newPushed(t *testing.T, c *controlplane.ControlPlane, options string, flags ...string) *pushed {
	t.Helper()
	certFile, keyFile, certificate := localCertificate(t)
	p := &pushed{hook: freeAddress(t), certificate: certificate}
	p.controllerSite = newControllerWith(t, c, eventValues(), append([]string{
		"--rotation-interval", "24h", "--cache-ttl", "10s", "--events-listen", p.hook, "--events-tls-cert-file", certFile, "--events-tls-key-file", keyFile,
		"--events-issuer", hookIssuer, "--events-audience", hookAudience,
	}, flags...)...)
	target, err := emulator.ParseEventTarget("https://" + p.hook + "/#audience=" + hookAudience + options)
	must(t, err)
	p.vault.SendEvents(target, certificate)
	return p
}

// change sets a secret again and again, and returns how long it took until the Secret had each new value.
func (p *pushed) change(t *testing.T, times int) (took []time.Duration) {
	t.Helper()
	for i := range times {
		value := fmt.Sprint(canaryValue, "-", i)
		start := time.Now()
		p.set("db", value)
		p.Eventually("the new value", func() bool { return p.holds("shop-db", "password", value) })
		took = append(took, time.Since(start))
		time.Sleep(1100 * time.Millisecond) // an object is synced once a second at most
	}
	slices.Sort(took)
	return took
}

// TestPushByHook: a change in the vault is in the Secret although the next poll is tomorrow: from the vault over the hook and the class's
// annotation, in both schemas, and without touching anything else of the class.
func TestPushByHook(t *testing.T) {
	t.Parallel()
	for schema, options := range map[string]string{"CloudEvents": "", "Event Grid": ",schema=eventgrid"} {
		t.Run(schema, func(t *testing.T) {
			t.Parallel()
			p := newPushed(t, controlplane.Shared(t), options)
			p.set("db", canaryValue)
			p.class("web", []string{"db"})
			p.sync("shop-db", "web", "{sourcePath: db, targetKey: password}")
			p.Eventually("the Secret", func() bool { return p.holds("shop-db", "password", canaryValue) })
			before := p.get("secretproviderclass", "web", "-o", "jsonpath={.spec}{.metadata.labels}{.metadata.generation}")
			took := p.change(t, 5)
			t.Logf("from the vault to the Secret: median %s of %v", took[len(took)/2], took)
			if after := p.get("secretproviderclass", "web", "-o", "jsonpath={.spec}{.metadata.labels}{.metadata.generation}"); after != before {
				t.Errorf("the class was %s and is %s", before, after)
			}
			if got := p.get("secretproviderclass", "web", "-o", `jsonpath={.metadata.annotations.keyvault-csi/refresh}`); !strings.HasSuffix(got, "/0s") {
				t.Errorf("the annotation is %q", got)
			}
			p.noCanaryIn(t)
		})
	}
}

// TestHostileDeliveries: what is sent without a good token does nothing, and what is no event of a vault that is used does nothing with one.
func TestHostileDeliveries(t *testing.T) {
	t.Parallel()
	p := newPushed(t, controlplane.Shared(t), "")
	p.set("db", canaryValue)
	p.class("web", []string{"db"})
	p.sync("shop-db", "web", "{sourcePath: db, targetKey: password}")
	p.Eventually("the Secret", func() bool { return p.holds("shop-db", "password", canaryValue) })
	first := canaryValue + "-first"
	p.set("db", first) // the handshake is made, and the hook answers
	p.Eventually("the new value", func() bool { return p.holds("shop-db", "password", first) })
	annotation := func() string {
		return p.get("secretproviderclass", "web", "-o", `jsonpath={.metadata.annotations.keyvault-csi/refresh}`)
	}
	before, since := "", time.Now() // a class gets one annotation a second: that of an earlier event may still come
	p.Eventually("the annotation to rest", func() bool {
		if now := annotation(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > 5*time.Second
	})

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	good := p.vault.EventToken(kubelet.Tenant, hookAudience)
	event := func(host, version string) string {
		return fmt.Sprintf(`{"id":"x","specversion":"1.0","type":"Microsoft.KeyVault.SecretNewVersionCreated","data":{"Id":"https://%s/secrets/db/%s"}}`,
			host, version)
	}
	const own = kubelet.Vault + ".vault.azure.net"
	for name, tc := range map[string]struct {
		token, body string
		want        int
	}{
		"no token":         {"", event(own, "1"), http.StatusUnauthorized},
		"another audience": {p.vault.EventToken(kubelet.Tenant, "https://vault.azure.net"), event(own, "2"), http.StatusUnauthorized},
		"another tenant":   {p.vault.EventToken("99999999-9999-9999-9999-999999999999", hookAudience), event(own, "3"), http.StatusUnauthorized},
		"a forged one":     {good[:len(good)-8] + "AAAAAAAA", event(own, "4"), http.StatusUnauthorized},
		"no JSON":          {good, "hello", http.StatusBadRequest},
		"an unknown vault": {good, event("fabrikam.vault.azure.net", "5"), http.StatusOK},
		"another cloud":    {good, event(kubelet.Vault+".vault.azure.cn", "6"), http.StatusOK},
		"another host":     {good, event("attacker.example.com", "7"), http.StatusOK},
		"many":             {good, "[" + strings.TrimSuffix(strings.Repeat(event("fabrikam.vault.azure.net", "8")+",", 4000), ",") + "]", http.StatusOK},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+p.hook+"/", strings.NewReader(tc.body))
		must(t, err)
		if tc.token != "" {
			request.Header.Set("Authorization", "Bearer "+tc.token)
		}
		answer, err := client.Do(request)
		must(t, err)
		must(t, answer.Body.Close())
		if answer.StatusCode != tc.want {
			t.Errorf("%s: %d", name, answer.StatusCode)
		}
	}
	if after := annotation(); after != before {
		t.Errorf("the annotation was %q and is %q", before, after)
	}
	text, err := os.ReadFile(p.log)
	must(t, err)
	if strings.Contains(string(text), good[:40]) {
		t.Error("a token is in the log")
	}
}

// TestStolenTokenAndClasses: with the controller's token only the one annotation of a class can be changed.
func TestStolenTokenAndClasses(t *testing.T) {
	t.Parallel()
	c := controlplane.Shared(t)
	s := &controllerSite{syncSite: syncSite{site: install(t, c, append([]string{"controller.enabled=true"}, eventValues()...)...)}}
	s.CreatePod(s.system, "controller", "node-1", s.account+"-controller")
	stolen := s.BoundKubeconfig(s.system, s.account+"-controller", "controller")
	s.ApplyYAML(fmt.Sprintf(class, "web", s.shop))
	if _, err := s.Kubectl("", "-n", s.shop, "annotate", "secretproviderclass", "web", "keep=it"); err != nil {
		t.Fatal(err)
	}
	patch := func(kind, body string) error {
		_, err := s.Plane.Kubectl(stolen, "", "-n", s.shop, "patch", "secretproviderclass", "web", "--type", kind, "-p", body)
		return err
	}
	s.Eventually("the policy", func() bool {
		err := patch("merge", `{"metadata":{"labels":{"probe":"x"}}}`)
		return err != nil && strings.Contains(err.Error(), "-controller-push")
	})
	for name, tc := range map[string]struct{ kind, body, want string }{
		"another vault":        {"merge", `{"spec":{"parameters":{"keyvaultName":"attacker"}}}`, "leaves the spec"},
		"another provider":     {"merge", `{"spec":{"provider":"other"}}`, "leaves the spec"},
		"a Secret":             {"merge", `{"spec":{"secretObjects":[{"secretName":"x"}]}}`, "leaves the spec"},
		"the vault, by JSON":   {"json", `[{"op":"replace","path":"/spec/parameters/keyvaultName","value":"attacker"}]`, "leaves the spec"},
		"a label":              {"merge", `{"metadata":{"labels":{"a":"b"}}}`, "leaves labels"},
		"a finalizer":          {"merge", `{"metadata":{"finalizers":["example.com/x"]}}`, "leaves labels, finalizers"},
		"an owner":             {"merge", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"1"}]}}`, "leaves labels"},
		"another annotation":   {"merge", `{"metadata":{"annotations":{"keyvault-csi/refresh":"a/0s","keyvault-csi/rotate-at":"2026-01-01T00:00:00Z"}}}`, "alone"},
		"an annotation's end":  {"merge", `{"metadata":{"annotations":{"keyvault-csi/refresh":"a/0s","keep":null}}}`, "alone"},
		"an annotation's text": {"merge", `{"metadata":{"annotations":{"keyvault-csi/refresh":"a/0s","keep":"other"}}}`, "alone"},
		"another form":         {"merge", `{"metadata":{"annotations":{"keyvault-csi/refresh":"` + strings.Repeat("x", 1000) + `"}}}`, "is ID/SPREAD"},
	} {
		if err := patch(tc.kind, tc.body); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, args := range map[string][]string{
		"a deletion":       {"delete", "secretproviderclass", "web"},
		"a creation":       {"create", "-f", "-"},
		"another resource": {"patch", "deployment", "x", "-p", "{}"},
	} {
		if out, err := s.Plane.Kubectl(stolen, fmt.Sprintf(class, "new", s.shop), append([]string{"-n", s.shop}, args...)...); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
	if err := patch("merge", `{"metadata":{"annotations":{"keyvault-csi/refresh":"7f3a/1m0.5s"}}}`); err != nil {
		t.Errorf("what it may do: %v", err)
	}
}

// TestRefreshAnnotationReachesTheNode: the driver follows the annotation within a moment, although its next poll is tomorrow.
func TestRefreshAnnotationReachesTheNode(t *testing.T) {
	t.Parallel()
	c := controlplane.Shared(t)
	s := install(t, c)
	s.ApplyYAML(strings.Replace(fmt.Sprintf(class, "web", s.shop), "    objects:", "    rotationInterval: 24h\n    objects:", 1))
	pod := s.CreatePod(s.shop, "cart", "node-1", "app")
	n := kubelet.StartInCluster(t, seedFor(s.shop), s.kubeconfig("node-1"), s.TokenIssuer())
	n.Secret("db", "first")
	n.MustPublish("cart", "web", kubelet.ForPod(pod, s.Tokens(pod)))
	for i := range 3 {
		value := fmt.Sprint("value-", i)
		n.Secret("db", value)
		if _, err := s.Kubectl("", "-n", s.shop, "annotate", "--overwrite", "secretproviderclass", "web", fmt.Sprintf("keyvault-csi/refresh=id-%d/100ms", i)); err != nil {
			t.Fatal(err)
		}
		n.Eventually("the new value", func() bool { return n.Read("cart", "db") == value })
	}
}
