// Package nodeidentity decides which namespaces may use the node's own identity. A class, or a Pod through its volumeAttributes, asks for
// it with useVMManagedIdentity; what it gives access to is the operator's choice, and not that of the class's author.
package nodeidentity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// Mode is who may use the node's identity.
type Mode string

const (
	// All lets every namespace use it.
	All Mode = "all"
	// Namespaces lets those of the rule use it.
	Namespaces Mode = "namespaces"
	// None lets nobody use it.
	None Mode = "none"
)

const (
	// labelsAge is how old the labels of a namespace may be before they are read again.
	labelsAge = time.Minute
	// maxNamespaces bounds how many namespaces' labels are kept.
	maxNamespaces = 4096
)

// Rule is the operator's choice.
type Rule struct {
	Mode Mode
	// Names are namespaces that may use it, and Selector chooses more by their labels; nil chooses none.
	Names    []string
	Selector labels.Selector
}

// ParseRule reads the flags of the driver.
func ParseRule(mode string, names []string, selector string) (Rule, error) {
	r := Rule{Mode: Mode(mode), Names: names}
	switch {
	case r.Mode != All && r.Mode != Namespaces && r.Mode != None:
		return r, fmt.Errorf("--node-identity %q is none of all, namespaces and none", mode)
	case r.Mode != Namespaces && (len(names) > 0 || selector != ""):
		return r, fmt.Errorf("--node-identity-namespaces and --node-identity-selector require --node-identity=namespaces, not %s", mode)
	case r.Mode == Namespaces && len(names) == 0 && selector == "":
		return r, errors.New("--node-identity=namespaces requires --node-identity-namespaces or --node-identity-selector")
	}
	if selector != "" {
		parsed, err := labels.Parse(selector)
		if err != nil {
			return r, fmt.Errorf("--node-identity-selector %q: %w", selector, err)
		}
		r.Selector = parsed
	}
	return r, nil
}

// Labels reads the labels of a namespace.
type Labels func(ctx context.Context, namespace string) (map[string]string, error)

// Guard is a provider that refuses the node's identity where the rule does not allow it. It decides on the parameters of the class and
// the Pod's volumeAttributes together, at every call: a volume that is mounted keeps its files, and its refreshes fail.
type Guard struct {
	volume.Provider

	rule   Rule
	labels Labels
	clock  clock.PassiveClock
	reads  singleflight.Group

	mu    sync.Mutex
	known map[string]known
}

type known struct {
	labels map[string]string
	read   time.Time
}

// New returns a Guard. Labels may be nil where the rule has no selector.
func New(provider volume.Provider, rule Rule, read Labels, clk clock.PassiveClock) *Guard {
	return &Guard{Provider: provider, rule: rule, labels: read, clock: clk, known: map[string]known{}}
}

// Bind implements volume.Provider.
func (g *Guard) Bind(ctx context.Context, req volume.Request) (volume.Binding, error) {
	if g.rule.Mode != All && asks(req) {
		if err := g.check(ctx, req.Pod.Namespace); err != nil {
			return nil, err
		}
	}
	return g.Provider.Bind(ctx, req)
}

// asks says whether the volume would use the node's identity.
func asks(req volume.Request) bool {
	text := class.Merge(req.Parameters, req.Attributes)["useVMManagedIdentity"]
	value, err := strconv.ParseBool(strings.TrimSpace(text))
	return err == nil && value
}

func (g *Guard) check(ctx context.Context, namespace string) error {
	if g.rule.Mode == Namespaces {
		if slices.Contains(g.rule.Names, namespace) {
			return nil
		}
		if g.rule.Selector != nil {
			found, err := g.labelsOf(ctx, namespace)
			if err != nil {
				return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
					"useVMManagedIdentity is allowed for namespaces with certain labels, and those of %s cannot be read: %s: it is tried again",
					namespace, printable.OneLine(err.Error()))}
			}
			if g.rule.Selector.Matches(labels.Set(found)) {
				return nil
			}
		}
	}
	return &volume.Error{Reason: volume.ReasonPermission, Message: fmt.Sprintf("useVMManagedIdentity is not allowed in the namespace %s: use "+
		"workload identity (clientID), or ask the driver's operator to allow it with nodeIdentity in the chart", namespace)}
}

// labelsOf returns the labels of a namespace, at most a minute old, or older while they cannot be read.
func (g *Guard) labelsOf(ctx context.Context, namespace string) (map[string]string, error) {
	g.mu.Lock()
	last, ok := g.known[namespace]
	g.mu.Unlock()
	if ok && g.clock.Since(last.read) < labelsAge {
		return last.labels, nil
	}
	answer := g.reads.DoChan(namespace, func() (any, error) { return g.labels(context.WithoutCancel(ctx), namespace) })
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case result := <-answer:
		if result.Err != nil {
			if ok {
				return last.labels, nil
			}
			return nil, result.Err
		}
		found, _ := result.Val.(map[string]string)
		g.keep(namespace, found)
		return found, nil
	}
}

func (g *Guard) keep(namespace string, found map[string]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Now()
	if len(g.known) >= maxNamespaces {
		maps.DeleteFunc(g.known, func(_ string, k known) bool { return now.Sub(k.read) > labelsAge })
	}
	if len(g.known) < maxNamespaces {
		g.known[namespace] = known{found, now}
	}
}
