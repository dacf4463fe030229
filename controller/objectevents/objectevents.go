// Package objectevents writes events on Kubernetes objects.
package objectevents

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
)

// mostNote is what the API server takes as an event's note, in bytes.
const mostNote = 1024

// Write writes an event on an object; none where the note is empty.
//
// The recorder counts an event up where everything but its note is that of an earlier one, and keeps the earlier note: who reads it would see
// what was said minutes ago. So a hash of the note is part of the action, and only events with equal notes are counted together.
func Write(recorder events.EventRecorder, regarding runtime.Object, kind, reason, action, note string) {
	if note = Clip(note); note == "" {
		return
	}
	sum := sha256.Sum256([]byte(note))
	recorder.Eventf(regarding, nil, kind, reason, action+"-"+hex.EncodeToString(sum[:4]), "%s", note)
}

// Clip makes the text one line that the API server takes as a note.
func Clip(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > mostNote {
		return strings.ToValidUTF8(text[:mostNote-3], "") + "..."
	}
	return text
}
