//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// certificate makes one of an address, and returns it and its key in PEM.
func (s *suite) certificate(address string) (certificate, key []byte) {
	s.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hook"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(address)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	s.must(err)
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	s.must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes})
}

// pushValues makes the Secret of the web hook, and returns what the controller needs beside controllerValues to serve it, on a port of the node.
func (s *suite) pushValues(hookCertificate, key []byte) string {
	s.Helper()
	dir := s.TempDir()
	s.must(os.WriteFile(filepath.Join(dir, "tls.crt"), hookCertificate, 0o600))
	s.must(os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
	_, _ = s.Kubectl("", "-n", system, "delete", "secret", "hook-tls", "--ignore-not-found")
	s.MustKubectl("", "-n", system, "create", "secret", "tls", "hook-tls", "--cert", filepath.Join(dir, "tls.crt"), "--key", filepath.Join(dir, "tls.key"))
	return trustsEmulator + ",controller.events.hook.enabled=true,controller.events.hook.issuer=https://sts.windows.net/" + kubelet.Tenant + "/," +
		"controller.events.hook.audience=api://events,controller.events.hook.tlsSecret=hook-tls,controller.events.hook.serviceType=NodePort"
}

// nodeAddress is that of the cluster's node.
func (s *suite) nodeAddress() string {
	s.Helper()
	return strings.TrimSpace(s.MustKubectl("", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`))
}

// sendEvents makes the emulator post to the hook.
func (s *suite) sendEvents(address string, hookCertificate []byte) {
	s.Helper()
	port := s.MustKubectl("", "-n", system, "get", "service", release+"-controller-events", "-o", "jsonpath={.spec.ports[0].nodePort}")
	target, err := emulator.ParseEventTarget(fmt.Sprintf("https://%s/#audience=api://events", net.JoinHostPort(address, strings.TrimSpace(port))))
	s.must(err)
	s.Emulator.SendEvents(target, hookCertificate)
}

// uptime is the machine's, which a container has in common with it.
func (s *suite) uptime(text string) time.Duration {
	s.Helper()
	seconds, err := strconv.ParseFloat(strings.Fields(text + " ")[0], 64)
	s.must(err)
	return time.Duration(seconds * float64(time.Second))
}

// pushed changes a secret that a Pod has as a file, and returns how long it took each time until the Pod read the new value: sorted.
func (s *suite) pushed(pod, object string, times int) (took []time.Duration) {
	s.Helper()
	for i := range times {
		value := fmt.Sprintf("pushed-%d", i)
		seen := make(chan string, 1)
		go func() {
			out, err := s.Run(pod, fmt.Sprintf("until [ \"$(cat %s/%s)\" = %s ]; do usleep 5000; done; cat /proc/uptime", mount, object, value))
			if err != nil {
				out = ""
			}
			seen <- out
		}()
		time.Sleep(time.Second) // the Pod looks by now
		before, err := os.ReadFile("/proc/uptime")
		s.must(err)
		s.Secret(object, value)
		select {
		case out := <-seen:
			if strings.TrimSpace(out) == "" {
				s.Fatalf("%s cannot read its file", pod)
			}
			took = append(took, s.uptime(out)-s.uptime(string(before)))
		case <-time.After(2 * time.Minute):
			s.Fatalf("%s has not the value %s", pod, value)
		}
	}
	slices.Sort(took)
	return took
}

// TestPushRotation: a change in the vault is in the file of a Pod long before the next poll: over the web hook, the annotation of the class and
// the watch of the node's driver.
func TestPushRotation(t *testing.T) {
	s := begin(t)
	db, address := s.Namespace+"-db", s.nodeAddress()
	hookCertificate, key := s.certificate(address)
	s.controller(t, s.pushValues(hookCertificate, key))
	s.Secret(db, "first")
	s.Class("web", kubelet.Objects(db), "    rotationInterval: 24h")
	s.Pod("cart", "web")
	s.Ready("cart")
	s.sendEvents(address, hookCertificate)
	took := s.pushed("cart", db, 11)
	t.Logf("from the change in the vault to the file in the Pod: median %s, at most %s, of %d", took[len(took)/2], took[len(took)-1], len(took))
}
