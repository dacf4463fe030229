package objectevents

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
)

// TestEachNoteIsAnEvent: what is said later with the same reason is not lost in the count of what was said before.
func TestEachNoteIsAnEvent(t *testing.T) {
	c := fake.NewClientset()
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: c.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, "test")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", UID: "u"}}
	want := []string{"the vault is away", "the vault refuses"}
	for _, note := range append(want, "", want[0]) {
		Write(recorder, pod, corev1.EventTypeWarning, "SyncFailed", "Sync", note)
	}
	var got []string
	for deadline := time.Now().Add(time.Minute); len(got) < len(want) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		list, err := c.EventsV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		for _, e := range list.Items {
			got = append(got, e.Note)
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestClip(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", ""},
		{" a\n b\t", "a b"},
		{"a\xffb", "a?b"},
		{strings.Repeat("ä", 600), strings.Repeat("ä", 510) + "..."},
	} {
		if got := Clip(tc.text); got != tc.want {
			t.Errorf("%q becomes %q, want %q", tc.text, got, tc.want)
		}
	}
}
