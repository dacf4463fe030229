package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

// watchEvery is how often `status --watch` looks.
const watchEvery = 5 * time.Second

// clusterFlags are those of `status` for a cluster.
type clusterFlags struct {
	kubeconfig, context, namespace string
	allNamespaces, watch           bool
	object                         string
	expiring                       string
	driverName                     string

	build version.Build
}

func (f *clusterFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.BoolVarP(&f.allNamespaces, "all-namespaces", "A", false, "show the volumes and SecretSyncs of the whole cluster, from its objects and events")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "show those of a `namespace`")
	flags.StringVar(&f.object, "object", "", "show what uses an `object`: VAULT/secret/NAME, or key or cert")
	flags.StringVar(&f.expiring, "expiring", "", "show objects that expire within a `time`, such as 30d or 12h")
	flags.BoolVarP(&f.watch, "watch", "w", false, "show it again every five seconds")
	flags.StringVar(&f.driverName, "driver-name", volume.DriverName, "`name` of the CSI driver whose volumes are shown")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty: as kubectl finds it")
	flags.StringVar(&f.context, "context", "", "the kubeconfig's `context`; empty: the current one")
	completeFrom(c, "context", func(*cobra.Command) ([]string, error) { return f.caller().Contexts() })
	completeNamespaces(c, f.caller)
}

func (f *clusterFlags) caller() kube.CallerOptions {
	return kube.CallerOptions{Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace, UserAgent: userAgent(f.build)}
}

// asked reports whether the cluster is meant and not the driver on this node.
func (f *clusterFlags) asked() bool {
	return f.allNamespaces || f.namespace != "" || f.object != "" || f.expiring != "" || f.kubeconfig != "" || f.context != "" || f.watch
}

// check returns every mistake at once.
func (f *clusterFlags) check(adminAddr bool) (within time.Duration, err error) {
	var wrong []error
	if f.allNamespaces && f.namespace != "" {
		wrong = append(wrong, errors.New("--all-namespaces and --namespace are mutually exclusive"))
	}
	if adminAddr {
		wrong = append(wrong, errors.New("--admin-addr is for the driver on this node: leave it out, or the flags of the cluster"))
	}
	if f.object != "" {
		parts := strings.Split(f.object, "/")
		if len(parts) != 3 || parts[0] == "" || parts[2] == "" || !slices.Contains([]string{"secret", "key", "cert"}, parts[1]) {
			wrong = append(wrong, fmt.Errorf("--object %q is not VAULT/TYPE/NAME with the type secret, key or cert: write contoso/secret/db-password", f.object))
		}
	}
	if f.expiring != "" {
		if within, err = days(f.expiring); err != nil {
			wrong = append(wrong, fmt.Errorf("--expiring %q: %w", f.expiring, err))
		}
	}
	return within, errors.Join(wrong...)
}

// days reads a duration that may be in days.
func days(text string) (time.Duration, error) {
	if number, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(number)
		if err == nil && n > 0 && n <= 3650 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
		return 0, errors.New("write a number of days from 1d to 3650d, or a time such as 12h")
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, errors.New("write a number of days such as 30d, or a time such as 12h")
	}
	return d, nil
}

// The states of what the cluster holds, the worst first.
const (
	stateFailing  = "failing"
	stateWaiting  = "waiting"
	stateStale    = "stale"
	stateExpired  = "expired"
	stateExpiring = "expiring"
	stateFresh    = "fresh"
)

func severity(state string) int {
	return slices.Index([]string{stateFailing, stateWaiting, stateStale, stateExpired, stateExpiring, stateFresh}, state)
}

// ClusterStatus is how volumes and SecretSyncs are.
type ClusterStatus struct {
	Volumes     []ClusterVolume     `json:"volumes"`
	SecretSyncs []ClusterSecretSync `json:"secretSyncs"`
}

// ClusterVolume is a class that a Pod mounts.
type ClusterVolume struct {
	Namespace string          `json:"namespace"`
	Pod       string          `json:"pod"`
	Class     string          `json:"class"`
	Node      string          `json:"node,omitempty"`
	State     string          `json:"state"`
	Since     *metav1.Time    `json:"since,omitempty"`
	Message   string          `json:"message,omitempty"`
	Objects   []ClusterObject `json:"objects"`
}

// ClusterObject is an object of a volume.
type ClusterObject struct {
	ID      string       `json:"id"`
	Version string       `json:"version,omitempty"`
	Expires *metav1.Time `json:"expires,omitempty"`
}

// ClusterSecretSync is a SecretSync.
type ClusterSecretSync struct {
	Namespace  string       `json:"namespace"`
	Name       string       `json:"name"`
	Class      string       `json:"class"`
	State      string       `json:"state"`
	LastSynced *metav1.Time `json:"lastSynced,omitempty"`
	Message    string       `json:"message,omitempty"`
}

// run shows the status, again and again with --watch.
func (f *clusterFlags) run(cmd *cobra.Command, output string, within time.Duration) error {
	cluster, err := kube.NewCaller(f.caller())
	if err != nil {
		return err
	}
	for {
		s, err := f.read(cmd.Context(), cluster, within)
		if err != nil {
			return err
		}
		if f.watch && isTerminal(cmd.OutOrStdout()) {
			_, _ = io.WriteString(cmd.OutOrStdout(), "\x1b[H\x1b[2J")
		}
		if isTable(output) {
			err = printCluster(cmd.OutOrStdout(), s, time.Now(), output == wideOutput)
		} else {
			err = printValue(cmd.OutOrStdout(), output, s)
		}
		if err != nil || !f.watch {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

// read asks the API server. Pods and events are left out where the caller may not list them: the status objects say most.
func (f *clusterFlags) read(ctx context.Context, cluster *kube.Caller, within time.Duration) (*ClusterStatus, error) {
	namespace := cluster.Namespace()
	if f.allNamespaces || f.namespace == "" && f.object != "" || f.namespace == "" && f.expiring != "" {
		namespace = ""
	}
	s, now := &ClusterStatus{Volumes: []ClusterVolume{}, SecretSyncs: []ClusterSecretSync{}}, time.Now()
	mounted := map[string]bool{}
	err := cluster.EachStatus(ctx, namespace, func(o *v1.SecretProviderClassPodStatus) {
		if o.Labels[kube.NodeLabel(f.driverName)] == "" && hasNodeLabel(o) {
			return // another driver's
		}
		mounted[o.Namespace+"/"+o.Status.PodName+"/"+o.Status.SecretProviderClassName] = true
		s.Volumes = append(s.Volumes, volumeOf(o, f.driverName, now))
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	if err := cluster.EachSecretSync(ctx, namespace, func(o *syncv1alpha1.SecretSync) {
		s.SecretSyncs = append(s.SecretSyncs, secretSyncOf(o))
	}); err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	if f.object == "" && f.expiring == "" {
		s.addWaiting(ctx, cluster, namespace, f.driverName, mounted)
	}
	if f.object != "" {
		clouds, err := cloud.NewResolver("AzurePublicCloud", "")
		if err != nil {
			return nil, err
		}
		s.keepUsers(ctx, cluster, f.object, class.Options{Clouds: clouds})
	}
	if f.expiring != "" {
		s.keepExpiring(now, within)
	}
	slices.SortStableFunc(s.Volumes, func(a, b ClusterVolume) int {
		return cmp.Or(severity(a.State)-severity(b.State), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Class, b.Class))
	})
	slices.SortStableFunc(s.SecretSyncs, func(a, b ClusterSecretSync) int {
		return cmp.Or(severity(a.State)-severity(b.State), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return s, nil
}

// hasNodeLabel reports whether a driver says on which node the Pod runs. The label's key has the driver's name.
func hasNodeLabel(o *v1.SecretProviderClassPodStatus) bool {
	for key := range o.Labels {
		if strings.HasPrefix(key, "internal.") && strings.HasSuffix(key, "/node-name") {
			return true
		}
	}
	return false
}

// volumeOf is what a status object says.
func volumeOf(o *v1.SecretProviderClassPodStatus, driverName string, now time.Time) ClusterVolume {
	v := ClusterVolume{
		Namespace: o.Namespace, Pod: o.Status.PodName, Class: o.Status.SecretProviderClassName, State: stateFresh,
		Node: o.Labels[kube.NodeLabel(driverName)], Objects: []ClusterObject{},
	}
	since := func(annotation string) *metav1.Time {
		at, err := time.Parse(time.RFC3339, o.Annotations[annotation])
		if err != nil {
			return nil
		}
		return new(metav1.NewTime(at))
	}
	v.Since = since(kube.LastSuccessAnnotation)
	var first *metav1.Time
	for _, object := range o.Status.Objects {
		v.Objects = append(v.Objects, ClusterObject{ID: object.ID, Version: object.Version, Expires: object.Expires})
		if object.Expires != nil && (first == nil || object.Expires.Before(first)) {
			first = object.Expires
			v.Message = object.ID + " expires " + first.UTC().Format(time.RFC3339)
		}
	}
	switch {
	case o.Annotations[kube.FailingSinceAnnotation] != "":
		v.State, v.Since = stateFailing, since(kube.FailingSinceAnnotation)
		v.Message = o.Annotations[kube.FailureReasonAnnotation] + ": " + o.Annotations[kube.FailureAnnotation]
	case o.Annotations[kube.StaleSinceAnnotation] != "":
		v.State, v.Since, v.Message = stateStale, since(kube.StaleSinceAnnotation), "the Pod started from last known good values"
	case first != nil && !first.After(now):
		v.State = stateExpired
	case first != nil && first.Sub(now) <= soon:
		v.State = stateExpiring
	default:
		v.Message = ""
	}
	return v
}

// secretSyncOf is what a SecretSync's status says.
func secretSyncOf(o *syncv1alpha1.SecretSync) ClusterSecretSync {
	s := ClusterSecretSync{
		Namespace: o.Namespace, Name: o.Name, Class: o.Spec.SecretProviderClassName, State: stateWaiting, LastSynced: o.Status.LastSuccessfulSyncTime,
	}
	for _, c := range o.Status.Conditions {
		if c.Status == metav1.ConditionFalse {
			s.State, s.Message = stateFailing, c.Reason+": "+c.Message
			return s
		}
	}
	if meta.IsStatusConditionTrue(o.Status.Conditions, "SecretCreated") {
		s.State = stateFresh
	}
	return s
}

// addWaiting adds Pods that wait for their volume, with the newest warning about each.
func (s *ClusterStatus) addWaiting(ctx context.Context, cluster *kube.Caller, namespace, driverName string, mounted map[string]bool) {
	var waiting []kube.WaitingPod
	if err := cluster.EachWaiting(ctx, namespace, driverName, func(p kube.WaitingPod) {
		if !mounted[p.Namespace+"/"+p.Name+"/"+p.Class] {
			waiting = append(waiting, p)
		}
	}); err != nil || len(waiting) == 0 {
		return
	}
	warnings, err := cluster.LastEvents(ctx, namespace)
	if err != nil {
		warnings = nil
	}
	for _, p := range waiting {
		s.Volumes = append(s.Volumes, ClusterVolume{
			Namespace: p.Namespace, Pod: p.Name, Class: p.Class, Node: p.Node, State: stateWaiting, Since: &p.Created,
			Message: warnings[p.UID], Objects: []ClusterObject{},
		})
	}
}

// keepUsers leaves what uses an object: volumes that hold it, and SecretSyncs whose class names it. A class that cannot be read, or
// whose vault the Pod names, may use it.
func (s *ClusterStatus) keepUsers(ctx context.Context, cluster *kube.Caller, object string, o class.Options) {
	vault, id, _ := strings.Cut(strings.ToLower(object), "/")
	type answer struct{ vault, object bool }
	known := map[string]answer{}
	ask := func(namespace, name string) answer {
		key := namespace + "/" + name
		if a, ok := known[key]; ok {
			return a
		}
		known[key] = answer{vault: true, object: true}
		if found, err := cluster.Class(ctx, namespace, name); err == nil {
			if parsed, mistakes, _ := class.Parse(found.Spec.Parameters, o); len(mistakes) == 0 {
				known[key] = answer{
					vault:  slices.ContainsFunc(parsed.Objects, func(o class.Object) bool { return inVault(&o, vault) }),
					object: slices.ContainsFunc(parsed.Objects, func(o class.Object) bool { return inVault(&o, vault) && isObject(&o, id) }),
				}
			}
		}
		return known[key]
	}
	s.Volumes = slices.DeleteFunc(s.Volumes, func(v ClusterVolume) bool {
		holds := slices.ContainsFunc(v.Objects, func(o ClusterObject) bool {
			held := strings.ToLower(o.ID)
			return held == id || strings.HasPrefix(held, id+"/") // a version history has an index
		})
		return !holds || !ask(v.Namespace, v.Class).vault
	})
	s.SecretSyncs = slices.DeleteFunc(s.SecretSyncs, func(o ClusterSecretSync) bool { return !ask(o.Namespace, o.Class).object })
}

// inVault reports whether an object is one of a vault, by its name or host; its fallback vaults count too.
func inVault(o *class.Object, vault string) bool {
	return slices.ContainsFunc(append([]string{o.VaultURL}, o.Fallbacks...), func(base string) bool {
		u, err := url.Parse(base)
		if err != nil {
			return false
		}
		host := strings.ToLower(u.Hostname())
		return host == vault || strings.HasPrefix(host, vault+".")
	})
}

// isObject reports whether an object of a class is type/name; a selection may be any of its type.
func isObject(o *class.Object, id string) bool {
	kind, name, _ := strings.Cut(id, "/")
	return strings.EqualFold(string(o.Kind), kind) && (o.Selector != nil || strings.EqualFold(o.Name, name))
}

// keepExpiring leaves objects that end within a time.
func (s *ClusterStatus) keepExpiring(now time.Time, within time.Duration) {
	kept := []ClusterVolume{}
	for _, v := range s.Volumes {
		v.Objects = slices.DeleteFunc(v.Objects, func(o ClusterObject) bool { return o.Expires == nil || o.Expires.Sub(now) > within })
		if len(v.Objects) > 0 {
			kept = append(kept, v)
		}
	}
	s.Volumes, s.SecretSyncs = kept, []ClusterSecretSync{}
}

// printCluster prints the status as tables, the worst first.
func printCluster(w io.Writer, s *ClusterStatus, now time.Time, wide bool) error {
	p := newPaper(w)
	looks := map[string]style{stateFailing: red, stateWaiting: yellow, stateStale: yellow, stateExpired: red, stateExpiring: yellow, stateFresh: green}
	age := func(at *metav1.Time) string {
		if at == nil {
			return "-"
		}
		return span(now.Sub(at.Time))
	}
	if len(s.Volumes) == 0 && len(s.SecretSyncs) == 0 {
		p.line("no volume and no SecretSync")
	}
	if len(s.Volumes) > 0 {
		rows, notes := [][]cell{headings("STATE", "SINCE", "POD", "CLASS", "NODE", "OBJECTS")}, [][]string{nil}
		for _, v := range s.Volumes {
			rows = append(rows, []cell{
				{text: v.State, style: looks[v.State]},
				{text: age(v.Since), right: true},
				{text: printable.OneLine(v.Namespace + "/" + v.Pod)},
				{text: printable.OneLine(v.Class)},
				{text: printable.OneLine(cmp.Or(v.Node, "-"))},
				{text: strconv.Itoa(len(v.Objects)), right: true},
			})
			var below []string
			if v.Message != "" {
				below = append(below, p.paint(printable.OneLine(v.Message), looks[v.State]))
			}
			for _, o := range v.Objects {
				if !wide {
					break
				}
				line := printable.OneLine(o.ID + " " + cmp.Or(o.Version, "(no version)"))
				if o.Expires != nil {
					line += ", expires " + o.Expires.UTC().Format(time.RFC3339)
				}
				below = append(below, p.paint(line, faint))
			}
			notes = append(notes, below)
		}
		p.tableWithNotes(rows, notes)
	}
	if len(s.SecretSyncs) > 0 {
		if len(s.Volumes) > 0 {
			p.line()
		}
		rows, notes := [][]cell{headings("STATE", "SYNCED", "SECRETSYNC", "CLASS")}, [][]string{nil}
		for _, o := range s.SecretSyncs {
			rows = append(rows, []cell{
				{text: o.State, style: looks[o.State]},
				{text: age(o.LastSynced), right: true},
				{text: printable.OneLine(o.Namespace + "/" + o.Name)},
				{text: printable.OneLine(o.Class)},
			})
			var below []string
			if o.Message != "" {
				below = append(below, p.paint(printable.OneLine(o.Message), looks[o.State]))
			}
			notes = append(notes, below)
		}
		p.tableWithNotes(rows, notes)
	}
	if p.err != nil {
		return fmt.Errorf("output: %w", p.err)
	}
	return nil
}
