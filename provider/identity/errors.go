package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/neterr"
)

// failure is a failed token request.
type failure struct {
	// err is the SDK's error, which flattens its cause into text; seen is that cause.
	err  error
	seen *recorder
	// host is who was asked, who the identity.
	host, who string
	answer    answer
	outcome   limiter.Outcome
	wait      time.Duration // what the service asks to wait
}

// explain turns a failed token request into what a user reads.
func (i *Identity) explain(err error, seen *recorder) error {
	if known, ok := errors.AsType[*volume.Error](err); ok {
		return known
	}
	f := &failure{err: err, seen: seen, host: seen.host, who: i.String(), answer: parseAnswer(seen.body)}
	if f.host == "" {
		f.host = i.method.service().name
	}
	for _, secret := range i.method.secrets() {
		if secret != "" && strings.Contains(f.answer.description, secret) {
			f.answer.description = "details redacted"
		}
	}
	f.outcome, f.wait = limiter.Judge(&http.Response{StatusCode: seen.status, Header: seen.header},
		i.registry.options.Clock.Now())
	if e := i.method.explain(f); e != nil {
		return e
	}
	return f.explain()
}

// late explains that no token came before the caller's deadline: it is not the vault that did not answer.
func (i *Identity) late(err error) error {
	if _, known := errors.AsType[*volume.Error](err); known || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return neterr.Classify(err, i.method.service().name)
}

// error makes the error that a user reads.
func (f *failure) error(reason volume.Reason, message string) *volume.Error {
	return &volume.Error{
		Reason:    reason,
		Message:   message,
		RequestID: f.seen.header.Get("X-Ms-Request-Id"),
		Cause:     f.err,
	}
}

// network explains that no answer came.
func (f *failure) network() *volume.Error { return neterr.Classify(f.seen.err, f.host) }

// throttled returns whether the service asks for fewer requests. 50196 is Entra ID's word for a client that asks in a
// loop.
func (f *failure) throttled() bool { return f.outcome == limiter.Throttled || f.answer.code == "50196" }

// explain explains what means the same for all methods.
func (f *failure) explain() *volume.Error {
	status := f.seen.status
	switch {
	case f.seen.err != nil:
		return f.network()
	case status < http.StatusBadRequest:
		return f.error(
			volume.ReasonUnavailable,
			fmt.Sprintf("%s gave no token to %s but an answer that is not understood: check proxies on the way",
				f.host, f.who),
		)
	case f.throttled():
		e := f.error(volume.ReasonThrottled,
			fmt.Sprintf("%s asked for fewer token requests of %s: it is tried again later", f.host, f.who))
		e.RetryAfter = f.wait
		return e
	case f.outcome == limiter.Failed:
		e := f.error(volume.ReasonUnavailable,
			fmt.Sprintf("%s answered %d to a token request: it is tried again later", f.host, status))
		e.RetryAfter = f.wait
		return e
	case f.answer.known:
		return f.error(volume.ReasonIdentity, fmt.Sprintf("%s refused %s: %s", f.host, f.who, f.answer.summary()))
	}
	return f.error(volume.ReasonUnavailable,
		fmt.Sprintf("%s answered %d and not as Entra ID does: check proxies on the way", f.host, status))
}

// answer is an OAuth error (RFC 6749, 5.2) with Entra ID's code.
type answer struct {
	known       bool
	code        string
	kind        string
	description string
}

var aadsts = regexp.MustCompile(`AADSTS(\d+)`)

// parseAnswer reads an error body; nothing of one that is not understood is used.
func parseAnswer(body []byte) answer {
	var raw struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Codes       []int  `json:"error_codes"`
	}
	if json.Unmarshal(body, &raw) != nil || raw.Error == "" {
		return answer{}
	}
	a := answer{known: true, kind: raw.Error, description: raw.Description}
	if m := aadsts.FindStringSubmatch(raw.Description); m != nil {
		a.code = m[1]
	} else if len(raw.Codes) > 0 {
		a.code = fmt.Sprint(raw.Codes[0])
	}
	return a
}

// maxShown bounds what an error shows of a service's text, in bytes.
const maxShown = 123

// traces are the parts of a description that differ each time.
var traces = regexp.MustCompile(`(?s)\s*(Trace ID|Correlation ID|Timestamp):.*$`)

// summary is the description's first sentence.
func (a answer) summary() string {
	text := printable.OneLine(traces.ReplaceAllString(a.description, ""))
	text = strings.TrimPrefix(text, "AADSTS"+a.code+": ")
	if text == "" {
		text = printable.OneLine(a.kind)
	}
	return printable.Cut(text, maxShown)
}
