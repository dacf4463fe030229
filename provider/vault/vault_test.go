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
	var ids []string
	for range 5 { // three pages
		ids = append(ids, w.secret(t, "s", "value of "+"abcde"[len(ids):len(ids)+1]))
	}
	if err := w.Disable("contoso", "secrets", "s", ids[2], true); err != nil {
		t.Fatal(err)
	}
	s, err := get(t.Context(), w.client, class.Secret, "s", "")
	if err != nil || s.Value != "value of e" || s.Version != ids[4] || s.Certified || !s.Enabled || s.RequestID == "" || s.Created.IsZero() {
		t.Errorf("secret: %+v, %v", s, err)
	}
	if s, err = get(t.Context(), w.client, class.Secret, "S", ids[0]); err != nil || s.Value != "value of a" || s.Version != ids[0] {
		t.Errorf("its first version: %+v, %v", s, err)
	}
	all, err := versions(t.Context(), w.client, class.Secret, "s")
	if err != nil || len(all) != 5 {
		t.Fatalf("versions: %+v, %v", all, err)
	}
	for _, v := range all {
		if v.Enabled != (v.Version != ids[2]) || !slices.Contains(ids, v.Version) {
			t.Errorf("version: %+v", v)
		}
	}
	k, err := get(t.Context(), w.client, class.Key, "k", "")
	if err != nil || k.Key == nil || k.Key.Kty != "EC" || k.Key.Crv != "P-256" || len(k.Key.X) != 32 || len(k.Key.Y) != 32 {
		t.Errorf("key: %+v, %v", k, err)
	}
	c, err := get(t.Context(), w.client, class.Certificate, "c", "")
	if err != nil || len(c.DER) == 0 || c.Version == "" {
		t.Errorf("certificate: %+v, %v", c, err)
	}
	backing, err := get(t.Context(), w.client, class.Secret, "c", "")
	if err != nil || !backing.Certified || backing.ContentType != "application/x-pkcs12" || backing.Version != c.Version {
		t.Errorf("its secret: %+v, %v", backing, err)
	}
	for _, kind := range []class.Kind{class.Key, class.Certificate} {
		name := map[class.Kind]string{class.Key: "k", class.Certificate: "c"}[kind]
		if list, err := versions(t.Context(), w.client, kind, name); err != nil || len(list) != 1 || !list[0].Enabled {
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
			if _, err := get(t.Context(), w.client, class.Secret, "s", ""); err != nil {
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
	if _, err := get(t.Context(), w.client, class.Secret, "s", ""); err != nil {
		t.Fatal(err)
	}
	w.RevokeTokens()
	w.ResetRequests()
	if _, err := get(t.Context(), w.client, class.Secret, "s", ""); err != nil {
		t.Fatal(err)
	}
	if n := w.counted(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestWhatDoesNotPassIsAskedOnce(t *testing.T) {
	w := newWorld(t)
	if _, err := get(starting(t), w.client, class.Secret, "missing", ""); volume.ReasonOf(err) != volume.ReasonNotFound {
		t.Errorf("got %v", err)
	}
	if n := w.counted(); n != 1 {
		t.Errorf("%d requests", n)
	}
	w.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503})
	w.ResetRequests()
	if _, err := get(t.Context(), w.client, class.Secret, "missing", ""); volume.ReasonOf(err) != volume.ReasonUnavailable {
		t.Errorf("got %v", err)
	}
	if n := w.counted(); n != 1 {
		t.Errorf("the rotation's request was sent %d times", n)
	}
}

func TestRetryAfterBeyondTheDeadlineIsNotWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.secret(t, "s", "v")
	w.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 600})
	ctx, cancel := context.WithTimeout(starting(t), time.Minute)
	defer cancel()
	_, err := get(ctx, w.client, class.Secret, "s", "")
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
	_, err := get(t.Context(), w.client, class.Secret, "s", "")
	if volume.ReasonOf(err) != volume.ReasonProxy || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("got %v", err)
	}
}
