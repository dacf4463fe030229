//go:build integration

package deploy

import (
	"slices"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

// Each installation and upgrade with the project's chart renders, with the values that the page sets: the chart's
// schema is strict.
func TestHelmCommandsOfTheDocumentation(t *testing.T) {
	checked := 0
	for _, c := range pages.Commands(t) {
		at := slices.Index(c.Words, "./deploy/chart")
		if c.Words[0] != "helm" || at < 0 {
			continue // of another chart
		}
		checked++
		args := []string{"template", "keyvault-csi", c.Words[at], "--kube-version", "1.37.0"}
		for _, word := range c.Words[at+1:] {
			if word != "--reuse-values" && word != "--take-ownership" { // of what is installed
				args = append(args, word)
			}
		}
		if _, problems, err := helm(t, args...); err != nil {
			t.Errorf("%s: %s: %v\n%s", c.Page, c.Line, err, problems)
		}
	}
	if checked < 4 {
		t.Errorf("only %d commands", checked)
	}
}
