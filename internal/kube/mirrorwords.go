package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// failure is how a try ended, in words for people. It is an error where it ended a try.
type failure struct {
	kind    report.Kind
	reason  volume.Reason
	message string
	// took is how long the write took; zero where nothing was written.
	took time.Duration
	// passing is true where another try can help without anybody's doing.
	passing bool
	cause   error

	// print and fetched are those of the values that were tried.
	print   [32]byte
	fetched time.Time
}

// Error implements error.
func (f *failure) Error() string { return f.message }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.cause }

func twice(key secretKey) *failure {
	return &failure{kind: report.KindSyncFailed, reason: volume.ReasonInvalidClass, message: key.String() +
		" stands in secretObjects more than once: only the first counts: merge them"}
}

func foreign(key secretKey) *failure {
	return &failure{kind: report.KindSyncConflict, message: fmt.Sprintf("%s exists and is not the driver's, because it has no label %s=%s: "+
		"it is left as it is: write another secretName in the class, or delete the Secret, or give it the label so that the driver takes it over",
		key, secretdata.ManagedLabel, secretdata.Managed)}
}

func notFromStale(key secretKey) *failure {
	return &failure{kind: report.KindSyncFailed, reason: volume.ReasonUnavailable, message: key.String() +
		" does not exist, and is not made from last known good values: it is made at the first refresh that succeeds"}
}

func contested(key secretKey, living []claim) *failure {
	return &failure{kind: report.KindSyncConflict, message: fmt.Sprintf("%s is not written, because another class of this namespace feeds it "+
		"with other values: %s: give each class keys of its own, or take the Secret out of one of them", key, list(living))}
}

func taken(key secretKey, claims []claim) *failure {
	return &failure{kind: report.KindSyncConflict, message: fmt.Sprintf("%s had other values than the vault, and was put right: %s: change the "+
		"value in the vault, or take the key out of the class", key, list(claims))}
}

func inheritedFrom(key secretKey, keys []string) *failure {
	return &failure{kind: report.KindSyncConflict, message: fmt.Sprintf("%s was taken over from the Secrets Store CSI Driver (field manager %q) with "+
		"its keys %s: let no other driver write it any more", key, upstreamManager, strings.Join(keys, ", "))}
}

func ownersForbidden(key secretKey, err error) *failure {
	return &failure{kind: report.KindSyncFailed, passing: true, cause: err, message: fmt.Sprintf("%s stands, but the driver may not add an owner "+
		"to it, so that it may be deleted too early, or never: on OpenShift, set rbac.ownerReferences in the chart: %s", key, oneLine(err))}
}

// list names fields and who has them: data.a and data.b of kubectl-edit.
func list(claims []claim) string {
	fields := map[string][]string{}
	var owners []string
	for _, c := range claims {
		owner := "field manager " + fmt.Sprintf("%.80q", c.manager)
		if c.class != "" {
			owner = "class " + c.class
		}
		if fields[owner] == nil {
			owners = append(owners, owner)
		}
		fields[owner] = append(fields[owner], c.field)
	}
	var parts []string
	for _, owner := range owners {
		slices.Sort(fields[owner])
		parts = append(parts, strings.Join(fields[owner], ", ")+" of "+owner)
	}
	return strings.Join(parts, "; ")
}

// explain says what an error means for people, and whether it passes.
func explain(key secretKey, err error, secret *secretdata.Secret) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		copied := *f
		return &copied
	}
	f := &failure{kind: report.KindSyncFailed, reason: volume.ReasonUnavailable, passing: true, cause: err}
	status := apierrors.APIStatus(nil)
	invalid, bad := errors.AsType[*volume.Error](err)
	switch answered := asStatus(err, &status); {
	case bad:
		f.reason, f.passing = invalid.Reason, false
		f.message = key.String() + " cannot be made: " + invalid.Message
	case answered && hasCause(status, "type"):
		f.reason, f.passing = "", false
		f.message = fmt.Sprintf("%s has another type than the class asks for (%s), and Kubernetes lets no type change: delete the Secret, and "+
			"it is made anew at the next refresh", key, kindOf(secret))
	case answered && apierrors.IsInvalid(err) && hasCause(status, "data"):
		f.reason, f.passing = "", false
		f.message = key.String() + " is immutable and holds older values: delete the Secret, and it is made anew at the next refresh; leave " +
			"immutable out of it"
	case apierrors.IsForbidden(err) || answered && deniedByPolicy(status):
		f.reason = ""
		f.message = key.String() + " is not written, because the driver may not: switch Secret sync on in the chart, which grants it, or ask " +
			"who keeps the cluster's policies: " + quote(err, secret)
	case answered && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err)):
		f.reason, f.passing = volume.ReasonInvalidClass, false
		f.message = key.String() + " is not written, because the API server takes it for wrong: " + quote(err, secret)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		f.message = key.String() + " is not written, because the API server does not answer in time: it is tried again"
	default:
		f.message = key.String() + " is not written, because the API server does not take it now: it is tried again: " + quote(err, secret)
	}
	return f
}

func kindOf(secret *secretdata.Secret) string {
	if secret == nil {
		return "unknown"
	}
	return string(secret.Type)
}

// quote is the API server's text, unless it holds a value of the Secret: admission webhooks may say anything.
func quote(err error, secret *secretdata.Secret) string {
	text := oneLine(err)
	if secret == nil {
		return text
	}
	for _, value := range secret.Data {
		for _, form := range []string{string(value), base64.StdEncoding.EncodeToString(value), strings.Join(strings.Fields(string(value)), " ")} {
			if form = strings.TrimSpace(form); form != "" && strings.Contains(text, form) {
				return "(its words are withheld, because they quote the Secret)"
			}
		}
	}
	return text
}
