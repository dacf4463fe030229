package provider

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

func TestPickVersions(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC) }
	all := []vault.Attributes{ // in no order, as the vault lists them
		{Version: "b", Enabled: true, Created: at(2)}, {Version: "d", Enabled: true, Created: at(4)},
		{Version: "off", Created: at(5)}, {Version: "a", Enabled: true, Created: at(1)}, {Version: "c", Enabled: true, Created: at(3)},
		{Version: "c2", Enabled: true, Created: at(3)},
	}
	for name, tc := range map[string]struct {
		history int
		version string
		want    []string // none: an error
	}{
		"newest first":        {2, "", []string{"d", "c"}},
		"all there are":       {99, "", []string{"d", "c", "c2", "b", "a"}},
		"from a version on":   {2, "b", []string{"b", "a"}},
		"from the last":       {5, "a", []string{"a"}},
		"from a disabled one": {2, "off", nil},
		"from none":           {2, "x", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pick(all, &class.Object{Kind: class.Secret, Name: "s", VaultURL: "https://kv.vault.azure.net/", History: tc.history, Version: tc.version})
			if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) {
				t.Errorf("got %v, %v", got, err)
			}
			if err != nil && (volume.ReasonOf(err) != volume.ReasonNotFound || !strings.Contains(err.Error(), `kv.vault.azure.net: secret "s"`)) {
				t.Errorf("error: %v", err)
			}
		})
	}
	if _, err := pick(nil, &class.Object{History: 2}); volume.ReasonOf(err) != volume.ReasonNotFound {
		t.Errorf("no version: %v", err)
	}
}

func TestJoinedErrorsNameTheWorstFirst(t *testing.T) {
	err := join([]*volume.Error{
		{Reason: volume.ReasonUnavailable, Message: "a passes", RetryAfter: time.Minute, RequestID: "1"},
		{Reason: volume.ReasonUnavailable, Message: "b passes"}, {Reason: volume.ReasonUnavailable, Message: "b passes"},
		{Reason: volume.ReasonThrottled, Message: "c passes"},
		{Reason: volume.ReasonPermission, Message: "d must be fixed", RequestID: "4", RetryAfter: time.Second},
		{Reason: volume.ReasonNotFound, Message: "e must be fixed"},
	})
	e, ok := err.(*volume.Error) //nolint:errorlint // made by join
	if !ok || e.Reason != volume.ReasonPermission || e.RequestID != "4" || e.RetryAfter != time.Minute ||
		e.Message != "d must be fixed; e must be fixed; a passes; and 2 more objects failed" {
		t.Errorf("got %#v", err)
	}
}

func TestEarlier(t *testing.T) {
	one, two := time.Unix(1, 0), time.Unix(2, 0)
	for _, tc := range []struct{ a, b, want time.Time }{
		{one, two, one}, {two, one, one}, {time.Time{}, two, two}, {one, time.Time{}, one}, {},
	} {
		if got := earlier(tc.a, tc.b); !got.Equal(tc.want) {
			t.Errorf("earlier of %s and %s: %s", tc.a, tc.b, got)
		}
	}
}
