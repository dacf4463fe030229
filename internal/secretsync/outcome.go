package secretsync

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Result is how a call ended. The set is closed.
type Result int

const (
	// Unchanged means that the Secret is as desired, or is not to exist.
	Unchanged Result = iota
	// Created means that the Secret was created.
	Created
	// Updated means that the Secret was written.
	Updated
	// Held means that nothing was written because the values are not newer than what the Secret was made from.
	Held
	// Conflict means that the Secret, or a key of it, is somebody else's.
	Conflict
	// Failed means that the API server or the class is in the way.
	Failed
)

// Retry says whether and how another call can help.
type Retry int

const (
	// NoRetry waits for other values, or another class.
	NoRetry Retry = iota
	// RetryWithSameValues helps without anybody's doing: the API server did not serve.
	RetryWithSameValues
	// RetryWithFreshValues waits for somebody to change the Secret or the class. Values are not kept that long.
	RetryWithFreshValues
)

// Outcome is how a call ended, in words for people. It holds no secret.
type Outcome struct {
	Result Result
	// Message is one line; empty where there is nothing to say.
	Message string
	// Reason is the class of the failure; may be empty.
	Reason volume.Reason
	// Notices tell what was taken from other field managers on the way; one line each.
	Notices []string
	// Retry says whether and how another call can help; NoRetry where the call succeeded.
	Retry Retry
	// Refetch asks for values that are newer, after RefetchAfter.
	Refetch      bool
	RefetchAfter time.Duration
	// Took is how long the call took.
	Took time.Duration
	// Err is what the API server answered; nil where it did not fail. Its text may quote values: do not print it.
	Err error

	overruled bool
}

// Done says whether the Secret needs nothing more.
func (o Outcome) Done() bool { return o.Result <= Updated }

func created(d *Desired) Outcome {
	return Outcome{Result: Created, Message: d.String() + " was created"}
}

func updated(d *Desired) Outcome {
	return Outcome{Result: Updated, Message: d.String() + " was updated"}
}

// held is the outcome where the order does not allow a write.
func (o Outcome) held(d *Desired, order order) Outcome {
	o.Result = Held
	switch order {
	case older:
		o.Refetch = true
	case undecided:
		o.Refetch, o.RefetchAfter = true, undecidedWait
	case undated:
		o.Result, o.Reason, o.Retry = Failed, volume.ReasonUnavailable, RetryWithFreshValues
		o.Message = d.String() + " is not written, because the vault's answer has no Date header, so that it may be older than what the " +
			"Secret holds: let the proxy on the way to the vault pass that header on, or delete the Secret"
	case overruled:
		return Overruled(d)
	case superseded, otherClass, newer, equal:
	}
	return o
}

// Overruled is the outcome for values whose volume attributes differ from those of a younger Pod.
func Overruled(d *Desired) Outcome {
	return Outcome{
		Result:    Conflict,
		overruled: true,
		Message: d.String() + " is not written for this Pod, because a younger Pod uses the " +
			"class with other volumeAttributes, and the youngest Pod's values win: give each set of volumeAttributes a class with a secretName " +
			"of its own",
	}
}

// IsOverruled says whether the Secret holds the values of a younger Pod with other volume attributes.
func (o Outcome) IsOverruled() bool { return o.overruled }

func terminatingSecret(d *Desired) Outcome {
	return Outcome{
		Result: Failed, Reason: volume.ReasonUnavailable, Retry: RetryWithSameValues,
		Message: d.String() + " is being deleted and its finalizers are not done: it is created again once it is gone",
	}
}

func notFromStale(d *Desired) Outcome {
	return Outcome{Result: Failed, Reason: volume.ReasonUnavailable, Message: d.String() +
		" does not exist, and is not created from last known good values: it is created at the first refresh that succeeds"}
}

func taken(d *Desired, claims []claim) string {
	return fmt.Sprintf(
		"%s had other values than the vault, and was corrected: %s: change the value in the vault, or take the key out of "+
			"the class",
		d,
		list(claims),
	)
}

func inheritedFrom(d *Desired, keys []string) string {
	return fmt.Sprintf(
		"%s was taken over from the Secrets Store CSI Driver (field manager %q) with its keys %s: let no other driver "+
			"write it any more",
		d,
		d.Writer.Predecessor,
		strings.Join(keys, ", "),
	)
}

// contestedError means that another class that exists sets fields to other values.
type contestedError struct{ claims []claim }

func (e *contestedError) Error() string { return "conflict with another class" }

// ownersForbiddenError means that the values could be written and the owners could not.
type ownersForbiddenError struct{ cause error }

func (e *ownersForbiddenError) Error() string { return e.cause.Error() }

func (e *ownersForbiddenError) Unwrap() error { return e.cause }

// ownersForbidden reports whether owners were rejected (OwnerReferencesPermissionEnforcement), and not the whole write.
func ownersForbidden(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ownerRef")
}

// explain says what an error means for people, and whether another call can help.
func (r *Reconciler) explain(d *Desired, err error) Outcome {
	for _, explain := range []func(*Desired, error) Outcome{explainOwn, explainBlocked, explainAnswer} {
		if o := explain(d, err); o.Message != "" {
			o.Err = err
			return o
		}
	}
	return Outcome{Result: Failed, Err: err}
}

// explainOwn explains the errors of this package and of the class. Others have no message.
func explainOwn(d *Desired, err error) Outcome {
	if invalid, ok := errors.AsType[*volume.Error](err); ok {
		return Outcome{
			Result:  Failed,
			Reason:  invalid.Reason,
			Message: d.String() + " cannot be created: " + invalid.Message,
		}
	}
	if contested, ok := errors.AsType[*contestedError](err); ok {
		return Outcome{
			Result: Conflict,
			Retry:  RetryWithFreshValues,
			Message: fmt.Sprintf("%s is not written, because another class of this "+
				"namespace sets it to other values: %s: give each class keys of its own, or take the Secret out of one of them",
				d, list(contested.claims)),
		}
	}
	if forbidden, ok := errors.AsType[*ownersForbiddenError](err); ok {
		return Outcome{
			Result: Failed,
			Retry:  RetryWithSameValues,
			Message: fmt.Sprintf("%s exists, but the driver may not add an owner to it, "+
				"so that it may be deleted too early, or never: on OpenShift, set rbac.ownerReferences in the chart: %s",
				d, quote(forbidden.cause, d)),
		}
	}
	if errors.Is(err, errForeign) {
		return Outcome{
			Result: Conflict,
			Retry:  RetryWithFreshValues,
			Message: fmt.Sprintf("%s exists and is not the driver's, because it has no "+
				"label %s=%s: it is left as it is: write another secretName in the class, or delete the Secret, or give it the label so that the "+
				"driver takes it over", d, d.Writer.Label, d.Writer.LabelValue),
		}
	}
	return Outcome{}
}

// explainBlocked explains what lasts until somebody changes the Secret or the namespace. Others have no message.
func explainBlocked(d *Desired, err error) Outcome {
	status := apierrors.APIStatus(nil)
	answered := asStatus(err, &status)
	o := Outcome{Result: Failed, Retry: RetryWithFreshValues}
	switch {
	case hasCauseType(err, namespaceTerminating) || isNamespaceGone(err):
		o.Message = d.String() + " is not written, because its namespace is being deleted"
	case answered && hasCause(status, "type"):
		o.Message = fmt.Sprintf(
			"%s has another type than the class asks for (%s), and Kubernetes lets no type change: delete the Secret, "+
				"and it is created again at the next refresh",
			d,
			d.Type,
		)
	case answered && apierrors.IsInvalid(err) && hasCause(status, "data"):
		o.Message = d.String() + " is immutable and holds older values: delete the Secret, and it is created again at the next refresh; " +
			"leave immutable out of it"
	}
	return o
}

// explainAnswer explains what else the API server said, or that it said nothing.
func explainAnswer(d *Desired, err error) Outcome {
	status := apierrors.APIStatus(nil)
	answered := asStatus(err, &status)
	notWritten := d.String() + " is not written, because "
	switch {
	case apierrors.IsForbidden(err) || answered && deniedByPolicy(status):
		return Outcome{
			Result: Failed,
			Retry:  RetryWithSameValues,
			Message: notWritten + "the driver may not: enable Secret sync in the chart, " +
				"which grants it, or ask who keeps the cluster's policies and quotas: " + quote(err, d),
		}
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err):
		return Outcome{
			Result:  Failed,
			Reason:  volume.ReasonInvalidClass,
			Message: notWritten + "the API server rejected it: " + quote(err, d),
		}
	}
	o := Outcome{Result: Failed, Reason: volume.ReasonUnavailable, Retry: RetryWithSameValues}
	switch {
	case apierrors.IsUnauthorized(err):
		o.Message = notWritten + "the API server does not accept the driver's token: it is read again and tried again: " + quote(
			err,
			d,
		)
	case errors.Is(err, errRaced):
		o.Message = notWritten + "others write it at the same time: it is tried again"
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		o.Message = notWritten + "the API server does not answer in time: it is tried again"
	default:
		o.Message = notWritten + "the API server cannot take it now: it is tried again: " + quote(err, d)
	}
	return o
}

// quote is the API server's text, unless it holds a value of the Secret: admission webhooks may say anything.
func quote(err error, d *Desired) string {
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		err = status // without what the client wrapped around it
	}
	text := printable.OneLine(err.Error())
	for _, value := range d.Data {
		for _, form := range []string{string(value), base64.StdEncoding.EncodeToString(value), strings.Join(strings.Fields(string(value)), " ")} {
			if form = strings.TrimSpace(form); form != "" && strings.Contains(text, form) {
				return "(details redacted, because they quote the Secret)"
			}
		}
	}
	return text
}
