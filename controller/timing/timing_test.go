package timing

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// TestTiming follows one thing through edits, failures and an interval.
func TestTiming(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var one Timing
	due := func(asked string, want bool, within time.Duration) {
		t.Helper()
		got, wait := one.Begin(now, asked)
		if got != want || wait < 0 || wait > within {
			t.Fatalf("due %v in %s, want %v within %s", got, wait, want, within)
		}
	}
	due("a", true, 0)
	due("b", false, editPause) // an edit while it is fetched for
	one.Succeeded(now, "a", "key", time.Minute)
	due("a", false, 66*time.Second)
	due("b", false, editPause)
	now = now.Add(editPause)
	due("b", true, 0)
	one.Failed(now, "b", "key", time.Minute, 0)
	if wait := one.Wait(now); wait < 10*time.Second || wait > 12*time.Second {
		t.Errorf("the first retry comes after %s", wait)
	}
	one.Failed(now, "b", "key", 0, time.Hour)
	if wait := one.Wait(now); wait != time.Hour {
		t.Errorf("a retry after %s, although an hour was asked for", wait)
	}
	one.Succeeded(now, "b", "key", 0)
	now = now.Add(time.Hour)
	due("b", false, 0) // no interval: only an edit
	due("c", true, 0)
	one.Succeeded(now, "c", "key", time.Hour)
	if wait := one.Wait(now); wait > Repair*11/10 {
		t.Errorf("a Secret that somebody deletes is looked at after %s", wait)
	}
	now = now.Add(-time.Hour) // the clock is set back: no pause of an hour
	due("d", true, 0)
}

// TestClassAt: a rotate-at annotation asks for a sync when its time has come, and not before.
func TestClassAt(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	class := func(annotation, value string) *v1.SecretProviderClass {
		return &v1.SecretProviderClass{ObjectMeta: metav1.ObjectMeta{UID: "u", Generation: 1, Annotations: map[string]string{annotation: value}}}
	}
	plain := ClassAt(class("a", "b"), now)
	if plain.Wait(0, now) != 0 || plain.Wait(time.Minute, now) != time.Minute {
		t.Error("a class without annotations waits for something")
	}
	later := class(v1.RotateAtAnnotation, now.Add(time.Hour).Format(time.RFC3339))
	before := ClassAt(later, now)
	if before.Asked != plain.Asked || before.Wait(0, now) != time.Hour || before.Wait(time.Minute, now) != time.Minute || before.Wait(2*time.Hour, now) != time.Hour {
		t.Errorf("before its time: %+v", before)
	}
	if wait := before.Wait(0, now.Add(2*time.Hour)); wait != time.Millisecond {
		t.Errorf("its time came during the sync: waits %s", wait)
	}
	if after := ClassAt(later, now.Add(time.Hour)); after.Asked == plain.Asked || after.Wait(0, now.Add(time.Hour)) != 0 {
		t.Errorf("at its time: %+v", after)
	}
	if wrong := ClassAt(class(v1.RotateAtAnnotation, "soon"), now); wrong != plain {
		t.Errorf("no time: %+v", wrong)
	}
	if refresh := ClassAt(class(v1.RefreshAnnotation, "a/0s"), now); refresh.Asked == plain.Asked {
		t.Error("a refresh asks for nothing")
	}
}

// TestResumeSpreads: what an earlier process synced is not looked at all at once.
func TestResumeSpreads(t *testing.T) {
	now, early := time.Now(), 0
	for i := range 1000 {
		var one Timing
		one.Resume(now, "a", string(rune(i)))
		if !one.Started() || one.Wait(now) > resumeSpread {
			t.Fatalf("waits %s", one.Wait(now))
		}
		if one.Wait(now) < resumeSpread/10 {
			early++
		}
	}
	if early > 200 {
		t.Errorf("%d of 1000 in the first tenth", early)
	}
}
