package node

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/admin"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// driverFlags are the flags of `keyvault-csi driver`.
type driverFlags struct {
	endpoint                string
	nodeID                  string
	driverName              string
	registrationDir         string
	kubeletRegistrationPath string
	kubeletDir              string
	kubeconfig              string
	classes                 string
	volumeSize              int64

	rotation         bool
	rotationInterval time.Duration
	cacheTTL         time.Duration
	syncSecrets      bool
	secretTypes      []string
	secretNamespaces []string
	noSecrets        []string
	nodeIdentity     nodeidentity.Flags
	accounts         bool

	httpAddr     string
	debugAddr    string
	adminAddr    string
	auditLog     string
	otlpEndpoint string
	logFormat    string
	logJSON      bool
	verbosity    int

	cloud             string
	cloudConfigDir    string
	caFile            string
	allowedVaultHosts []string
	splitCertAndKey   bool
	constructPEMChain bool
	tokenProxyURL     string
	tokenProxySNI     string
	tokenProxyCAFile  string
}

// register adds the flags. Defaults include the environment variables that upstream's manifests set.
func (f *driverFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.endpoint, "endpoint", "unix:///csi/csi.sock", "the CSI `socket` to serve")
	fs.StringVar(&f.nodeID, "node-id", os.Getenv("KUBE_NODE_NAME"), "the node's `name` (default $KUBE_NODE_NAME)")
	fs.StringVar(&f.driverName, "driver-name", volume.DriverName, "the CSI driver's `name`")
	fs.StringVar(&f.registrationDir, "registration-dir", "",
		"kubelet's plugin registry `directory`; empty: do not register")
	fs.StringVar(&f.kubeletRegistrationPath, "kubelet-registration-path", "",
		"the CSI socket's `path` on the host, for kubelet")
	fs.StringVar(&f.kubeletDir, "kubelet-dir", "/var/lib/kubelet",
		"kubelet's root `directory`; nothing outside it is mounted")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty: the pod's own service account")
	fs.StringVar(&f.classes, "classes", "", "a `directory` of SecretProviderClass YAML: run without any API server")
	fs.Int64Var(&f.volumeSize, "volume-size", tmpfs.DefaultSize,
		"size of each volume's tmpfs in `bytes`; it must hold two generations of the files")

	fs.BoolVar(&f.rotation, "rotation", true, "refresh mounted volumes")
	fs.DurationVar(&f.rotationInterval, "rotation-interval", 2*time.Minute,
		"how often to refresh mounted volumes; 0 turns it off")
	fs.DurationVar(&f.cacheTTL, "cache-ttl", 10*time.Second,
		"how long pods of one identity that start together share a value")
	fs.BoolVar(&f.syncSecrets, "sync-secrets", false, "sync the Kubernetes Secrets of a class's secretObjects")
	fs.StringSliceVar(
		&f.secretTypes,
		"secret-types",
		nil,
		"`types` of Secrets that may be written beside those that always may (Opaque, TLS, basic-auth, ssh-auth, dockercfg, dockerconfigjson)",
	)
	fs.StringSliceVar(
		&f.secretNamespaces,
		"secret-namespaces",
		nil,
		"`namespaces` in which Secrets may be written; empty: all but --no-secret-namespaces",
	)
	fs.StringSliceVar(
		&f.noSecrets,
		"no-secret-namespaces",
		[]string{"kube-system", "kube-public", "kube-node-lease"},
		"`namespaces` in which no Secret is written unless --secret-namespaces names them",
	)
	f.nodeIdentity.Register(fs, "")
	fs.BoolVar(&f.accounts, "service-account-annotations", false,
		"take client and tenant id from the ServiceAccount's annotations if a class does not set them")

	fs.StringVar(&f.httpAddr, "http-addr", ":8095", "`address` of /healthz, /readyz and /metrics; empty: off")
	fs.StringVar(&f.debugAddr, "debug-addr", "", "`address` of /debug/pprof, loopback if no host is given; empty: off")
	fs.StringVar(&f.adminAddr, "admin-addr", admin.DefaultAddress,
		"loopback `address` for the commands status and log-level; empty: off")
	fs.StringVar(&f.auditLog, "audit-log", "",
		"`file` for a JSON line for each object that a pod gets, - for standard output; empty: off")
	fs.StringVar(&f.otlpEndpoint, "otlp-endpoint", "",
		"`URL` of an OpenTelemetry collector for traces (default $OTEL_EXPORTER_OTLP_ENDPOINT; off without)")
	fs.StringVar(&f.logFormat, "log-format", logging.Text, "`text or json`")
	fs.IntVarP(&f.verbosity, "v", "v", 0, "log `verbosity`: 0 to 10")

	fs.StringVar(&f.cloud, "cloud", "AzurePublicCloud", "the Azure `cloud` of classes that do not set one")
	fs.StringVar(&f.cloudConfigDir, "cloud-config-dir", "",
		"`directory` of custom clouds' JSON files (cloudEnvFileName)")
	fs.StringVar(&f.caFile, "ca-file", "", "PEM `file` of additional certificate authorities to trust")
	fs.StringSliceVar(&f.allowedVaultHosts, "allowed-vault-hosts", nil,
		"vault `hosts`, or .suffixes, that keyvaultURI may use in addition to those of the cloud")
	fs.BoolVar(&f.splitCertAndKey, "write-cert-and-key-in-separate-files", false,
		"write .crt and .key files beside each certificate-backed secret")
	fs.BoolVar(&f.constructPEMChain, "construct-pem-chain", true, "order certificates of a PFX from leaf to root")
	fs.StringVar(&f.tokenProxyURL, "token-proxy-url", "", "`URL` of the AKS token proxy (identity binding)")
	fs.StringVar(&f.tokenProxySNI, "token-proxy-sni", "", "TLS server `name` of the AKS token proxy; empty: derived")
	fs.StringVar(&f.tokenProxyCAFile, "token-proxy-ca-file", "",
		"PEM `file` of the AKS token proxy's certificate authorities; empty: the cluster's")
	fs.BoolVar(&f.logJSON, "log-format-json", false, "")
	_ = fs.MarkHidden("log-format-json")
	fs.SetNormalizeFunc(normalize)
}

// aliases are upstream's names of flags that mean the same here, so that its manifests work.
var aliases = map[string]pflag.NormalizedName{
	"nodeid":                 "node-id",
	"drivername":             "driver-name",
	"metrics-addr":           "http-addr",
	"enable-secret-rotation": "rotation",
	"rotation-poll-interval": "rotation-interval",
	"cloud-name":             "cloud",
	"sni-name":               "token-proxy-sni",
}

func normalize(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if to, ok := aliases[name]; ok {
		return to
	}
	return pflag.NormalizedName(name)
}

// check returns every mistake at once.
func (f *driverFlags) check() error {
	var wrong []error
	if f.registrationDir != "" && f.kubeletRegistrationPath == "" {
		wrong = append(wrong,
			errors.New("--registration-dir needs --kubelet-registration-path: the CSI socket's path on the host"))
	}
	if f.rotationInterval < 0 {
		wrong = append(wrong,
			fmt.Errorf("--rotation-interval %s is negative: 0 turns rotation off", f.rotationInterval))
	}
	if f.rotationInterval > 0 && f.rotationInterval < time.Second {
		wrong = append(wrong, fmt.Errorf("--rotation-interval %s is below 1s", f.rotationInterval))
	}
	if f.cacheTTL < 0 {
		wrong = append(wrong, fmt.Errorf("--cache-ttl %s is negative", f.cacheTTL))
	}
	for _, kind := range f.secretTypes {
		if secretdata.NeverType(kind) {
			wrong = append(
				wrong,
				fmt.Errorf(
					"--secret-types: Secrets of the type %s give access to the cluster itself and are never written: leave it out",
					kind,
				),
			)
		}
	}
	if _, err := f.nodeIdentity.Rule(); err != nil {
		wrong = append(wrong, err)
	}
	wrong = append(wrong, f.checkClasses()...)
	if err := admin.CheckLoopback("--admin-addr", f.adminAddr); err != nil {
		wrong = append(wrong, err)
	}
	if f.volumeSize < 1<<16 {
		wrong = append(wrong, fmt.Errorf("--volume-size %d is too small: at least 65536 bytes", f.volumeSize))
	}
	return errors.Join(wrong...)
}

// checkClasses returns the mistakes about --classes, which means that there is no API server.
func (f *driverFlags) checkClasses() (wrong []error) {
	if f.classes == "" {
		return nil
	}
	if f.kubeconfig != "" {
		wrong = append(
			wrong,
			errors.New("--classes and --kubeconfig are mutually exclusive: classes come from one source"),
		)
	}
	for _, other := range []struct {
		name string
		set  bool
	}{
		{"--sync-secrets", f.syncSecrets},
		{"--node-identity-namespace-selector", f.nodeIdentity.Selector != ""},
		{"--service-account-annotations", f.accounts},
	} {
		if other.set {
			wrong = append(wrong,
				fmt.Errorf("%s needs the API server, which --classes does not use: remove one of them", other.name))
		}
	}
	return wrong
}

// secretRules bound what Secret sync writes.
func (f *driverFlags) secretRules() secretsync.Rules {
	return secretsync.Rules{Types: f.secretTypes, Namespaces: f.secretNamespaces, Excluded: f.noSecrets}
}

// interval is 0 if rotation is off.
func (f *driverFlags) interval() time.Duration {
	if !f.rotation {
		return 0
	}
	return f.rotationInterval
}
