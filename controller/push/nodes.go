package push

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/keylock"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

const (
	// countTTL is how long the count of a namespace is used.
	countTTL = time.Minute
	// countPage is how many status objects are listed at once, and mostPages how many times.
	countPage = 1000
	mostPages = 1000
	// countTimeout bounds the lists of one count.
	countTimeout = 8 * time.Second
	// unknownNodes is assumed where nodes cannot be counted.
	unknownNodes = 1000
)

// nodes counts the nodes that mount each class. Their status objects are listed when an event comes, at most once a minute for a namespace,
// since a watch would keep those of all Pods of the cluster in memory.
type nodes struct {
	reader client.Reader // of the API server
	clock  clock.PassiveClock
	log    *slog.Logger
	locks  keylock.Locks[string]

	mu     sync.Mutex
	counts map[string]nodeCount // by namespace
}

// nodeCount is how many nodes mount each class of a namespace.
type nodeCount struct {
	at      time.Time
	byClass map[string]int // nil where it is not known
}

// nodes returns how many nodes may mount the class.
func (c nodeCount) nodes(class string) int {
	if c.byClass == nil {
		return unknownNodes
	}
	return c.byClass[class] + c.byClass[""]
}

// of returns how many nodes mount a class. Where the API server does not say, the last count is used, or a large number, and it is asked again
// after as long as after an answer.
func (n *nodes) of(ctx context.Context, namespace, class string) int {
	release, err := n.locks.Acquire(ctx, namespace)
	if err != nil {
		return unknownNodes
	}
	defer release()
	count := n.known(namespace)
	if !count.at.IsZero() && n.clock.Since(count.at) < countTTL {
		return count.nodes(class)
	}
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	byClass, err := n.count(ctx, namespace)
	if err == nil {
		count.byClass = byClass
	} else {
		n.log.WarnContext(ctx, "nodes are not counted; the last count is used, or many are assumed", "namespace", namespace, logkeys.Error, err)
	}
	n.keep(namespace, count.byClass)
	return count.nodes(class)
}

func (n *nodes) known(namespace string) nodeCount {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts[namespace]
}

func (n *nodes) keep(namespace string, byClass map[string]int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.clock.Now()
	maps.DeleteFunc(n.counts, func(_ string, old nodeCount) bool { return now.Sub(old.at) > 10*countTTL })
	n.counts[namespace] = nodeCount{at: now, byClass: byClass}
}

// count lists the metadata of the namespace's status objects. The class is in their names, POD-NAMESPACE-CLASS.
func (n *nodes) count(ctx context.Context, namespace string) (map[string]int, error) {
	seen := map[string]map[string]bool{}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1.GroupVersion().WithKind("SecretProviderClassPodStatusList"))
	options := &client.ListOptions{Namespace: namespace, Limit: countPage}
	for range mostPages {
		if err := n.reader.List(ctx, list, options); err != nil {
			return nil, err //nolint:wrapcheck // the caller says what it is about
		}
		for i := range list.Items {
			classes, node := mountOf(namespace, &list.Items[i].ObjectMeta)
			for _, class := range classes {
				if seen[class] == nil {
					seen[class] = map[string]bool{}
				}
				seen[class][node] = true
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	counts := make(map[string]int, len(seen))
	for class, on := range seen {
		counts[class] = len(on)
	}
	return counts, nil
}

// longName is from which length on a name may have been shortened: it does not say the class then.
const longName = 230

// mountOf returns the classes that a status object may be of, and its node. A name can be read in more than one way where the class has the
// namespace in its own; the class is empty where the name does not say it.
func mountOf(namespace string, o *metav1.ObjectMeta) (classes []string, node string) {
	separator := "-" + namespace + "-"
	for rest := o.Name; len(o.Name) < longName; {
		_, after, ok := strings.Cut(rest, separator)
		if !ok {
			break
		}
		classes = append(classes, after)
		rest = rest[strings.Index(rest, separator)+1:]
	}
	if len(classes) == 0 {
		classes = []string{""}
	}
	for label, value := range o.Labels {
		if strings.HasPrefix(label, "internal.") && strings.HasSuffix(label, "/node-name") {
			node = value
		}
	}
	return classes, node
}
