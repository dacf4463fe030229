package secretsync

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A Secret's record says since when the Secret holds a version: since ever for what was there first.
func TestRecordSaysWhenVersionsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPIServer()
		a.classes["web"] = &classObject{uid: "class-1", secrets: []string{"db"}}
		r := newReconciler(a)
		write := func(d *Desired) map[string]string {
			t.Helper()
			time.Sleep(time.Minute)
			r.Reconcile(t.Context(), d, &Known{})
			changed := map[string]string{}
			for _, s := range Recorded(a.secrets["db"].annotations, "keyvault-csi/written-", "web") {
				changed[s.ID] = s.Version + " " + s.Changed.Format(time.TimeOnly)
			}
			return changed
		}
		start := time.Now().UTC()
		minute := func(n int) string { return start.Add(time.Duration(n) * time.Minute).Format(time.TimeOnly) }
		never := time.Time{}.Format(time.TimeOnly)
		id := want("1", 0).Sources[0].ID
		for i, step := range []struct {
			write *Desired
			want  map[string]string
		}{
			{want("1", 0), map[string]string{id: "1 " + never}},
			{want("2", 1), map[string]string{id: "2 " + minute(2)}},
			{want("2", 2, generation(2)), map[string]string{id: "2 " + minute(2)}},
			{want("2", 3, generation(2), alsoFrom("b", "7", 3)), map[string]string{id: "2 " + minute(2), "b": "7 " + never}},
			{want("2", 4, generation(2), alsoFrom("b", "", 4)), map[string]string{id: "2 " + minute(2), "b": " " + minute(5)}},
		} {
			got := write(step.write)
			if len(got) != len(step.want) {
				t.Errorf("write %d: %v, want %v", i, got, step.want)
			}
			for id, changed := range step.want {
				if got[id] != changed {
					t.Errorf("write %d: %s %q, want %q", i, id, got[id], changed)
				}
			}
		}
	})
}

func TestRecordedSourceNamesAnObject(t *testing.T) {
	long := "contoso.vault.azure.net/secret/" + strings.Repeat("a", 100)
	for _, tt := range []struct {
		source, object string
		want           bool
	}{
		{"contoso.vault.azure.net/secret/db", "secret/db", true},
		{"contoso.vault.azure.net/secret/db", "secret/DB", true},
		{"contoso.vault.azure.net/secret/db/0123", "secret/db", true},
		{"contoso.vault.azure.net/secret/db/0123", "secret/db/0", true},
		{"contoso.vault.azure.net/secret/db (versions)", "secret/db/1", true},
		{"contoso.vault.azure.net/secret/db2", "secret/db", false},
		{"contoso.vault.azure.net/cert/db", "secret/db", false},
		{"contoso.vault.azure.net/secret/d", "secret/db", false},
		{"no vault", "secret/db", false},
		{Shorten(long, maxSourceID), "secret/" + strings.Repeat("a", 100), true},
		{Shorten(long, maxSourceID), "secret/" + strings.Repeat("b", 100), false},
	} {
		if got := (RecordedSource{ID: tt.source}).Names(tt.object); got != tt.want {
			t.Errorf("%s names %s: %t", tt.source, tt.object, got)
		}
	}
}
