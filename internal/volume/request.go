package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// DriverName is the name of the CSI driver in existing Pods: that of the Secrets Store CSI Driver.
const DriverName = "secrets-store.csi.k8s.io"

// Pod is the pod that a volume belongs to, as kubelet names it (podInfoOnMount).
type Pod struct {
	Namespace      string
	Name           string
	UID            string
	ServiceAccount string
}

// String returns "namespace/name".
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Ref names one published volume in logs, events and errors. It carries no secret.
type Ref struct {
	// ID is the CSI volume id.
	ID string
	// TargetPath is where kubelet wants the files.
	TargetPath string
	Pod        Pod
	// Class is the name of the SecretProviderClass; it lives in the pod's namespace.
	Class string
	// Attributes is HashAttributes of the volume attributes that override parameters of the class; empty where there
	// are none.
	Attributes string
}

// HashAttributes returns a hash that is equal for equal volume attributes, on every node; empty where there are none.
func HashAttributes(attributes map[string]string) string {
	if len(attributes) == 0 {
		return ""
	}
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		_, _ = fmt.Fprintf(h, "%q=%q\n", key, attributes[key])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Token is a service account token that kubelet handed over, bound to the pod. It never prints its value.
type Token struct {
	Value   string
	Expires time.Time
}

// String hides the token.
func (Token) String() string { return "[redacted]" }

// GoString hides the token from %#v.
func (Token) GoString() string { return "[redacted]" }

// LogValue hides the token from slog.
func (Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Secrets are the values of the Secret that nodePublishSecretRef names. They never print.
type Secrets map[string]string

// String hides the values.
func (Secrets) String() string { return "[redacted]" }

// GoString hides the values from %#v.
func (Secrets) GoString() string { return "[redacted]" }

// LogValue hides the values from slog.
func (Secrets) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Request is all that a provider may know of the volume that it is to fill.
type Request struct {
	Pod Pod
	// Provider and Parameters are those of the SecretProviderClass. The parameters must not be changed.
	Provider   string
	Parameters map[string]string
	// Attributes are the volume attributes of the pod spec without the keys that kubelet sets. They override class
	// parameters of the same name.
	Attributes map[string]string
	// Tokens maps the audience to the service account token for it.
	Tokens map[string]Token
	// Secrets are those of nodePublishSecretRef; nil where the pod names none.
	Secrets Secrets
	// Known is the binding of the last request for this volume, where that was equal; else nil.
	Known Binding
}
