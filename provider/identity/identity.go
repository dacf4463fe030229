package identity

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Identity is one identity that asks. It implements azcore.TokenCredential.
type Identity struct {
	registry *Registry
	method   method
	key      string

	mu   sync.Mutex
	used time.Time
	// credential is the SDK's object; nil until it is needed, and again where its token cache must be avoided.
	credential azcore.TokenCredential
	tokens     map[string]azcore.AccessToken // by scope
	// retry is before when no renewal is tried, since one has just failed.
	retry time.Time
}

// Key is equal for equal identities only. It holds no secret.
func (i *Identity) Key() string { return i.key }

// String names the identity for a person; it holds no secret.
func (i *Identity) String() string { return i.method.String() }

// GoString keeps %#v from printing credentials.
func (i *Identity) GoString() string { return i.String() }

// LogValue keeps slog from printing credentials.
func (i *Identity) LogValue() slog.Value { return slog.StringValue(i.String()) }

// Use notes that the identity is in use, as Resolve does.
func (i *Identity) Use() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.used = i.registry.options.Clock.Now()
}

// update takes what is newer in an identity of the same key, and notes that it is used.
func (i *Identity) update(newer *Identity, now time.Time) {
	i.mu.Lock()
	i.used = now
	i.mu.Unlock()
	i.method.update(newer.method)
}

func (i *Identity) unusedSince(now time.Time) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	return now.Sub(i.used)
}

// sdk returns the SDK's credential object.
func (i *Identity) sdk() (azcore.TokenCredential, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.credential != nil {
		return i.credential, nil
	}
	o := i.registry.options
	credential, err := i.method.credential(azcore.ClientOptions{
		Transport:        o.Transport,
		Retry:            policy.RetryOptions{MaxRetries: -1}, // the callers retry
		PerRetryPolicies: i.policies(),
		TracingProvider:  o.Tracing,
	})
	if err != nil {
		if known, ok := errors.AsType[*volume.Error](err); ok {
			return nil, known
		}
		return nil, &volume.Error{
			Reason:  volume.ReasonIdentity,
			Message: "the identity " + i.String() + " is not usable: " + printable.OneLine(err.Error()),
			Cause:   err,
		}
	}
	i.credential = credential
	return credential, nil
}

// policies are those of the identity's requests.
func (i *Identity) policies() []policy.Policy {
	o, from := i.registry.options, i.method.service()
	limits := from.limits
	all := []policy.Policy{recorderPolicy{host: from.authority}, i.registry.found.policy(limits.Host)}
	if o.Limiters != nil {
		all = append(all, o.Limiters.Policy(limits))
	}
	return append(all, o.Policies...)
}
