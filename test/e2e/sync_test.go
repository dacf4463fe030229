//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// secretObject is the part of a class that mirrors objects to a Secret; keys are pairs of key and object.
func secretObject(name, kind string, keys ...string) string {
	text := "  secretObjects:\n  - secretName: " + name + "\n    type: " + kind + "\n    data:\n"
	for pair := range slices.Chunk(keys, 2) {
		text += fmt.Sprintf("    - {key: %s, objectName: %s}\n", pair[0], pair[1])
	}
	return text
}

// withPassword gives the container the variable PASSWORD from the Secret web-db.
func withPassword(p *corev1.PodSpec) {
	p.Containers[0].Env = append(p.Containers[0].Env, corev1.EnvVar{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "web-db"}, Key: "password"},
	}})
}

// Synced returns a Secret of the test's namespace; nil where there is none.
func (s *suite) Synced(name string) *corev1.Secret {
	s.Helper()
	secret, err := s.Client().CoreV1().Secrets(s.Namespace).Get(s.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	s.must(err)
	return secret
}

// owners are a Secret's owners, such as "ReplicaSet/web-1 Pod/x".
func owners(secret *corev1.Secret) string {
	var all []string
	for _, o := range secret.OwnerReferences {
		all = append(all, o.Kind+"/"+o.Name)
	}
	return strings.Join(all, " ")
}

// TestVariablesAtFirstStart has a variable from a Secret that does not exist before the Pod: the Pod starts at once.
func TestVariablesAtFirstStart(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-db"
	s.Secret(db, "s3cret")
	s.Class("web", kubelet.Objects(db), secretObject("web-db", "Opaque", "password", db))
	s.Pod("cart", "web", withPassword)
	s.Ready("cart")
	out, err := s.Run("cart", `printf %s "$PASSWORD"`)
	s.must(err)
	if out != "s3cret" {
		t.Errorf("the variable is %q", out)
	}
	if events := s.Events("cart"); strings.Contains(events, "Failed") {
		t.Errorf("the Pod did not start at once:\n%s", events)
	}
	secret := s.Synced("web-db")
	if secret.Labels["secrets-store.csi.k8s.io/managed"] != "true" || owners(secret) != "Pod/cart" {
		t.Errorf("labels %v, owners %s", secret.Labels, owners(secret))
	}
	s.Delete("cart")
	s.Eventually("the garbage collection of the Secret", func() bool { return s.Synced("web-db") == nil })
}

// TestRotationReachesFilesAndSecrets changes the vault, and then the class, under a running Pod.
func TestRotationReachesFilesAndSecrets(t *testing.T) {
	s := begin(t)
	db, api := s.Namespace+"-db", s.Namespace+"-api"
	s.Secret(db, "one")
	s.Secret(api, "key")
	s.Class("web", kubelet.Objects(db), secretObject("web-db", "Opaque", "password", db))
	s.Pod("cart", "web")
	s.Ready("cart")

	s.Secret(db, "two")
	s.Eventually("the file to change", func() bool { return s.Read("cart", db) == "two" })
	s.Eventually("the Secret to change", func() bool { return string(s.Synced("web-db").Data["password"]) == "two" })
	s.Eventually("the event", func() bool { return strings.Contains(s.Events("cart"), "SecretRotationComplete") })

	s.Class("web", kubelet.Objects(db, api), secretObject("web-db", "Opaque", "password", db, "api", api))
	s.Eventually("the new file", func() bool {
		out, err := s.Run("cart", "cat "+mount+"/"+api)
		return err == nil && out == "key"
	})
	s.Eventually("the Secret's new key", func() bool { return string(s.Synced("web-db").Data["api"]) == "key" })

	s.must(s.Emulator.Disable(kubelet.Vault, "secrets", db, "", true))
	s.Eventually("the event of the failure", func() bool { return strings.Contains(s.Events("cart"), "disabled") })
	if got := s.Read("cart", db); got != "two" {
		t.Errorf("after a failed refresh the file holds %q", got)
	}
	s.must(s.Emulator.Disable(kubelet.Vault, "secrets", db, "", false))
	s.Secret(db, "three")
	s.Eventually("the recovery", func() bool { return s.Read("cart", db) == "three" })
	restarts := s.MustKubectl("", "-n", s.Namespace, "get", "pod", "cart", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	if restarts != "0" {
		t.Errorf("the container was restarted %s times", restarts)
	}
}

// TestServicePrincipalOfTheNamespace mounts with the credentials of nodePublishSecretRef instead of workload identity.
func TestServicePrincipalOfTheNamespace(t *testing.T) {
	s := begin(t)
	db, client := s.Namespace+"-db", clientOf(s.Namespace+"/principal")
	s.Secret(db, "s3cret")
	s.must(s.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{{
		ClientID: client, ObjectID: client, Secrets: []emulator.ClientSecret{{Value: "pass-phrase"}},
	}}}}}))
	s.must(s.Emulator.Grant(kubelet.Vault, client, "secrets/get"))
	s.Class("web", kubelet.Objects(db))
	// the class is a service principal's where it has no clientID
	s.MustKubectl("", "-n", s.Namespace, "patch", "secretproviderclass", "web", "--type=json", "-p", `[{"op":"remove","path":"/spec/parameters/clientID"}]`)
	s.MustKubectl("", "-n", s.Namespace, "create", "secret", "generic", "principal", "--from-literal=clientid="+client, "--from-literal=clientsecret=pass-phrase")
	s.Pod("cart", "web", func(p *corev1.PodSpec) {
		p.Volumes[0].CSI.NodePublishSecretRef = &corev1.LocalObjectReference{Name: "principal"}
	})
	s.Ready("cart")
	if got := s.Read("cart", db); got != "s3cret" {
		t.Errorf("the Pod reads %q", got)
	}
	if log := s.DriverLog(-1); strings.Contains(log, "pass-phrase") || strings.Contains(log, "s3cret") {
		t.Error("the driver's log has a secret")
	}
}

// TestSecretServesTLS has a certificate of the vault served by an HTTPS server from a kubernetes.io/tls Secret, also after it was renewed.
func TestSecretServesTLS(t *testing.T) {
	s := begin(t)
	program, err := binaries.Find("https")
	s.must(err)
	data, err := os.ReadFile(program)
	s.must(err)
	s.ImportBuilt(cluster.Image{Name: "localhost/https:1", Entrypoint: []string{"/https"}, Files: map[string][]byte{"https": data}})

	name := s.Namespace + "-tls"
	trusted := s.setCertificate(name, 1)
	s.Class("web", "array:\n- |\n  objectName: "+name+"\n  objectType: secret\n  objectAlias: pair\n",
		secretObject("web-tls", "kubernetes.io/tls", "tls.crt", "pair", "tls.key", "pair"))
	s.Pod("shop", "web", func(p *corev1.PodSpec) {
		p.HostNetwork = true // so that this process reaches it without a Service
		p.Containers[0].Image, p.Containers[0].Args = "localhost/https:1", nil
		p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "tls", MountPath: "/tls"})
		p.Volumes = append(p.Volumes, corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "web-tls"}}})
	})
	s.Ready("shop")
	s.Eventually("the first certificate", func() bool { return s.serves(trusted, 1) })
	trusted = s.setCertificate(name, 2)
	s.Eventually("the renewed one", func() bool { return s.serves(trusted, 2) })
}

// setCertificate puts a certificate of a new authority into the vault, as PEM, and returns who trusts it.
func (s *suite) setCertificate(name string, serial int64) *x509.CertPool {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(100 + serial), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour * 1000), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	s.must(err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "shop.example.com"}, DNSNames: []string{"shop.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 1000), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), key)
	s.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	s.must(err)
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	s.must(s.Emulator.SetCertificate(kubelet.Vault, emulator.Certificate{
		Name: name, ContentType: "application/x-pem-file", KeyType: "EC", Leaf: text("CERTIFICATE", leafDER),
		Secret: text("PRIVATE KEY", keyDER) + text("CERTIFICATE", leafDER) + text("CERTIFICATE", rootDER),
	}))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(text("CERTIFICATE", rootDER)))
	return pool
}

// serves reports whether the server answers with the certificate of a serial number.
func (s *suite) serves(trusted *x509.CertPool, serial int64) bool {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: "shop.example.com", MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.NodeAddress()+":8443")
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "https://shop.example.com/", nil)
	s.must(err)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return err == nil && string(body) == "hello" && fmt.Sprint(resp.TLS.PeerCertificates[0].SerialNumber) == fmt.Sprint(serial)
}
