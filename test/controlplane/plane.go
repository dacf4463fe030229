// Package controlplane runs a real etcd and kube-apiserver and, where asked, kube-controller-manager and
// kube-scheduler: for tests (Start, Shared), and as a part of the cluster of hack/cluster (New).
package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Issuer is the name of the issuer of service account tokens, which kubelet.Seed knows.
const Issuer = "https://oidc.example.com/cluster/"

// serviceRange is the range of Services' addresses; ServiceAddress is that of the Service default/kubernetes.
const (
	serviceRange   = "10.96.0.0/16"
	ServiceAddress = "10.96.0.1"
)

// Config says how a control plane is to be.
type Config struct {
	// Dir holds keys, state and logs. A control plane goes on with what it finds there.
	Dir string
	// Address is where the API server is reached, and Port; Bind is where it listens, Address where empty.
	Address, Bind string
	Port          int
	// AdmissionPlugins are enabled beside the default ones and NodeRestriction.
	AdmissionPlugins []string
	// APIServerFlags are more flags of kube-apiserver.
	APIServerFlags []string
	// Controllers are those that kube-controller-manager runs, in its own notation; none: it does not run.
	Controllers []string
	// Scheduler is true where kube-scheduler runs.
	Scheduler bool
}

// Plane is a control plane.
type Plane struct {
	Config

	existing  *clientcmdapi.Config // of another's cluster; nil if all of it runs here
	programs  Programs
	authority *authority
	etcd      *Process
	apiserver *Process
	others    []*Process

	mu    sync.Mutex
	nodes []string // that tests have made in the existing cluster
}

// New builds the programs and makes the keys; Run runs it.
func New(config Config) (*Plane, error) {
	names := []string{"etcd", "kube-apiserver", "kubectl"}
	if len(config.Controllers) > 0 {
		names = append(names, "kube-controller-manager")
	}
	if config.Scheduler {
		names = append(names, "kube-scheduler")
	}
	programs, err := Build("", names...)
	if err != nil {
		return nil, err
	}
	return With(config, programs)
}

// With is New with programs that are built.
func With(config Config, programs Programs) (*Plane, error) {
	p := &Plane{Config: config, programs: programs}
	if p.Bind == "" {
		p.Bind = p.Address
	}
	if err := os.MkdirAll(p.path("keys"), 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", p.Dir, err)
	}
	if _, err := os.Stat(p.Kubeconfig("admin")); err == nil {
		return p, p.readKeys() // of an earlier run
	}
	return p, p.makeKeys()
}

func (p *Plane) path(elements ...string) string {
	return filepath.Join(append([]string{p.Dir}, elements...)...)
}

// Key is the path of a file of the directory of keys.
func (p *Plane) Key(name string) string { return p.path("keys", name) }

// Kubeconfig is the path of the kubeconfig of a user: admin, or one that was added.
func (p *Plane) Kubeconfig(user string) string { return p.Key(user + ".kubeconfig") }

func (p *Plane) readKeys() error {
	var err error
	p.authority, err = readAuthority(p.Key("ca"))
	return err
}

func (p *Plane) makeKeys() error {
	var err error
	if p.authority, err = newAuthority(p.Key("ca")); err != nil {
		return err
	}
	if _, err := writeKey(p.Key("tokens.key")); err != nil {
		return err
	}
	errs := []error{
		p.authority.issue(p.Key(""), "apiserver", pkix.Name{CommonName: "kube-apiserver"}, "localhost", "127.0.0.1", p.Address,
			ServiceAddress, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
		p.AddUser("kube-apiserver-kubelet-client", "system:masters"),
		p.AddUser("system:kube-controller-manager"),
		p.AddUser("system:kube-scheduler"),
		// Only the API server's requests are counted; a Metadata policy keeps every body out of the log.
		os.WriteFile(p.Key("audit.yaml"), []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"), 0o600),
		p.AddUser("admin", "system:masters"), // the last one: New takes it for a sign of completeness
	}
	return errors.Join(errs...)
}

// AddUser makes a client certificate and a kubeconfig for a user of some groups.
func (p *Plane) AddUser(name string, groups ...string) error {
	if p.existing != nil {
		return p.writeKubeconfig(p.Kubeconfig(name), p.user(name, groups...))
	}
	if err := p.authority.issue(p.Key(""), name, pkix.Name{CommonName: name, Organization: groups}); err != nil {
		return err
	}
	return p.writeKubeconfig(p.Kubeconfig(name), &clientcmdapi.AuthInfo{ClientCertificate: p.Key(name + ".pem"), ClientKey: p.Key(name + ".key")})
}

// AddServer makes a certificate NAME.pem, NAME.key of a server with some hosts.
func (p *Plane) AddServer(name string, subject pkix.Name, hosts ...string) error {
	return p.authority.issue(p.Key(""), name, subject, hosts...)
}

// writeKubeconfig writes a file that is whole in itself.
func (p *Plane) writeKubeconfig(path string, user *clientcmdapi.AuthInfo) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: p.URL(), CertificateAuthority: p.Key("ca.pem")}
	if p.existing != nil {
		config.Clusters["cluster"] = p.existing.Clusters[p.existing.Contexts[p.existing.CurrentContext].Cluster]
	}
	config.AuthInfos["user"] = user
	config.Contexts["cluster"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "user"}
	config.CurrentContext = "cluster"
	if err := clientcmdapi.FlattenConfig(config); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return clientcmd.WriteToFile(*config, path)
}

// URL is the API server's.
func (p *Plane) URL() string { return "https://" + net.JoinHostPort(p.Address, strconv.Itoa(p.Port)) }

// AdminConfig is how an administrator reaches the API server.
func (p *Plane) AdminConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig("admin"))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.Proxy = nil
	config.QPS, config.Burst = -1, -1 // a test's own requests are not to be slowed down
	return config, nil
}

// Run starts everything and returns when the API server is ready.
func (p *Plane) Run(ctx context.Context) error {
	socket := "unix://" + p.path("etcd.sock")
	var err error
	p.etcd, err = StartProcess(p.Dir, "etcd", exec.Command(p.programs["etcd"], //nolint:gosec,noctx // built by this project; it lives until Stop
		"--data-dir", p.path("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", socket, "--advertise-client-urls", socket,
		"--listen-peer-urls", "unix://"+p.path("etcd-peer.sock"), "--initial-advertise-peer-urls", "http://localhost:2380",
		"--initial-cluster", "default=http://localhost:2380"))
	if err != nil {
		return err
	}
	if err := p.StartAPIServer(ctx); err != nil {
		return err
	}
	if len(p.Controllers) > 0 {
		err = errors.Join(err, p.startOther("kube-controller-manager", "--controllers", strings.Join(p.Controllers, ","),
			"--use-service-account-credentials", "--root-ca-file", p.Key("ca.pem"), "--service-account-private-key-file", p.Key("tokens.key"),
			"--concurrent-gc-syncs=5"))
	}
	if p.Scheduler {
		err = errors.Join(err, p.startOther("kube-scheduler"))
	}
	return err
}

// StartAPIServer starts kube-apiserver, again after StopAPIServer, and returns when it is ready.
func (p *Plane) StartAPIServer(ctx context.Context) error {
	var err error
	p.apiserver, err = StartProcess(p.Dir, "kube-apiserver", exec.Command(p.programs["kube-apiserver"], slices.Concat([]string{ //nolint:gosec,noctx // as above
		"--etcd-servers", "unix://" + p.path("etcd.sock"),
		"--bind-address", p.Bind, "--secure-port", strconv.Itoa(p.Port), "--advertise-address", p.advertised(),
		"--endpoint-reconciler-type", p.reconciler(),
		"--tls-cert-file", p.Key("apiserver.pem"), "--tls-private-key-file", p.Key("apiserver.key"), "--client-ca-file", p.Key("ca.pem"),
		"--kubelet-client-certificate", p.Key("kube-apiserver-kubelet-client.pem"), "--kubelet-client-key", p.Key("kube-apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP",
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", strings.Join(append([]string{"NodeRestriction"}, p.AdmissionPlugins...), ","),
		"--service-account-issuer", Issuer, "--service-account-signing-key-file", p.Key("tokens.key"), "--service-account-key-file", p.Key("tokens.key"),
		"--service-cluster-ip-range", serviceRange, "--allow-privileged",
		"--audit-policy-file", p.Key("audit.yaml"), "--audit-log-path", p.path("audit.log"), "--profiling=false",
	}, p.APIServerFlags)...))
	if err != nil {
		return err
	}
	client, err := p.adminClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return p.apiserver.Await("the API server", func() error { return get(ctx, client, p.URL()+"/readyz") })
}

// advertised is the API server's address for Pods: never a loopback address, which the API server does not advertise.
func (p *Plane) advertised() string {
	if p.reconciler() == "none" {
		return "192.0.2.1"
	}
	return p.Address
}

// reconciler keeps the endpoints of the Service default/kubernetes, where there may be Pods to use them.
func (p *Plane) reconciler() string {
	if net.ParseIP(p.Address).IsLoopback() {
		return "none"
	}
	return "lease"
}

func (p *Plane) adminClient() (*http.Client, error) {
	config, err := p.AdminConfig()
	if err != nil {
		return nil, err
	}
	settings, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	settings.MinVersion = tls.VersionTLS12
	return &http.Client{Transport: &http.Transport{TLSClientConfig: settings}}, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

func (p *Plane) startOther(name string, args ...string) error {
	kubeconfig := p.Kubeconfig("system:" + name)
	process, err := StartProcess(p.Dir, name, exec.Command(p.programs[name], append([]string{ //nolint:gosec,noctx // as above
		"--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig,
		"--leader-elect=false", "--secure-port=0",
	}, args...)...))
	if err != nil {
		return err
	}
	p.others = append(p.others, process)
	return nil
}

// StopAPIServer ends kube-apiserver at once; its port stays its own.
func (p *Plane) StopAPIServer() {
	p.apiserver.Stop(syscall.SIGKILL)
	p.apiserver = nil
}

// Pause makes the API server answer nothing until Resume; connections stay open. It returns when all of its threads have stopped.
func (p *Plane) Pause() error {
	if err := p.apiserver.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return p.apiserver.Await("the API server's threads to stop", p.apiserver.stopped)
}

// Resume ends Pause.
func (p *Plane) Resume() error { return p.apiserver.Signal(syscall.SIGCONT) }

// APIServerPID is the process id of kube-apiserver.
func (p *Plane) APIServerPID() int { return p.apiserver.PID() }

// Stop ends everything at once. What was written stays in Dir.
func (p *Plane) Stop() {
	for _, other := range slices.Backward(p.others) {
		other.Stop(syscall.SIGKILL)
	}
	p.others = nil
	p.apiserver.Stop(syscall.SIGKILL)
	p.etcd.Stop(syscall.SIGKILL)
	p.apiserver, p.etcd = nil, nil
}

// Logs are the last lines of every program that runs.
func (p *Plane) Logs() string {
	var all []string
	for _, process := range append([]*Process{p.etcd, p.apiserver}, p.others...) {
		if process != nil {
			all = append(all, process.Tail())
		}
	}
	return strings.Join(all, "\n")
}
