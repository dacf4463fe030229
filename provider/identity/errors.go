package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/neterr"
)

// explain turns a failed token request into what a user reads.
func (i *Identity) explain(err error, seen *recorder) error {
	if known, ok := errors.AsType[*volume.Error](err); ok {
		return known
	}
	host := seen.host
	if host == "" {
		host = i.service()
	}
	if i.mode == person {
		return i.explainPerson(err, seen, host)
	}
	if seen.err != nil {
		e := neterr.Classify(seen.err, host)
		if i.mode == managedIdentity && (e.Reason == volume.ReasonNetwork || e.Reason == volume.ReasonProxy) {
			e = &volume.Error{Reason: e.Reason, Cause: err, Message: "the instance metadata service " + host + " cannot be reached for " +
				i.String() + ": the node must be an Azure VM, and nothing may block the pod from it (hostNetwork, network policies)"}
		}
		return e
	}
	if seen.status >= http.StatusBadRequest {
		return i.refused(seen, host)
	}
	return &volume.Error{Reason: volume.ReasonUnavailable, Cause: err, Message: fmt.Sprintf(
		"%s gave no token to %s but an answer that is not understood: check proxies on the way", host, i)}
}

// refused explains an answer that is an error.
func (i *Identity) refused(seen *recorder, host string) error {
	now := i.registry.options.Clock.Now()
	e := &volume.Error{Reason: volume.ReasonIdentity, RequestID: seen.header.Get("X-Ms-Request-Id")}
	outcome, wait := limiter.Judge(&http.Response{StatusCode: seen.status, Header: seen.header}, now)
	answer := parseAnswer(seen.body)
	switch {
	case outcome == limiter.Throttled || answer.code == "50196":
		e.Reason, e.RetryAfter = volume.ReasonThrottled, wait
		e.Message = fmt.Sprintf("%s asked for fewer token requests of %s: it is tried again later", host, i)
	case i.mode == managedIdentity:
		e.Reason, e.Message = i.refusedByIMDS(seen.status, answer)
	case answer.code != "":
		e.Message = i.refusedByEntra(answer)
	case outcome == limiter.Failed:
		e.Reason, e.RetryAfter = volume.ReasonUnavailable, wait
		e.Message = fmt.Sprintf("%s answered %d to a token request: it is tried again later", host, seen.status)
	case answer.known:
		e.Message = fmt.Sprintf("%s refused %s: %s", host, i, answer.summary())
	default:
		e.Reason = volume.ReasonUnavailable
		e.Message = fmt.Sprintf("%s answered %d and not as Entra ID does: check proxies on the way", host, seen.status)
	}
	return e
}

func (i *Identity) refusedByIMDS(status int, a answer) (volume.Reason, string) {
	switch {
	case status == http.StatusBadRequest && i.managed.value != "":
		return volume.ReasonIdentity, fmt.Sprintf("%s is not assigned to this node: assign it to the VM or scale set, or correct "+
			"userAssignedIdentityID", i)
	case status == http.StatusBadRequest && strings.Contains(strings.ToLower(a.description), "multiple user assigned"):
		return volume.ReasonIdentity, "the node has several user-assigned identities and the class names none: set userAssignedIdentityID " +
			"to the client id of one"
	case status == http.StatusBadRequest:
		return volume.ReasonIdentity, "the node has no system-assigned managed identity: switch it on for the VM or scale set, or set " +
			"userAssignedIdentityID"
	}
	return volume.ReasonUnavailable, fmt.Sprintf("the instance metadata service answered %d: it is tried again later", status)
}

// refusedByEntra says what an AADSTS code means for the class, and the fix. The codes are those of
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
func (i *Identity) refusedByEntra(a answer) string {
	code := "AADSTS" + a.code + ": "
	switch a.code {
	case "70021", "700211", "700212", "700213", "700223":
		return code + fmt.Sprintf("no federated credential of %s in tenant %s matches: add one with issuer %s, subject %s and audience %s; "+
			"a new one takes minutes to be known", i.client, i.tenant, i.issuer, i.subject, i.audience)
	case "700016":
		return code + fmt.Sprintf("there is no application or identity with client id %s in tenant %s: correct clientID or tenantID", i.client, i.tenant)
	case "90002", "900021", "900023":
		return code + fmt.Sprintf("there is no tenant %s: correct tenantID", i.tenant)
	case "7000215":
		return code + fmt.Sprintf("the client secret of %s is wrong: put its value, not its id, into clientsecret of nodePublishSecretRef", i.client)
	case "7000222":
		return code + fmt.Sprintf("the client secret of %s is expired: make a new one and put it into nodePublishSecretRef", i.client)
	case "700024":
		return code + "the service account token or assertion is outside its validity: check the node's clock; the next republish brings a fresh one"
	case "700027":
		return code + fmt.Sprintf("the certificate in nodePublishSecretRef is not registered with the application %s: upload it there", i.client)
	case "7000112", "7000113":
		return code + fmt.Sprintf("the application %s is disabled: enable it, or use another identity", i.client)
	case "50034", "500011":
		return code + fmt.Sprintf("the tenant %s does not know Key Vault as a resource: correct tenantID or cloudName", i.tenant)
	case "53003", "530003":
		return code + "conditional access refuses the sign-in: allow the workload identity from this network"
	}
	return code + fmt.Sprintf("Entra ID refused %s: %s", i, a.summary())
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

// traces are the parts of a description that differ each time.
var traces = regexp.MustCompile(`(?s)\s*(Trace ID|Correlation ID|Timestamp):.*$`)

// summary is the description's first sentence.
func (a answer) summary() string {
	text := oneLine(traces.ReplaceAllString(a.description, ""))
	text = strings.TrimPrefix(text, "AADSTS"+a.code+": ")
	if text == "" {
		text = oneLine(a.kind)
	}
	return shorten(text)
}

// oneLine makes a service's text one that is safe to print.
func oneLine(text string) string {
	printable := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, ""))
	return strings.Join(strings.Fields(printable), " ")
}

// service names the service that gives the identity's tokens.
func (i *Identity) service() string {
	switch i.mode {
	case managedIdentity:
		return "the instance metadata service"
	case identityBinding:
		return "the AKS token proxy"
	}
	if u, err := url.Parse(i.authority); err == nil {
		return u.Host
	}
	return "Entra ID"
}
