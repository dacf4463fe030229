package provider

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// mostReported bounds how many failed objects one error line names.
const mostReported = 3

// join makes one line of the failures of several objects, each cause once. What a person must fix goes before what may
// pass by itself.
func join(failed []*volume.Error) error {
	var lasting, passing []*volume.Error
	for _, e := range failed {
		if e.Reason.Transient() {
			passing = append(passing, e)
		} else {
			lasting = append(lasting, e)
		}
	}
	failed = slices.Concat(lasting, passing)
	var lines []string
	var wait time.Duration
	for _, e := range failed {
		if !slices.Contains(lines, e.Message) {
			lines = append(lines, e.Message)
		}
		wait = max(wait, e.RetryAfter)
	}
	message := strings.Join(lines[:min(len(lines), mostReported)], "; ")
	if more := len(lines) - mostReported; more > 0 {
		message += fmt.Sprintf("; and %d more objects failed", more)
	}
	first := failed[0]
	return &volume.Error{
		Reason:     first.Reason,
		Message:    message,
		RetryAfter: wait,
		RequestID:  first.RequestID,
		Cause:      first,
	}
}

// asError makes any error one that a user reads.
func asError(err error) *volume.Error {
	if known, ok := errors.AsType[*volume.Error](err); ok {
		return known
	}
	return &volume.Error{Reason: volume.ReasonInternal, Message: err.Error(), Cause: err}
}

func reasonOf(err error) volume.Reason {
	if err == nil {
		return ""
	}
	return volume.ReasonOf(err)
}

// host is the host name of a vault's URL.
func host(vaultURL string) string {
	if u, err := url.Parse(vaultURL); err == nil {
		return u.Host
	}
	return vaultURL
}
