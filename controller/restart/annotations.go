package restart

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
)

const (
	// Annotation on a workload asks for restarts.
	Annotation = "keyvault-csi/restart"
	// OnChange is its only value.
	OnChange = "on-change"
	// IntervalAnnotation is the least time between two restarts of the workload.
	IntervalAnnotation = "keyvault-csi/restart-interval"
	// TemplateAnnotation on the Pod template says when and for what the workload was restarted last.
	TemplateAnnotation = "keyvault-csi/restarted-for"

	defaultInterval = 5 * time.Minute
	leastInterval   = 10 * time.Second
	mostInterval    = 30 * 24 * time.Hour

	// mostReasons is how many changes the template's annotation names; mostName bounds the name of each, in bytes.
	mostReasons = 12
	mostName    = 120
	// shortVersion is how much of a version is named.
	shortVersion = 12
	// mostEvent is what the API server takes as an event's note, in bytes.
	mostEvent = 1024
	// mostQuoted bounds what is quoted of a wrong value, in bytes.
	mostQuoted = 60
)

// settings are what a workload's annotations ask for.
type settings struct{ interval time.Duration }

// parseSettings returns what the annotations of a workload ask for; on is false where they ask for nothing. The error is for the workload's
// owner.
func parseSettings(annotations map[string]string) (s settings, on bool, err error) {
	value, on := annotations[Annotation]
	if !on {
		return settings{}, false, nil
	}
	if value != OnChange {
		return settings{}, true, fmt.Errorf("annotation %s: %s is no value of it: write %s, or remove the annotation",
			Annotation, quoted(value), OnChange)
	}
	s.interval = defaultInterval
	if text, ok := annotations[IntervalAnnotation]; ok {
		s.interval, err = time.ParseDuration(text)
		if err != nil || s.interval < leastInterval || s.interval > mostInterval {
			return settings{}, true, fmt.Errorf("annotation %s: %s is no duration from %s to %s: write one like 5m, or remove the annotation",
				IntervalAnnotation, quoted(text), leastInterval, "720h")
		}
	}
	return s, true, nil
}

func quoted(text string) string {
	return fmt.Sprintf("%q", printable.Cut(text, mostQuoted))
}

// change is one thing that running Pods are behind with.
type change struct {
	// class is that of a mounted object, and object its id; for a Secret that is read, class is empty and object its name.
	class, object string
	// from and to are versions. From may be empty.
	from, to string
}

// token names the change in the template's annotation.
func (c change) token() string {
	name := "Secret/" + c.object
	if c.class != "" {
		name = c.class + "/" + c.object
	}
	return clean(name) + "@" + short(c.to)
}

// String names the change for people.
func (c change) String() string {
	if c.class == "" {
		return "Secret " + clean(c.object)
	}
	return fmt.Sprintf("%s of class %s (%s -> %s)", clean(c.object), clean(c.class), short(c.from), short(c.to))
}

// clean makes a text that others wrote fit to be part of the annotation: one word of at most mostName bytes, whose end is a hash where it was
// longer.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == ',' {
			return '_'
		}
		return r
	}, text)
	return secretsync.Shorten(text, mostName)
}

// short is the beginning of a version.
func short(version string) string {
	if version == "" {
		return "none"
	}
	version = clean(version)
	return version[:min(shortVersion, len(version))]
}

// reason is what a template's annotation says.
type reason struct {
	at time.Time
	// tokens are sorted. Where there were more than mostReasons the last one is a hash of all.
	tokens []string
}

func reasonOf(at time.Time, changes []change) reason {
	return reason{at: at, tokens: tokensOf(changes)}
}

func tokensOf(changes []change) (tokens []string) {
	for _, c := range changes {
		tokens = append(tokens, c.token())
	}
	slices.Sort(tokens)
	tokens = slices.Compact(tokens)
	if len(tokens) > mostReasons {
		hash := sha256.Sum256([]byte(strings.Join(tokens, ",")))
		more := fmt.Sprintf("and/%d/more@%s", len(tokens)-mostReasons+1, hex.EncodeToString(hash[:6]))
		tokens = append(tokens[:mostReasons-1:mostReasons-1], more)
	}
	return tokens
}

// String is the annotation's value.
func (r reason) String() string {
	return r.at.UTC().Format(time.RFC3339) + " " + strings.Join(r.tokens, ",")
}

// parseReason returns the zero reason for what is none.
func parseReason(text string) reason {
	at, tokens, _ := strings.Cut(text, " ")
	time, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return reason{}
	}
	return reason{at: time, tokens: strings.Split(tokens, ",")}
}

// covers reports whether a restart for the reason was a restart for these changes too.
func (r reason) covers(changes []change) bool {
	for _, token := range tokensOf(changes) {
		if !slices.Contains(r.tokens, token) {
			return false
		}
	}
	return true
}

// describe is the text of the event.
func describe(changes []change) string {
	texts := make([]string, 0, len(changes))
	for _, c := range changes {
		texts = append(texts, c.String())
	}
	return printable.Cut("the Pods are replaced, because what they read has new versions: "+strings.Join(texts, ", "), mostEvent)
}
