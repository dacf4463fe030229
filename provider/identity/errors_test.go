package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	testingclock "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// entraError is an error body as Entra ID writes them.
func entraError(code int, kind, text string) string {
	return fmt.Sprintf(`{"error":%q,"error_description":"AADSTS%d: %s Trace ID: canary-trace Correlation ID: canary-correlation `+
		`Timestamp: 2026-03-01 12:00:00Z","error_codes":[%d],"timestamp":"2026-03-01 12:00:00Z","trace_id":"canary-trace",`+
		`"correlation_id":"canary-correlation","error_uri":"https://login.microsoftonline.com/error?code=%d"}`, kind, code, text, code, code)
}

func TestEntraErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		reason volume.Reason
		want   []string
	}{
		"700211, issuer":   {400, entraError(700211, "invalid_client", "No matching federated identity record found for presented assertion issuer."), volume.ReasonIdentity, []string{"AADSTS700211", "issuer https://oidc.example.com/", "subject " + appSubject, "audience api://AzureADTokenExchange"}},
		"700212, audience": {400, entraError(700212, "invalid_client", "No matching record found for presented assertion audience."), volume.ReasonIdentity, []string{"AADSTS700212", "no federated credential of client in tenant tenant"}},
		"700213, subject":  {400, entraError(700213, "invalid_client", "No matching record found for presented assertion subject."), volume.ReasonIdentity, []string{"AADSTS700213", "minutes to be known"}},
		"70021":            {401, entraError(70021, "invalid_request", "No matching federated identity record found."), volume.ReasonIdentity, []string{"AADSTS70021:", "add one with issuer"}},
		"700016":           {400, entraError(700016, "unauthorized_client", "Application was not found in the directory."), volume.ReasonIdentity, []string{"AADSTS700016", "client id client in tenant tenant", "correct clientID or tenantID"}},
		"90002":            {400, entraError(90002, "invalid_request", "Tenant not found."), volume.ReasonIdentity, []string{"AADSTS90002", "no tenant tenant"}},
		"7000215":          {401, entraError(7000215, "invalid_client", "Invalid client secret provided."), volume.ReasonIdentity, []string{"AADSTS7000215", "not its id"}},
		"7000222":          {401, entraError(7000222, "invalid_client", "The provided client secret keys are expired."), volume.ReasonIdentity, []string{"AADSTS7000222", "expired"}},
		"700024":           {401, entraError(700024, "invalid_client", "Client assertion is not within its valid time range."), volume.ReasonIdentity, []string{"AADSTS700024", "clock"}},
		"700027":           {401, entraError(700027, "invalid_client", "The certificate is not registered."), volume.ReasonIdentity, []string{"AADSTS700027", "upload it"}},
		"7000112":          {401, entraError(7000112, "unauthorized_client", "Application is disabled."), volume.ReasonIdentity, []string{"AADSTS7000112", "disabled"}},
		"53003":            {400, entraError(53003, "access_denied", "Access has been blocked."), volume.ReasonIdentity, []string{"conditional access"}},
		"500011":           {400, entraError(500011, "invalid_resource", "The resource principal was not found."), volume.ReasonIdentity, []string{"does not know Key Vault"}},
		"50196, a loop":    {400, entraError(50196, "invalid_grant", "The server terminated an operation."), volume.ReasonThrottled, []string{"fewer token requests"}},
		"one not known":    {400, entraError(99999, "invalid_request", "Something\u2028 new\\r\\nhappened."), volume.ReasonIdentity, []string{"AADSTS99999: Entra ID refused", "Something new happened."}},
		"without AADSTS":   {400, `{"error":"invalid_client","error_description":"MSIS9607: The client is not known."}`, volume.ReasonIdentity, []string{"refused", "MSIS9607: The client is not known."}},
		"code in the list": {400, `{"error":"invalid_client","error_codes":[700016]}`, volume.ReasonIdentity, []string{"AADSTS700016"}},
		"429":              {429, `{"error":"temporarily_unavailable"}`, volume.ReasonThrottled, []string{"login.microsoftonline.com asked for fewer"}},
		"503":              {503, `<html>canary</html>`, volume.ReasonUnavailable, []string{"answered 503"}},
		"500 with a code":  {500, entraError(700211, "invalid_client", "No matching record."), volume.ReasonIdentity, []string{"AADSTS700211"}},
		"HTML 403":         {403, `<html>canary</html>`, volume.ReasonUnavailable, []string{"answered 403", "check proxies"}},
		"HTML 200":         {200, `<html>canary</html>`, volume.ReasonUnavailable, []string{"not understood", "check proxies"}},
		"JSON without use": {400, `{"message":"canary"}`, volume.ReasonUnavailable, []string{"not as Entra ID does"}},
		"empty 200":        {200, ``, volume.ReasonUnavailable, []string{"not understood"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wire{answer: refusing{tc.status, tc.body}}
			r, clk := registry(t, w)
			_, err := get(t, resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour))))
			check(t, err, tc.reason, tc.want)
			if n := len(w.asked()); n != 1 {
				t.Errorf("%d requests: retries are not the SDK's", n)
			}
		})
	}
}

func TestIMDSErrors(t *testing.T) {
	const notFound = `{"error":"invalid_request","error_description":"Identity not found"}`
	for name, tc := range map[string]struct {
		id     string
		answer answerer
		reason volume.Reason
		want   []string
	}{
		"not assigned":       {"some-id", refusing{400, notFound}, volume.ReasonIdentity, []string{"client id some-id is not assigned to this node"}},
		"no system-assigned": {"", refusing{400, notFound}, volume.ReasonIdentity, []string{"no system-assigned managed identity"}},
		"several": {"", refusing{400, `{"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId / ` +
			`resourceId of the identity in the token request"}`}, volume.ReasonIdentity, []string{"several user-assigned identities"}},
		"429": {"", refusing{429, `{}`}, volume.ReasonThrottled, []string{"169.254.169.254 asked for fewer"}},
		"410": {"", refusing{410, `{}`}, volume.ReasonUnavailable, []string{"answered 410"}},
		"404": {"", refusing{404, `{}`}, volume.ReasonUnavailable, []string{"answered 404"}},
		"500": {"", refusing{500, `<html>canary`}, volume.ReasonUnavailable, []string{"answered 500"}},
		"away": {"", answerFunc(func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: errors.New("timeout")}
		}), volume.ReasonNetwork, []string{"must be an Azure VM"}},
		"HTML":   {"", refusing{200, `<html>canary`}, volume.ReasonUnavailable, []string{"not understood"}},
		"null":   {"", refusing{200, `null`}, volume.ReasonUnavailable, []string{"not understood"}},
		"a list": {"", refusing{200, `[]`}, volume.ReasonUnavailable, []string{"not understood"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := registry(t, &wire{answer: tc.answer})
			_, err := get(t, resolve(t, r, public(class.Class{Mode: class.ManagedIdentity, ManagedClientID: tc.id}), volume.Request{}))
			check(t, err, tc.reason, tc.want)
		})
	}
}

func TestNetworkErrorsOfEntra(t *testing.T) {
	for name, tc := range map[string]struct {
		err    error
		reason volume.Reason
	}{
		"DNS":   {&net.DNSError{Err: "no such host", Name: "login.microsoftonline.com", IsNotFound: true}, volume.ReasonDNS},
		"reset": {errors.New("connection error: broken"), volume.ReasonNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			r, clk := registry(t, &wire{answer: answerFunc(func(*http.Request) (*http.Response, error) { return nil, tc.err })})
			_, err := get(t, resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour))))
			check(t, err, tc.reason, []string{"login.microsoftonline.com"})
		})
	}
}

func check(t *testing.T, err error, reason volume.Reason, want []string) {
	t.Helper()
	e, ok := errors.AsType[*volume.Error](err)
	if !ok || e.Reason != reason {
		t.Fatalf("got %v (%s)", err, volume.ReasonOf(err))
	}
	for _, text := range want {
		if !strings.Contains(e.Message, text) {
			t.Errorf("%q lacks %q", e.Message, text)
		}
	}
	if strings.Contains(e.Message, "canary") || strings.ContainsFunc(e.Message, unicode.IsControl) {
		t.Errorf("message %q", e.Message)
	}
}

func TestUnreadableCertificate(t *testing.T) {
	w := &wire{}
	r, _ := registry(t, w)
	id := resolve(t, r, public(class.Class{TenantID: "tenant"}), volume.Request{Secrets: volume.Secrets{"clientid": "c", "clientcertificate": "canary"}})
	_, err := get(t, id)
	check(t, err, volume.ReasonIdentity, []string{"clientcertificate", "PEM file with certificate and private key"})
	if len(w.asked()) != 0 {
		t.Error("a request was sent")
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(entraError(700211, "invalid_client", "No matching record.")))
	f.Add([]byte(`{"error":"x","error_codes":[1]}`))
	f.Add([]byte("{\"error\":\"x\",\"error_description\":\"\x1b[31m\\u0000é\"}"))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		text := parseAnswer(body).summary()
		if strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) || len(text) > 130 {
			t.Errorf("%q gives %q", body, text)
		}
	})
}

// Whoever answers for Entra ID may quote what it was sent.
func TestCredentialsThatAreQuotedAreRedacted(t *testing.T) {
	req := fromPod(time.Now().Add(time.Hour))
	for name, tc := range map[string]struct {
		class  *class.Class
		req    volume.Request
		secret string
	}{
		"service account token": {workload(), req, req.Tokens[ExchangeAudience].Value},
		"client secret": {public(class.Class{TenantID: "tenant"}), volume.Request{Secrets: volume.Secrets{
			"clientid": "client", "clientsecret": "the-secret"}}, "the-secret"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := registry(t, &wire{answer: refusing{400, entraError(99999, "invalid_request", "You sent "+tc.secret+".")}})
			_, err := get(t, resolve(t, r, tc.class, tc.req))
			check(t, err, volume.ReasonIdentity, []string{"AADSTS99999", "details redacted"})
			if strings.Contains(err.Error(), tc.secret[:8]) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAPanicIsAnErrorOfItsTokenRequest(t *testing.T) {
	w := &wire{answer: answerFunc(func(*http.Request) (*http.Response, error) { panic("canary-value") })}
	clk := testingclock.NewFakePassiveClock(time.Now())
	var tasks []string
	r := New(Options{Transport: w, Clock: clk, OnPanic: func(_ context.Context, task string, _ any) error {
		tasks = append(tasks, task)
		return &volume.Error{Reason: volume.ReasonInternal, Message: task + ": defect in the driver"}
	}})
	t.Cleanup(r.Close)
	id := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour)))
	_, err := get(t, id)
	check(t, err, volume.ReasonInternal, []string{"token request"})
	if len(tasks) != 1 {
		t.Errorf("panics: %q", tasks)
	}
	w.answer = &granting{life: "3599"}
	mustGet(t, id)
}
