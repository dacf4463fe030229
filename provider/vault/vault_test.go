package vault_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

func TestGetAndVersions(t *testing.T) {
	w := newWorld(t)
	if err := w.SetKey("contoso", emulator.Key{Name: "k", Type: "EC", Curve: "P-256"}); err != nil {
		t.Fatal(err)
	}
	if err := w.SetCertificate("contoso", emulator.Certificate{Name: "c", KeyType: "EC"}); err != nil {
		t.Fatal(err)
	}
	var versions []string
	for range 5 { // three pages
		versions = append(versions, w.secret(t, "s", "value of "+"abcde"[len(versions):len(versions)+1]))
	}
	if err := w.Disable("contoso", "secrets", "s", versions[2], true); err != nil {
		t.Fatal(err)
	}
	s, err := w.client.Get(t.Context(), class.Secret, "s", "")
	if err != nil || s.Value != "value of e" || s.Version != versions[4] || s.Certified || !s.Enabled || s.RequestID == "" || s.Created.IsZero() {
		t.Errorf("secret: %+v, %v", s, err)
	}
	if s, err = w.client.Get(t.Context(), class.Secret, "S", versions[0]); err != nil || s.Value != "value of a" || s.Version != versions[0] {
		t.Errorf("its first version: %+v, %v", s, err)
	}
	all, err := w.client.Versions(t.Context(), class.Secret, "s")
	if err != nil || len(all) != 5 {
		t.Fatalf("versions: %+v, %v", all, err)
	}
	for _, v := range all {
		if v.Enabled != (v.Version != versions[2]) || !slices.Contains(versions, v.Version) {
			t.Errorf("version: %+v", v)
		}
	}
	k, err := w.client.Get(t.Context(), class.Key, "k", "")
	if err != nil || k.Key == nil || k.Key.Type != "EC" || k.Key.Curve != "P-256" || len(k.Key.X) != 32 || len(k.Key.Y) != 32 {
		t.Errorf("key: %+v, %v", k, err)
	}
	c, err := w.client.Get(t.Context(), class.Certificate, "c", "")
	if err != nil || len(c.DER) == 0 || c.Version == "" {
		t.Errorf("certificate: %+v, %v", c, err)
	}
	backing, err := w.client.Get(t.Context(), class.Secret, "c", "")
	if err != nil || !backing.Certified || backing.ContentType != "application/x-pkcs12" || backing.Version != c.Version {
		t.Errorf("its secret: %+v, %v", backing, err)
	}
	for _, kind := range []class.Kind{class.Key, class.Certificate} {
		name := map[class.Kind]string{class.Key: "k", class.Certificate: "c"}[kind]
		if list, err := w.client.Versions(t.Context(), kind, name); err != nil || len(list) != 1 || !list[0].Enabled {
			t.Errorf("versions of the %s: %+v, %v", kind, list, err)
		}
	}
	for _, r := range w.Requests() {
		if r.Status == http.StatusUnauthorized {
			t.Errorf("a request was sent that the vault must refuse: %+v", r)
		}
	}
}

func TestFirstRequestsOfManyCarryOneToken(t *testing.T) {
	w := newWorld(t)
	w.secret(t, "s", "v")
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			if _, err := w.client.Get(t.Context(), class.Secret, "s", ""); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	tokens := 0
	for _, r := range w.Requests() {
		if r.Operation == "token" {
			tokens++
		}
	}
	if tokens != 1 || w.counted() != 20 {
		t.Errorf("%d token requests, %d to the vault", tokens, w.counted())
	}
}

func TestRealChallengeHeals(t *testing.T) {
	w := newWorld(t)
	w.secret(t, "s", "v")
	if _, err := w.client.Get(t.Context(), class.Secret, "s", ""); err != nil {
		t.Fatal(err)
	}
	w.RevokeTokens()
	w.ResetRequests()
	if _, err := w.client.Get(t.Context(), class.Secret, "s", ""); err != nil {
		t.Fatal(err)
	}
	if n := w.counted(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestWhatMayPassIsTriedAgainWhereAPodWaits(t *testing.T) {
	for name, fault := range map[string]emulator.Fault{
		"503":       {Kind: emulator.FaultStatus, Status: 503, Code: "ServiceUnavailable", Count: 2},
		"429":       {Kind: emulator.FaultThrottle, Count: 2},
		"HTML 502":  {Kind: emulator.FaultHTML, Count: 2},
		"reset":     {Kind: emulator.FaultReset, Count: 2},
		"truncated": {Kind: emulator.FaultTruncated, Count: 2},
		"empty":     {Kind: emulator.FaultEmpty, Count: 2},
		"hang":      {Kind: emulator.FaultHang, Count: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, vault.TryTimeout(200*time.Millisecond))
			w.secret(t, "s", "v")
			if _, err := w.client.Get(t.Context(), class.Secret, "s", ""); err != nil {
				t.Fatal(err) // the token is there now
			}
			w.ResetRequests()
			fault.Operation = "get secret"
			w.AddFault(fault)
			if s, err := w.client.Get(starting(t), class.Secret, "s", ""); err != nil || s.Value != "v" {
				t.Fatalf("got %+v, %v", s, err)
			}
			if n := w.counted(); n < 3 {
				t.Errorf("%d requests", n)
			}
			if got := w.observed; got[len(got)-1] != "get secret " || got[len(got)-2] == "get secret " {
				t.Errorf("observed %q", got)
			}
		})
	}
}

func TestWhatDoesNotPassIsAskedOnce(t *testing.T) {
	w := newWorld(t)
	if _, err := w.client.Get(starting(t), class.Secret, "missing", ""); volume.ReasonOf(err) != volume.ReasonNotFound {
		t.Errorf("got %v", err)
	}
	if n := w.counted(); n != 1 {
		t.Errorf("%d requests", n)
	}
	w.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503})
	w.ResetRequests()
	if _, err := w.client.Get(t.Context(), class.Secret, "missing", ""); volume.ReasonOf(err) != volume.ReasonUnavailable {
		t.Errorf("got %v", err)
	}
	if n := w.counted(); n != 1 {
		t.Errorf("the rotation's request was sent %d times", n)
	}
}

func TestHangEndsWithTheTry(t *testing.T) {
	w := newWorld(t, vault.TryTimeout(100*time.Millisecond))
	w.secret(t, "s", "v")
	w.AddFault(emulator.Fault{Kind: emulator.FaultHang, Operation: "get secret"})
	_, err := w.client.Get(t.Context(), class.Secret, "s", "")
	if volume.ReasonOf(err) != volume.ReasonNetwork || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("got %v", err)
	}
}

func TestDeadlineTellsTheRealCause(t *testing.T) {
	w := newWorld(t)
	w.secret(t, "s", "v")
	w.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Operation: "get secret", Count: 1})
	w.AddFault(emulator.Fault{Kind: emulator.FaultHang, Operation: "get secret"})
	ctx, cancel := context.WithTimeout(starting(t), 3*time.Second)
	defer cancel()
	_, err := w.client.Get(ctx, class.Secret, "s", "")
	if volume.ReasonOf(err) != volume.ReasonUnavailable || !strings.Contains(err.Error(), "answered 503") {
		t.Errorf("got %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	go stop()
	if _, err := w.client.Get(ctx, class.Secret, "s", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
}

func TestRetryAfterBeyondTheDeadlineIsNotWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.secret(t, "s", "v")
	w.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 600})
	ctx, cancel := context.WithTimeout(starting(t), time.Minute)
	defer cancel()
	_, err := w.client.Get(ctx, class.Secret, "s", "")
	e, ok := errors.AsType[*volume.Error](err)
	if !ok || e.Reason != volume.ReasonThrottled || e.RetryAfter != 10*time.Minute || ctx.Err() != nil {
		t.Errorf("got %#v", err)
	}
}

func TestClientsAreKept(t *testing.T) {
	w := newWorld(t)
	if w.of(t, host, "client") != w.client {
		t.Error("a second client for the same identity and vault")
	}
	if w.of(t, host, "nobody") == w.client || w.of(t, "foreign.vault.azure.net", "client") == w.client {
		t.Error("one client for two identities or vaults")
	}
}

// The first request asks for a token on the same context: Entra ID's answer must not be taken for the vault's.
func TestFailureBehindTheTokenRequest(t *testing.T) {
	w := newWorld(t)
	w.AddFault(emulator.Fault{Kind: emulator.FaultConnect, Host: host, Status: 403})
	_, err := w.client.Get(t.Context(), class.Secret, "s", "")
	if volume.ReasonOf(err) != volume.ReasonProxy || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("got %v", err)
	}
}
