package volume

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParseTokens(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		text string
		want map[string]Token
		err  string
	}{
		"as kubelet writes them": {`{"api://AzureADTokenExchange":{"token":"a.b.c","expirationTimestamp":"2026-03-01T12:00:00Z"},` +
			`"":{"token":"d.e.f","expirationTimestamp":"2026-03-01T12:00:00Z"}}`,
			map[string]Token{"api://AzureADTokenExchange": {Value: "a.b.c", Expires: at}, "": {Value: "d.e.f", Expires: at}}, ""},
		"without end":    {`{"aud":{"token":"a.b.c"}}`, map[string]Token{"aud": {Value: "a.b.c"}}, ""},
		"more fields":    {`{"aud":{"token":"a.b.c","more":1}}`, map[string]Token{"aud": {Value: "a.b.c"}}, ""},
		"none":           {`{}`, map[string]Token{}, ""},
		"empty text":     {``, nil, "not a JSON object"},
		"not JSON":       {`canary`, nil, "not a JSON object"},
		"a list":         {`["canary"]`, nil, "not a JSON object"},
		"a bad time":     {`{"aud":{"token":"canary","expirationTimestamp":"canary"}}`, nil, "not a JSON object"},
		"an empty token": {`{"aud":{"token":""}}`, nil, `audience "aud" is empty`},
		"null":           {`{"aud":null}`, nil, `audience "aud" is empty`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseTokens(tc.text)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "canary") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(got) != len(tc.want) {
				t.Fatalf("got %d tokens, %v", len(got), err)
			}
			for audience, want := range tc.want {
				if have := got[audience]; have.Value != want.Value || !have.Expires.Equal(want.Expires) {
					t.Errorf("%q: ends %s", audience, have.Expires)
				}
			}
		})
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add(`{"api://AzureADTokenExchange":{"token":"a.b.c","expirationTimestamp":"2026-03-01T12:00:00Z"}}`)
	f.Add(`{"":{"token":""}}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := ParseTokens(text)
		for audience, token := range tokens {
			if token.Value == "" || err != nil {
				t.Errorf("%q: %v", audience, err)
			}
		}
	})
}

func TestCredentialsNeverPrint(t *testing.T) {
	request := Request{
		Tokens:  map[string]Token{"aud": {Value: "canary-token"}},
		Secrets: Secrets{"clientsecret": "canary-secret"},
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("request", "request", request, "token", request.Tokens["aud"], "secrets", request.Secrets)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("request", "token", request.Tokens["aud"], "secrets", request.Secrets)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		_, _ = fmt.Fprintf(&log, verb+verb+verb+"\n", request, request.Tokens["aud"], request.Secrets)
	}
	if text := log.String(); strings.Contains(text, "canary") || !strings.Contains(text, "[redacted]") {
		t.Errorf("printed:\n%s", text)
	}
}

func TestReasonOf(t *testing.T) {
	e := &Error{Reason: ReasonPermission, Message: "no"}
	if got := ReasonOf(fmt.Errorf("around: %w", e)); got != ReasonPermission {
		t.Errorf("got %s", got)
	}
	if got := ReasonOf(errors.New("plain")); got != ReasonInternal {
		t.Errorf("got %s", got)
	}
}
