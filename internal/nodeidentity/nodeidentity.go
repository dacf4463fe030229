// Package nodeidentity decides which namespaces may use the node's identity. The author of a class, or of a Pod through
// its volumeAttributes, asks for it with useVMManagedIdentity; who may is the operator's choice.
package nodeidentity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Mode is who may use the node's identity.
type Mode string

const (
	// All allows every namespace.
	All Mode = "all"
	// Namespaces allows those that the rule names or selects.
	Namespaces Mode = "namespaces"
	// None allows no namespace.
	None Mode = "none"
)

// Modes are all modes, as text for completions.
func Modes() []string { return []string{string(All), string(Namespaces), string(None)} }

// Rule is the operator's choice. The zero value allows every namespace.
type Rule struct {
	Mode Mode
	// Names and Selector apply to the mode Namespaces: a namespace is allowed that is named or selected. A nil Selector
	// selects none.
	Names    []string
	Selector labels.Selector
}

// Flags are the flags that make a Rule, as text.
type Flags struct {
	Mode     string
	Names    []string
	Selector string
}

// Register adds the flags. Note ends their descriptions; it may be empty.
func (f *Flags) Register(fs *pflag.FlagSet, note string) {
	fs.StringVar(&f.Mode, "node-identity", string(All),
		"which namespaces may use the node's identity, useVMManagedIdentity: `all, namespaces or none`"+note)
	fs.StringSliceVar(&f.Names, "node-identity-namespaces", nil,
		"`names` of the namespaces of --node-identity=namespaces"+note)
	fs.StringVar(&f.Selector, "node-identity-namespace-selector", "",
		"label `selector` of the namespaces of --node-identity=namespaces"+note)
}

// Rule reads the flags. The error has every mistake.
func (f Flags) Rule() (Rule, error) {
	r := Rule{Mode: Mode(f.Mode), Names: f.Names}
	var wrong []error
	switch {
	case !slices.Contains(Modes(), f.Mode):
		wrong = append(wrong, fmt.Errorf("--node-identity %q is not known: write all, namespaces or none", f.Mode))
	case r.Mode != Namespaces && (len(f.Names) > 0 || f.Selector != ""):
		wrong = append(wrong, fmt.Errorf("--node-identity-namespaces and --node-identity-namespace-selector need "+
			"--node-identity=namespaces, not %s", f.Mode))
	case r.Mode == Namespaces && len(f.Names) == 0 && f.Selector == "":
		wrong = append(wrong, errors.New("--node-identity=namespaces needs --node-identity-namespaces or "+
			"--node-identity-namespace-selector"))
	}
	if f.Selector != "" {
		selector, err := labels.Parse(f.Selector)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("--node-identity-namespace-selector %q: %w", f.Selector, err))
		}
		r.Selector = selector
	}
	return r, errors.Join(wrong...)
}

// Answer is what a rule says about a namespace without its labels.
type Answer int

const (
	// Refused means that the namespace may not use the node's identity.
	Refused Answer = iota
	// Allowed means that it may.
	Allowed
	// ByLabels means that its labels decide.
	ByLabels
)

// Of returns what the rule says about the namespace.
func (r Rule) Of(namespace string) Answer {
	switch {
	case r.Mode == All || r.Mode == "" || r.Mode == Namespaces && slices.Contains(r.Names, namespace):
		return Allowed
	case r.Mode == Namespaces && r.Selector != nil:
		return ByLabels
	}
	return Refused
}

// Describe names the namespaces of the mode Namespaces.
func (r Rule) Describe() string {
	var parts []string
	if len(r.Names) > 0 {
		parts = append(parts, strings.Join(r.Names, ", "))
	}
	if r.Selector != nil {
		parts = append(parts, "namespaces with the labels "+r.Selector.String())
	}
	return strings.Join(parts, " and ")
}

// Selected decides by the labels of namespaces.
type Selected interface {
	// Match reports whether the rule's selector matches the namespace. Errors are of type *volume.Error.
	Match(ctx context.Context, namespace string) (bool, error)
}

// Policy applies a rule. It implements provider.NodeIdentity.
type Policy struct {
	// Rule is the operator's choice.
	Rule Rule
	// Selected applies the rule's selector; nil where the rule has none.
	Selected Selected
}

// Check implements provider.NodeIdentity.
func (p *Policy) Check(ctx context.Context, namespace string) error {
	answer := p.Rule.Of(namespace)
	if answer == ByLabels {
		matches, err := p.Selected.Match(ctx, namespace)
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		if matches {
			return nil
		}
	}
	if answer == Allowed {
		return nil
	}
	fix := "ask the driver's operator to allow the namespace with nodeIdentity.namespaces in the chart"
	if p.Rule.Mode == None {
		fix = "ask the driver's operator to allow it with nodeIdentity.allowed in the chart"
	}
	return &volume.Error{Reason: volume.ReasonIdentity, Message: fmt.Sprintf(
		"useVMManagedIdentity is not allowed in the namespace %s: use workload identity (clientID), or %s", namespace, fix)}
}
