package timing

import (
	"fmt"
	"strings"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// Class is what a class asks for at a moment.
type Class struct {
	// Asked is equal where the same is asked for.
	Asked string
	// until is when it asks for more, because the time of its rotate-at annotation has come; zero where nothing is to come.
	until time.Time
}

// ClassAt returns what the class asks for now. A rotate-at annotation counts from its time on; one that is no time is ignored, which the nodes
// that mount the class report.
func ClassAt(c *v1.SecretProviderClass, now time.Time) Class {
	rotated := c.Annotations[v1.RotateAtAnnotation]
	var until time.Time
	if at, err := time.Parse(time.RFC3339, strings.TrimSpace(rotated)); err != nil {
		rotated = ""
	} else if at.After(now) {
		rotated, until = "", at
	}
	return Class{Asked: fmt.Sprintf("%s %d %q %q", c.UID, c.Generation, rotated, c.Annotations[v1.RefreshAnnotation]), until: until}
}

// Wait returns when to look again, given when it would be otherwise; zero means at the next edit.
func (c Class) Wait(otherwise time.Duration, now time.Time) time.Duration {
	if c.until.IsZero() {
		return otherwise
	}
	wait := max(time.Millisecond, c.until.Sub(now))
	if otherwise > 0 {
		wait = min(wait, otherwise)
	}
	return wait
}
