package secretdata

// Types of Secrets and their keys, as Kubernetes names them. k8s.io/api/core/v1 has them too, and links all types of
// the core group.
const (
	TypeOpaque              = "Opaque"
	TypeTLS                 = "kubernetes.io/tls"
	TypeBasicAuth           = "kubernetes.io/basic-auth"
	TypeSSHAuth             = "kubernetes.io/ssh-auth"
	TypeDockercfg           = "kubernetes.io/dockercfg"
	TypeDockerConfigJSON    = "kubernetes.io/dockerconfigjson"
	TypeServiceAccountToken = "kubernetes.io/service-account-token" //nolint:gosec // a name
	TypeBootstrapToken      = "bootstrap.kubernetes.io/token"       //nolint:gosec // a name
	TypeHelmRelease         = "helm.sh/release.v1"

	keyTLSCertificate = "tls.crt"
	keyTLSKey         = "tls.key"
	keyTLSAuthorities = "ca.crt"
	keyDockerJSON     = ".dockerconfigjson"
	keyDockercfg      = ".dockercfg"
	keySSH            = "ssh-privatekey"
	keyUsername       = "username"
	keyPassword       = "password"

	// maxSize is what the API server takes as the values of a Secret, in bytes.
	maxSize = 1 << 20
)
