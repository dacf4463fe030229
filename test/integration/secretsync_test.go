//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// controllerSite is a cluster with the controller's rights, and a controller that runs in front of a vault of its own.
type controllerSite struct {
	syncSite

	vault *emulator.Server
	log   string               // a file
	stop  func(syscall.Signal) // ends the first controller
	pid   int                  // of the last one that was started
}

// newController installs the chart with the controller, and starts it with its own credentials and more flags.
func newController(t *testing.T, c *controlplane.ControlPlane, flags ...string) *controllerSite {
	t.Helper()
	return newControllerWith(t, c, nil, flags...)
}

// newControllerWith is newController with more values of the chart.
func newControllerWith(t *testing.T, c *controlplane.ControlPlane, values []string, flags ...string) *controllerSite {
	t.Helper()
	s := &controllerSite{syncSite: syncSite{
		site: install(t, c, append([]string{"controller.enabled=true"}, values...)...), tokens: map[types.UID]string{},
	}}
	s.namespace = s.shop
	s.CreateServiceAccount(s.shop, "app")
	s.CreatePod(s.system, "controller", "node-1", s.account+"-controller")
	s.vault = emulatortest.Start(t, kubelet.InCluster(seedFor(s.shop), s.TokenIssuer()))
	must(t, s.vault.Apply(emulator.Seed{Issuers: []emulator.Issuer{s.TokenIssuer()}}))
	s.log = t.TempDir() + "/controller.log"
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(s.log)
			t.Logf("the controller's log:\n%s", text[max(0, len(text)-20_000):])
		}
	})
	s.stop = s.launch(t, flags...)
	return s
}

// launch runs a controller until the test ends, or until the function that it returns is called with the signal to send.
func (s *controllerSite) launch(t *testing.T, flags ...string) (stop func(syscall.Signal)) {
	t.Helper()
	return s.launchTo(t, s.log, flags...)
}

// launchTo is launch with a file for the log.
func (s *controllerSite) launchTo(t *testing.T, path string, flags ...string) (stop func(syscall.Signal)) {
	t.Helper()
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	args := append([]string{
		"--kubeconfig", s.BoundKubeconfig(s.system, s.account+"-controller", "controller"), "--health-addr", "", "--metrics-addr", "",
		"--rotation-interval", "1s", "--cache-ttl", "0s", "--lease-namespace", s.system, "--namespaces", s.shop,
	}, flags...)
	cmd := exec.Command(binaries.Controller(t), args...) //nolint:gosec,noctx // the project's own program; it is stopped
	cmd.Env = append(os.Environ(), emulatortest.Environment(t, s.vault)...)
	cmd.Env = append(cmd.Env, "NO_PROXY=127.0.0.1,localhost")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stopped := false
	stop = func(sig syscall.Signal) {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(sig)
		select {
		case err := <-exited:
			if err != nil && sig != syscall.SIGKILL {
				t.Errorf("the controller ended with %v after %v", err, sig)
			}
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			t.Errorf("the controller did not end after %v, and was killed: %v", sig, <-exited)
		}
		_ = log.Close()
	}
	t.Cleanup(func() { stop(syscall.SIGTERM) })
	s.pid = cmd.Process.Pid
	return stop
}

// patience is how long a controller may take to end, also on a machine that is ten times slower.
const patience = 5 * time.Minute

func (s *controllerSite) set(name, value string) {
	s.Helper()
	_, err := s.vault.SetSecret(kubelet.Vault, emulator.Secret{Name: name, Value: value})
	s.must(err)
}

// sync applies a SecretSync of a class for the account app. More are lines of the spec.
func (s *controllerSite) sync(name, class, data string, more ...string) {
	s.Helper()
	s.ApplyYAML(fmt.Sprintf(`apiVersion: secret-sync.x-k8s.io/v1alpha1
kind: SecretSync
metadata: {name: %s, namespace: %s}
spec:
  secretProviderClassName: %s
  serviceAccountName: app
  secretObject: {type: Opaque, data: [%s]}
%s
`, name, s.shop, class, data, strings.Join(more, "\n")))
}

// condition returns the reason and the message of a SecretSync's condition.
func (s *controllerSite) condition(name, kind string) string {
	s.Helper()
	out, err := s.Kubectl("", "-n", s.shop, "get", "secretsync", name, "-o",
		fmt.Sprintf(`jsonpath={range .status.conditions[?(@.type=="%s")]}{.status} {.reason}: {.message}{end}`, kind))
	s.must(err)
	return out
}

// TestSecretSync follows one SecretSync from its creation to its end.
func TestSecretSync(t *testing.T) {
	t.Parallel()
	s := newController(t, controlplane.Shared(t))
	s.set("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.sync("shop-db", "web", "{sourcePath: db, targetKey: password}")
	s.Eventually("the Secret", func() bool { return s.holds("shop-db", "password", canaryValue+"1") })
	made := s.secret("shop-db")
	if made.Type != corev1.SecretTypeOpaque || len(made.OwnerReferences) != 1 || made.OwnerReferences[0].Kind != "SecretSync" ||
		made.OwnerReferences[0].Name != "shop-db" {
		t.Errorf("%s, owners %v", made.Type, made.OwnerReferences)
	}
	if value, ok := made.Labels["secrets-store.sync.x-k8s.io"]; !ok || value != "" || len(made.Labels) != 1 {
		t.Errorf("labels %v", made.Labels)
	}
	if m := made.ManagedFields; len(m) != 1 || m[0].Manager != "secrets-store-sync-controller" || m[0].Operation != "Apply" {
		t.Errorf("managed by %+v", m)
	}
	s.Eventually("the conditions", func() bool {
		return s.condition("shop-db", "SecretCreated") == "True CreateSuccessful: Secret created successfully." &&
			s.condition("shop-db", "SecretUpdated") == "True SecretUpToDate: Secret contains last observed values."
	})
	s.set("db", canaryValue+"2")
	s.Eventually("the new value", func() bool { return s.holds("shop-db", "password", canaryValue+"2") })
	// an edit of the SecretSync, and one of the class
	s.sync("shop-db", "web", "{sourcePath: db, targetKey: other}")
	s.Eventually("the new key", func() bool { return s.holds("shop-db", "other", canaryValue+"2") })
	s.set("mail", canaryValue+"m")
	s.class("web", []string{"db", "mail"})
	s.sync("shop-db", "web", "{sourcePath: db, targetKey: other}, {sourcePath: mail, targetKey: mail}")
	s.Eventually("the added file", func() bool { return s.holds("shop-db", "other", canaryValue+"2", "mail", canaryValue+"m") })
	if hash := s.get("secretsync", "shop-db", "-o", "jsonpath={.status.syncHash}"); !strings.HasPrefix(hash, "v1:") || strings.Contains(hash, canaryValue) {
		t.Errorf("syncHash %q", hash)
	}
	s.noCanaryIn(t)
}

// noCanaryIn looks for values in the controller's log and in SecretSyncs.
func (s *controllerSite) noCanaryIn(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(s.log)
	must(t, err)
	if strings.Contains(string(text), canaryValue) {
		t.Error("a value is in the controller's log")
	}
	if out := s.get("secretsyncs,events", "-o", "yaml"); strings.Contains(out, canaryValue) {
		t.Error("a value is in a SecretSync or an event")
	}
}

// TestSecretSyncMistakes: each mistake is a condition with the fix, and harms no other SecretSync.
func TestSecretSyncMistakes(t *testing.T) {
	t.Parallel()
	s := newController(t, controlplane.Shared(t))
	s.set("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.class("lost", []string{"nothing"})
	s.ApplyYAML(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: foreign, namespace: %s}\nstringData: {a: b}\n", s.shop))
	for name, tc := range map[string]struct{ sync, want string }{
		"no-class": {"none {sourcePath: db, targetKey: k}",
			`False SecretProviderClassMisconfigured: failed to get SecretProviderClass "none": SecretProviderClass.secrets-store.csi.x-k8s.io "none" not found`},
		"no-object": {"lost {sourcePath: nothing, targetKey: k}", `False RemoteSecretStoreFetchFailed: vault contoso.vault.azure.net: secret "nothing"`},
		"no-path":   {"web {sourcePath: other, targetKey: k}", `False SecretProviderClassMisconfigured: data[0].objectName "other" is not mounted`},
		"foreign":   {"web {sourcePath: db, targetKey: k}", `False SecretConflict: failed to patch secret "foreign"`},
	} {
		class, data, _ := strings.Cut(tc.sync, " ")
		s.sync(name, class, data)
		s.Eventually("the condition of "+name, func() bool { return strings.HasPrefix(s.condition(name, "SecretCreated"), tc.want) })
	}
	if got := s.secret("foreign"); len(got.Data) != 1 || string(got.Data["a"]) != "b" || len(got.OwnerReferences) > 0 {
		t.Errorf("a Secret of somebody else became %v", got.Data)
	}
	s.sync("good", "web", "{sourcePath: db, targetKey: k}")
	s.Eventually("a SecretSync beside them", func() bool { return s.holds("good", "k", canaryValue+"1") })
	// what was missing comes
	s.class("none", []string{"db"})
	s.Eventually("the class that came later", func() bool { return s.holds("no-class", "k", canaryValue+"1") })
	// a controller of another name is left alone
	s.sync("others", "web", "{sourcePath: db, targetKey: k}", "  secretSyncControllerName: other")
	time.Sleep(3 * time.Second)
	if s.secret("others") != nil || s.condition("others", "SecretCreated") != "" {
		t.Error("a SecretSync of another controller is served")
	}
	s.noCanaryIn(t)
}

// TestSecretSyncIsRepaired: a Secret that somebody deletes or edits is put right, and a vault that is away changes nothing.
func TestSecretSyncIsRepaired(t *testing.T) {
	t.Parallel()
	s := newController(t, controlplane.Shared(t))
	s.set("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.sync("shop-db", "web", "{sourcePath: db, targetKey: password}")
	s.Eventually("the Secret", func() bool { return s.holds("shop-db", "password", canaryValue+"1") })
	s.MustKubectl("", "-n", s.shop, "delete", "secret", "shop-db")
	s.Eventually("the Secret again", func() bool { return s.holds("shop-db", "password", canaryValue+"1") })
	s.MustKubectl("", "-n", s.shop, "patch", "secret", "shop-db", "--type=merge", "-p", `{"stringData":{"password":"edited"}}`)
	s.Eventually("the value again", func() bool { return s.holds("shop-db", "password", canaryValue+"1") })
	s.vault.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: "contoso.vault.azure.net"})
	s.Eventually("the failure", func() bool {
		return strings.HasPrefix(s.condition("shop-db", "SecretUpdated"), "False RemoteSecretStoreFetchFailed")
	})
	if !s.holds("shop-db", "password", canaryValue+"1") {
		t.Error("an outage changed the Secret")
	}
	s.vault.ClearFaults()
	s.Eventually("the recovery", func() bool { return strings.HasPrefix(s.condition("shop-db", "SecretUpdated"), "True") })
	s.noCanaryIn(t)
}

// TestStolenControllerToken: what the controller's token may not do, although its role would permit it.
func TestStolenControllerToken(t *testing.T) {
	t.Parallel()
	c := controlplane.Shared(t)
	s := &controllerSite{syncSite: syncSite{site: install(t, c, "controller.enabled=true")}}
	s.CreateServiceAccount(s.shop, "app")
	s.CreatePod(s.system, "controller", "node-1", s.account+"-controller")
	stolen := s.BoundKubeconfig(s.system, s.account+"-controller", "controller")
	s.ApplyYAML(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: foreign, namespace: %s}\nstringData: {a: %s}\n", s.shop, canaryValue))
	secret := func(name, labels, owner, kind string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\ntype: %s\nmetadata:\n  name: %s\n  namespace: %s\n  labels: {%s}\n  ownerReferences:\n  - %s\n",
			kind, name, s.shop, labels, owner)
	}
	const label = `secrets-store.sync.x-k8s.io: ""`
	owner := func(name string) string {
		return "{apiVersion: secret-sync.x-k8s.io/v1alpha1, kind: SecretSync, name: \"" + name + "\", uid: \"00000000-0000-0000-0000-000000000001\"}"
	}
	apply := []string{"apply", "--server-side", "--validate=false", "--field-manager=secrets-store-sync-controller", "-f", "-"}
	s.Eventually("the policy", func() bool {
		_, err := s.Plane.Kubectl(stolen, secret("probe", "", owner("probe"), "Opaque"), append([]string{"--namespace", s.shop}, apply...)...)
		return err != nil && strings.Contains(err.Error(), "-controller")
	})
	for name, tc := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"read a Secret":     {"", []string{"get", "secret", "foreign"}, "forbidden"},
		"list Secrets":      {"", []string{"get", "secrets"}, "forbidden"},
		"delete a Secret":   {"", []string{"delete", "secret", "foreign"}, "forbidden"},
		"a foreign Secret":  {secret("foreign", label, owner("foreign"), "Opaque"), apply, "it has no label"},
		"no label":          {secret("x", "", owner("x"), "Opaque"), apply, "keeps its label"},
		"another owner":     {secret("x", label, owner("other"), "Opaque"), apply, "has one owner"},
		"a release of Helm": {secret("x", label, owner("x"), "helm.sh/release.v1"), apply, "no Secret of this type"},
		"another audience":  {"", []string{"create", "token", "app", "--duration=600s"}, "requests tokens of one of these audiences"},
		"a long life": {
			"", []string{"create", "token", "app", "--audience=api://AzureADTokenExchange", "--duration=1h"}, "of 600 seconds",
		},
		"a Pod":      {"", []string{"run", "x", "--image=x"}, "forbidden"},
		"namespaces": {"", []string{"get", "namespaces"}, "forbidden"},
	} {
		out, err := s.Plane.Kubectl(stolen, tc.stdin, append([]string{"--namespace", s.shop}, tc.args...)...)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(out+err.Error(), canaryValue) {
			t.Errorf("%s: %s %v", name, out, err)
		}
	}
	out, err := s.Plane.Kubectl(stolen, "", "--namespace", s.shop, "create", "token", "app", "--audience=api://AzureADTokenExchange", "--duration=600s")
	if err != nil {
		t.Errorf("what it may do: %s %v", out, err)
	}
}

// TestSecretSyncOfAnnotatedAccount: a class that names no identity takes that of the service account's annotations.
func TestSecretSyncOfAnnotatedAccount(t *testing.T) {
	t.Parallel()
	s := newControllerWith(t, controlplane.Shared(t), []string{"serviceAccountAnnotations.enabled=true"}, "--service-account-annotations")
	s.set("db", canaryValue+"1")
	s.site.class("bare", "    tenantID: "+kubelet.Tenant+"\n", "", "    clientID: "+kubelet.Client+"\n", "")
	s.sync("shop-db", "bare", "{sourcePath: db, targetKey: password}")
	s.Eventually("the refusal", func() bool { return strings.Contains(s.condition("shop-db", "SecretCreated"), "identity") })
	s.MustKubectl("", "-n", s.shop, "annotate", "serviceaccount", "app",
		"azure.workload.identity/client-id="+kubelet.Client, "azure.workload.identity/tenant-id="+kubelet.Tenant)
	s.Eventually("the Secret", func() bool { return s.holds("shop-db", "password", canaryValue+"1") })
	s.noCanaryIn(t)
}

// TestSecretSyncThatCannotBe: what no Secret can come of is a condition with the cause, and makes few requests.
func TestSecretSyncThatCannotBe(t *testing.T) {
	t.Parallel()
	s := newController(t, controlplane.Shared(t))
	s.set("db", canaryValue+"1")
	s.class("web", []string{"db"})
	apply := func(name, account, object string) {
		s.ApplyYAML(fmt.Sprintf(`apiVersion: secret-sync.x-k8s.io/v1alpha1
kind: SecretSync
metadata: {name: %s, namespace: %s}
spec:
  secretProviderClassName: web
  serviceAccountName: %s
  secretObject: %s
`, name, s.shop, account, object))
	}
	const data = "data: [{sourcePath: db, targetKey: k}]"
	apply("no-account", "nobody", "{type: Opaque, "+data+"}")
	apply("no-certificate", "app", "{type: kubernetes.io/tls, data: [{sourcePath: db, targetKey: tls.crt}]}")
	apply("a-token", "app", "{type: kubernetes.io/service-account-token, "+data+"}")
	apply("large", "app", "{type: Opaque, annotations: {note: \""+strings.Repeat("x", 255_000)+"\"}, "+data+"}")
	for name, want := range map[string]string{
		"no-account": "does not exist: create it, or correct serviceaccountname", "no-certificate": "tls",
		"a-token": "service-account-token",
	} {
		s.Eventually("the condition of "+name, func() bool {
			condition := s.condition(name, "SecretCreated")
			return strings.HasPrefix(condition, "False ") && strings.Contains(strings.ToLower(condition), want)
		})
		if s.secret(name) != nil {
			t.Errorf("%s has a Secret", name)
		}
		t.Log(s.condition(name, "SecretCreated"))
	}
	s.Eventually("annotations at the limit", func() bool { return s.holds("large", "k", canaryValue+"1") })
	// they are tried again, ever more rarely
	writes := func() (n int) {
		for _, r := range s.Requests("keyvault-controller/") {
			if r.ObjectRef.Namespace == s.shop && r.ObjectRef.Resource == "secrets" && r.ObjectRef.Name != "large" {
				n++
			}
		}
		return n
	}
	before, start := writes(), time.Now()
	time.Sleep(20 * time.Second)
	if n, took := writes()-before, time.Since(start); float64(n) > 4*(1+took.Seconds()/5) {
		t.Errorf("%d writes in %v of four Secrets that cannot be", n, took)
	}
	s.noCanaryIn(t)
}
