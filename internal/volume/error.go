package volume

import (
	"errors"
	"time"
)

// Reason is the class of an error: whose fault it is and whether trying again can help. The set is closed and small
// enough to be a metric label.
type Reason string

const (
	// ReasonInvalidClass is a mistake in the SecretProviderClass or in the pod's volume attributes.
	ReasonInvalidClass Reason = "InvalidClass"
	// ReasonInvalidRequest is a CSI request that kubelet would not send.
	ReasonInvalidRequest Reason = "InvalidRequest"
	// ReasonClassNotFound means that no SecretProviderClass of that name is in the pod's namespace.
	ReasonClassNotFound Reason = "ClassNotFound"
	// ReasonIdentity means that Entra, IMDS or the token proxy refused the identity, that a credential is missing, or
	// that the driver's operator does not allow the identity.
	ReasonIdentity Reason = "Identity"
	// ReasonTokenExpired means that kubelet has sent no valid service account token since the last one ended.
	ReasonTokenExpired Reason = "TokenExpired"
	// ReasonPermission means that the vault knows the identity and refuses it the object.
	ReasonPermission Reason = "Permission"
	// ReasonFirewall means that the vault refuses the caller's network.
	ReasonFirewall Reason = "Firewall"
	// ReasonNotFound means that the object or version does not exist.
	ReasonNotFound Reason = "NotFound"
	// ReasonDisabled means that the object exists and is disabled.
	ReasonDisabled Reason = "Disabled"
	// ReasonInvalidContent means that the vault's content cannot become the files that the class asks for.
	ReasonInvalidContent Reason = "InvalidContent"
	// ReasonThrottled means that vault, Entra or IMDS asked for fewer requests.
	ReasonThrottled Reason = "Throttled"
	// ReasonDNS means that a host name has no address.
	ReasonDNS Reason = "DNS"
	// ReasonProxy means that the HTTP proxy on the way refused or failed.
	ReasonProxy Reason = "Proxy"
	// ReasonNetwork means that there is a route problem, a reset, a time-out or a TLS failure.
	ReasonNetwork Reason = "Network"
	// ReasonUnavailable means that a service answered with an error of its own, or with what is no answer at all.
	ReasonUnavailable Reason = "Unavailable"
	// ReasonNotReady means that the driver itself cannot serve yet.
	ReasonNotReady Reason = "NotReady"
	// ReasonFilesystem means that the node refused a mount or a write.
	ReasonFilesystem Reason = "Filesystem"
	// ReasonInternal is a defect of the driver.
	ReasonInternal Reason = "Internal"
)

// Transient returns whether an error of this reason may pass by itself: a service cannot be reached, or asks to come
// later. It does not refuse.
func (r Reason) Transient() bool {
	switch r {
	case ReasonDNS, ReasonProxy, ReasonNetwork, ReasonUnavailable, ReasonThrottled:
		return true
	default:
		return false
	}
}

// Error is what a user reads: one line that says what failed, for which object, whose fault it is and the fix.
// It never holds a secret.
type Error struct {
	Reason Reason
	// Message is one line, lower case, without the pod and class, which the RPC edge adds.
	Message string
	// RetryAfter is what the service asked for; zero where it asked for nothing.
	RetryAfter time.Duration
	// RequestID is the service's id of the failed request, for its support; empty where there is none.
	RequestID string
	// OfIdentity is true where the identity's token could not be had, so that the vault was not asked.
	OfIdentity bool
	// Cause is kept for errors.Is and errors.As. It is not printed.
	Cause error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// ReasonOf returns the reason of the first *Error in err's tree, else ReasonInternal.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ReasonInternal
}
