package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube/manifest"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
)

// subjectFlags select the classes that `preview` and `check` work on, and the identity they use.
type subjectFlags struct {
	files      []string
	kubeconfig string
	context    string
	namespace  string

	serviceAccount string
	secretFile     string
	asClass        bool

	output  string
	timeout time.Duration

	cloud             string
	cloudDir          string
	caFile            string
	allowedHosts      []string
	split             bool
	constructPEMChain bool
	tokenProxy        identity.ProxyOptions
	accounts          bool
	// diagnosed is true where Pods, and not flags, name service accounts.
	diagnosed bool

	build version.Build
}

func (f *subjectFlags) register(fs *pflag.FlagSet) {
	fs.StringSliceVarP(&f.files, "filename", "f", nil,
		"`file`, directory or - with SecretProviderClasses; may be given more than once")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "",
		"kubeconfig `file`; empty: as kubectl finds it, or the pod's own service account")
	fs.StringVar(&f.context, "context", "", "the kubeconfig's `context`; empty: the current one")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of classes without one; empty: the context's")

	fs.StringVar(&f.serviceAccount, "service-account", "",
		"use the identity of the pods of this service account `name`, with a token requested from the API server")
	fs.StringVar(&f.secretFile, "node-publish-secret-file", "",
		"use the service principal of this Secret's manifest `file` (nodePublishSecretRef)")
	fs.BoolVar(&f.asClass, "as-class", false, "use the identity of the class: the managed identity of this machine")

	fs.StringVarP(&f.output, "output", "o", tableOutput, "output `format`: table, wide, json or yaml")
	fs.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to wait for answers, for each class")

	fs.StringVar(&f.cloud, "cloud", "AzurePublicCloud",
		"the `cloud` of classes that do not set one, as in the driver's flag")
	fs.StringVar(&f.cloudDir, "cloud-config-dir", "", "`directory` of custom clouds' files, as in the driver's flag")
	fs.StringVar(&f.caFile, "ca-file", "",
		"PEM `file` of additional certificate authorities to trust, as in the driver's flag")
	fs.StringSliceVar(&f.allowedHosts, "allowed-vault-hosts", nil, "additional vault `hosts`, as in the driver's flag")
	fs.BoolVar(&f.split, "write-cert-and-key-in-separate-files", false, "as in the driver's flag")
	fs.BoolVar(&f.constructPEMChain, "construct-pem-chain", true, "as in the driver's flag")
	fs.BoolVar(&f.accounts, "service-account-annotations", false, "as in the driver's flag")
	fs.StringVar(&f.tokenProxy.URL, "token-proxy-url", "", "`URL` of the AKS token proxy, as in the driver's flag")
	fs.StringVar(&f.tokenProxy.ServerName, "token-proxy-sni", "",
		"TLS server `name` of the AKS token proxy, as in the driver's flag")
	fs.StringVar(&f.tokenProxy.CAFile, "token-proxy-ca-file", "",
		"PEM `file` of the AKS token proxy's authorities, as in the driver's flag")
}

func (f *subjectFlags) check() error {
	var wrong []error
	if err := checkOutput(f.output, formats()...); err != nil {
		wrong = append(wrong, err)
	}
	identities := 0
	for _, set := range []bool{f.serviceAccount != "", f.secretFile != "", f.asClass} {
		if set {
			identities++
		}
	}
	if identities > 1 {
		wrong = append(wrong,
			errors.New("--service-account, --node-publish-secret-file and --as-class are mutually exclusive"))
	}
	if f.timeout <= 0 {
		wrong = append(wrong, fmt.Errorf("--timeout %s is not positive", f.timeout))
	}
	if f.accounts && f.serviceAccount == "" && !f.diagnosed {
		wrong = append(wrong, errors.New("--service-account-annotations needs --service-account"))
	}
	return errors.Join(wrong...)
}

// asPerson reports whether the caller's own credentials are used.
func (f *subjectFlags) asPerson() bool {
	return f.serviceAccount == "" && f.secretFile == "" && !f.asClass
}

func (f *subjectFlags) clouds() (*cloud.Resolver, error) {
	clouds, err := cloud.NewResolver(f.cloud, f.cloudDir)
	if err != nil {
		return nil, fmt.Errorf("--cloud: %w", err)
	}
	return clouds, nil
}

func (f *subjectFlags) callerOptions() kube.CallerOptions {
	return kube.CallerOptions{
		Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace, UserAgent: userAgent(f.build),
	}
}

// subjects are the classes that a command works on, and what is needed to fetch them.
type subjects struct {
	flags    *subjectFlags
	parse    class.Options
	cluster  *kube.Caller // nil until it is needed
	secrets  volume.Secrets
	provider *provider.Provider
	list     []subject

	// asPods is true where each class is asked for as its Pods do.
	asPods bool

	mu sync.Mutex
	// tokens are those of service accounts: each is asked for once.
	tokens map[tokenKey]func() (volume.Token, error)
}

// tokenKey is one token of a service account.
type tokenKey struct{ namespace, account, audience string }

// podIdentity is who asks for a class: the service account of a Pod, and what the Pod's volume says.
type podIdentity struct {
	account    string
	attributes map[string]string
}

// podOf is who asks for a class where no Pod is named.
func (s *subjects) podOf(*v1.SecretProviderClass) podIdentity {
	return podIdentity{account: s.flags.serviceAccount}
}

// token returns a token of a service account.
func (s *subjects) token(ctx context.Context, namespace, account, audience string) (volume.Token, error) {
	key := tokenKey{namespace, account, audience}
	s.mu.Lock()
	ask, known := s.tokens[key]
	if !known {
		ask = sync.OnceValues(func() (volume.Token, error) { return s.cluster.Token(ctx, namespace, account, audience) })
		if s.tokens == nil {
			s.tokens = map[tokenKey]func() (volume.Token, error){}
		}
		s.tokens[key] = ask
	}
	s.mu.Unlock()
	return ask()
}

// subject is one class.
type subject struct {
	class *v1.SecretProviderClass
	// origin is the file, or "cluster".
	origin string
	// mistakes are the errors that `keyvault-csi validate` finds in the class.
	mistakes []classfile.Finding
}

// name is namespace/name.
func (s subject) name() string { return s.class.Namespace + "/" + s.class.Name }

// openSubjects reads the classes of files, and of the cluster by name. Close the provider in the end.
func openSubjects(
	ctx context.Context,
	f *subjectFlags,
	names []string,
	stdin io.Reader,
	observer provider.Observer,
) (*subjects, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if len(f.files)+len(names) == 0 {
		return nil, errors.New("no class given: name a file with -f, or a class of the cluster as NAMESPACE/NAME")
	}
	clouds, err := f.clouds()
	if err != nil {
		return nil, err
	}
	s := &subjects{
		flags: f,
		parse: class.Options{Clouds: clouds, AllowedHosts: f.allowedHosts, SplitCertAndKey: f.split},
	}
	if err := s.readClasses(ctx, names, stdin); err != nil {
		return nil, err
	}
	if f.secretFile != "" {
		if s.secrets, err = readSecretFile(f.secretFile); err != nil {
			return nil, err
		}
	}
	return s, s.openProvider(observer) //nolint:contextcheck // it lives until Close
}

// readClasses reads the classes of the flags' files, and those of the cluster by name.
func (s *subjects) readClasses(ctx context.Context, names []string, stdin io.Reader) (err error) {
	for _, name := range s.flags.files {
		if err := readClassFiles(name, stdin, s.addFile); err != nil {
			return err
		}
	}
	if len(names) > 0 || s.flags.serviceAccount != "" {
		if s.cluster, err = kube.NewCaller(s.flags.callerOptions()); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := s.addNamed(ctx, name); err != nil {
			return err
		}
	}
	if len(s.list) == 0 {
		return errors.New("no SecretProviderClass was found")
	}
	for _, one := range s.list {
		if one.class.Namespace == "" {
			one.class.Namespace = s.namespace()
		}
	}
	return nil
}

func (s *subjects) openProvider(observer provider.Observer) (err error) {
	f := s.flags
	if f.caFile != "" {
		if _, err := os.ReadFile(f.caFile); err != nil {
			return fmt.Errorf("--ca-file: %w", fileError(f.caFile, err))
		}
	}
	o := provider.Options{
		Cloud:                f.cloud,
		CloudConfigDir:       f.cloudDir,
		AllowedVaultHosts:    f.allowedHosts,
		CAFile:               f.caFile,
		TokenProxy:           f.tokenProxy,
		CacheTTL:             f.timeout,
		FetchTimeout:         f.timeout,
		SplitCertAndKey:      f.split,
		KeepCertificateOrder: !f.constructPEMChain,
		ApplicationID:        "keyvault-csi",
		Person:               f.asPerson() && !s.asPods,
		Observer:             observer,
	}
	if f.accounts || s.asPods {
		o.Accounts = s.cluster
	}
	s.provider, err = provider.New(o)
	return err
}

// namespace is that of classes without one.
func (s *subjects) namespace() string {
	switch {
	case s.flags.namespace != "":
		return s.flags.namespace
	case s.cluster != nil:
		return s.cluster.Namespace()
	}
	return "default"
}

// addFile adds the classes of a file, with their mistakes.
func (s *subjects) addFile(path string, data []byte, named bool) error {
	set := classfile.NewSet(s.parse, classfile.Rules{})
	set.Add(path, data, named)
	findings := set.Finish(context.Background(), nil)
	if set.Classes == 0 && !named && len(findings) == 0 {
		return nil
	}
	for _, f := range findings {
		if f.Severity == classfile.Error && f.Class == "" {
			return errors.New(f.String())
		}
	}
	classes, err := manifest.Decode(data)
	if err != nil {
		return fmt.Errorf("%s: %w: `keyvault-csi validate` shows where", path, err)
	}
	for _, c := range classes {
		one := subject{class: c, origin: path}
		for _, f := range findings {
			if f.Severity == classfile.Error && (f.Class == c.Name || f.Class == c.Namespace+"/"+c.Name) {
				one.mistakes = append(one.mistakes, f)
			}
		}
		s.list = append(s.list, one)
	}
	return nil
}

// addNamed adds a class of the cluster.
func (s *subjects) addNamed(ctx context.Context, name string) error {
	namespace, short, qualified := strings.Cut(name, "/")
	if !qualified {
		namespace, short = s.namespace(), name
	}
	if namespace == "" || short == "" || strings.Contains(short, "/") {
		return fmt.Errorf("%q does not name a class: write NAMESPACE/NAME, or -f for a file", name)
	}
	found, err := s.cluster.Class(ctx, namespace, short)
	if err != nil {
		return err
	}
	s.list = append(s.list, subject{class: found, origin: "cluster"})
	return nil
}

// request is what kubelet would request for a pod of the service account.
func (s *subjects) request(ctx context.Context, c *v1.SecretProviderClass, pod podIdentity) (volume.Request, error) {
	req := volume.Request{
		Provider:   c.Spec.Provider,
		Parameters: c.Spec.Parameters,
		Attributes: pod.attributes,
		Secrets:    s.secrets,
		Pod:        volume.Pod{Namespace: c.Namespace, ServiceAccount: pod.account},
	}
	if pod.account == "" {
		return req, nil
	}
	audience := identity.ExchangeAudience
	if parsed, _, _ := class.Parse(class.Merge(c.Spec.Parameters, pod.attributes), s.parse); parsed != nil {
		switch parsed.Mode {
		case class.ManagedIdentity:
			return req, nil
		case class.TokenProxy:
			audience = identity.BindingAudience
		case class.Automatic:
		}
	}
	token, err := s.token(ctx, c.Namespace, pod.account, audience)
	if err != nil {
		return req, err
	}
	req.Tokens = map[string]volume.Token{audience: token}
	return req, nil
}

// readSecretFile reads a Secret's manifest, or a plain map of its keys. Errors never quote the file.
func readSecretFile(path string) (volume.Secrets, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the person's choice
	if err != nil {
		return nil, fmt.Errorf("--node-publish-secret-file: %w", fileError(path, err))
	}
	var manifest struct {
		Kind       string            `json:"kind"`
		Data       map[string][]byte `json:"data"`
		StringData map[string]string `json:"stringData"`
	}
	secrets := volume.Secrets{}
	if yaml.Unmarshal(data, &manifest) == nil && manifest.Kind == "Secret" {
		for key, value := range manifest.Data {
			secrets[key] = string(value)
		}
		maps.Copy(secrets, manifest.StringData)
		return secrets, nil
	}
	if yaml.Unmarshal(data, &secrets) != nil || len(secrets) == 0 {
		return nil, fmt.Errorf(
			"--node-publish-secret-file: %s is neither the manifest of a Secret nor a map of strings: write clientid "+
				"and clientsecret",
			path,
		)
	}
	return secrets, nil
}
