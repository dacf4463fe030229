package emulator_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

const eventTenant = "11111111-1111-1111-1111-111111111111"

// delivery is what a target got.
type delivery struct {
	method, path, token, kind, body string
	header                          http.Header
}

// target is a server that notes what it gets.
func target(t *testing.T, answer func(http.ResponseWriter, delivery)) (s *httptest.Server, got chan delivery) {
	t.Helper()
	got = make(chan delivery, 100)
	s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		d := delivery{
			r.Method, r.URL.Path, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), r.Header.Get("Content-Type"), string(body), r.Header,
		}
		answer(w, d)
		got <- d
	}))
	t.Cleanup(s.Close)
	return s, got
}

// sending starts an emulator that sends events to a target.
func sending(t *testing.T, to *httptest.Server, options string) *emulator.Server {
	t.Helper()
	parsed, err := emulator.ParseEventTarget(to.URL + options)
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: to.Certificate().Raw})
	return emulatortest.StartWith(t, "tenants: [{id: "+eventTenant+"}]\nvaults: [{name: shop, tenant: "+eventTenant+", secrets: [{name: old, value: x}]}]",
		emulator.Options{Events: []emulator.EventTarget{parsed}, EventsCA: ca})
}

func receive(t *testing.T, from chan delivery) delivery {
	t.Helper()
	select {
	case d := <-from:
		return d
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		return delivery{}
	}
}

func TestEventsToAHook(t *testing.T) {
	for schema, options := range map[string]string{"cloudevents": "", "eventgrid": ",schema=eventgrid"} {
		t.Run(schema, func(t *testing.T) {
			refused := false
			hook, got := target(t, func(w http.ResponseWriter, d delivery) {
				switch {
				case d.method == http.MethodOptions:
					w.Header().Set("WebHook-Allowed-Origin", d.header.Get("WebHook-Request-Origin"))
				case d.header.Get("aeg-event-type") == "SubscriptionValidation":
					var events []struct {
						Data struct{ ValidationCode string }
					}
					if err := json.Unmarshal([]byte(d.body), &events); err != nil || len(events) != 1 {
						t.Errorf("%s: %v", d.body, err)
						return
					}
					_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
				case !refused:
					refused = true
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			})
			s := sending(t, hook, "/deliver#audience=api://events"+options)
			version, err := s.SetSecret("shop", emulator.Secret{Name: "db", Value: "s3cret", Expires: time.Unix(2e9, 0)})
			if err != nil {
				t.Fatal(err)
			}
			receive(t, got) // the handshake
			first, again := receive(t, got), receive(t, got)
			if first.body != again.body || first.path != "/deliver" || strings.Contains(again.body, "s3cret") {
				t.Errorf("%s, %s", first.body, again.body)
			}
			id := `"Id":"https://shop.vault.azure.net/secrets/db/` + version + `"`
			for _, want := range []string{id, `"Microsoft.KeyVault.SecretNewVersionCreated"`, `"EXP":"2000000000"`, `"NBF":null`} {
				if !strings.Contains(again.body, want) {
					t.Errorf("%s is not in %s", want, again.body)
				}
			}
			client := &http.Client{Transport: &http.Transport{
				Proxy: http.ProxyURL(s.ProxyURL()), TLSClientConfig: &tls.Config{RootCAs: s.CAPool(), MinVersion: tls.VersionTLS12},
			}}
			ctx := oidc.ClientContext(t.Context(), client)
			provider, err := oidc.NewProvider(ctx, "https://sts.windows.net/"+eventTenant+"/")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := provider.Verifier(&oidc.Config{ClientID: "api://events"}).Verify(ctx, again.token); err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections()
		})
	}
}

func TestEventsToAQueue(t *testing.T) {
	queue, got := target(t, func(w http.ResponseWriter, _ delivery) { w.WriteHeader(http.StatusCreated) })
	s := sending(t, queue, "/devstoreaccount1/events#queue")
	if err := s.SetCertificate("shop", emulator.Certificate{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	message := regexp.MustCompile(`^<QueueMessage><MessageText>([A-Za-z0-9+/=]+)</MessageText></QueueMessage>$`)
	kinds := map[string]bool{}
	for range 3 {
		d := receive(t, got)
		m := message.FindStringSubmatch(d.body)
		if d.path != "/devstoreaccount1/events/messages" || d.token == "" || m == nil {
			t.Fatalf("%+v", d)
		}
		text, err := base64.StdEncoding.DecodeString(m[1])
		if err != nil {
			t.Fatal(err)
		}
		var event struct{ Type string }
		if err := json.Unmarshal(text, &event); err != nil {
			t.Fatal(err)
		}
		kinds[event.Type] = true
	}
	if len(kinds) != 3 {
		t.Errorf("%v", kinds)
	}
}

func TestParseEventTarget(t *testing.T) {
	for text, want := range map[string]emulator.EventTarget{
		"https://shop.queue.core.windows.net/events?sig=x": {URL: "https://shop.queue.core.windows.net/events?sig=x", Queue: true},
		"https://h/p#schema=eventgrid,audience=api://a":    {URL: "https://h/p", EventGridSchema: true, Audience: "api://a"},
		"http://127.0.0.1:10001/a/q#queue":                 {URL: "http://127.0.0.1:10001/a/q", Queue: true},
	} {
		if got, err := emulator.ParseEventTarget(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "shop", "http://example.com/", "https://h/#other", "https://h/#audience="} {
		if got, err := emulator.ParseEventTarget(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
