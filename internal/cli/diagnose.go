package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// checkFlags are the flags of `keyvault-csi check`.
type checkFlags struct {
	subjectFlags

	allNamespaces bool
	pod, workload string
	driverName    string
}

func (f *checkFlags) register(c *cobra.Command) {
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unusable{err} })
	f.subjectFlags.register(c.Flags())
	flags := c.Flags()
	flags.BoolVarP(&f.allNamespaces, "all-namespaces", "A", false, "diagnose every volume of the cluster that fails, waits or is stale")
	flags.StringVar(&f.pod, "pod", "", "diagnose the volumes of the Pod of this `name`")
	flags.StringVar(&f.workload, "workload", "", "diagnose the volumes of a workload's Pods: `name`, or KIND/NAME such as deployment/shop")
	flags.StringVar(&f.driverName, "driver-name", volume.DriverName, "with -A, --pod and --workload: `name` of the CSI driver")
	f.complete(c)
	f.completePods(c)
}

// diagnoses reports whether to start from what is broken.
func (f *checkFlags) diagnoses() bool { return f.allNamespaces || f.pod != "" || f.workload != "" }

// check returns every mistake of the flags at once.
func (f *checkFlags) check(names []string) error {
	var wrong []error
	given := 0
	for _, set := range []bool{f.allNamespaces, f.pod != "", f.workload != "", len(f.files)+len(names) > 0} {
		if set {
			given++
		}
	}
	if given > 1 {
		wrong = append(wrong, errors.New("-A, --pod, --workload and classes are mutually exclusive: give one of them"))
	}
	f.diagnosed = f.diagnoses()
	if f.diagnosed {
		if f.asClass || f.serviceAccount != "" {
			wrong = append(wrong, errors.New("--service-account and --as-class are for classes: -A, --pod and --workload use the Pods' own identity"))
		}
		if f.allNamespaces && f.namespace != "" {
			wrong = append(wrong, errors.New("--all-namespaces and --namespace are mutually exclusive"))
		}
	}
	if kind, _, ok := strings.Cut(f.workload, "/"); ok && !slices.Contains(kube.WorkloadKinds(), workloadKind(kind)) {
		wrong = append(wrong, fmt.Errorf("--workload %q: the kind %q is not known: use %s", f.workload, kind, strings.Join(kube.WorkloadKinds(), ", ")))
	}
	wrong = append(wrong, f.subjectFlags.check())
	return errors.Join(wrong...)
}

// workloadKind is a kind as people write it: Deployment, deployments, deploy.
func workloadKind(text string) string {
	kind := strings.TrimSuffix(strings.ToLower(text), "s")
	switch kind {
	case "deploy":
		return "deployment"
	case "st", "sts":
		return "statefulset"
	case "d", "ds":
		return "daemonset"
	case "r", "rs":
		return "replicaset"
	case "cj":
		return "cronjob"
	}
	return kind
}

// diagnosis is what is wrong with one volume, or with several for the same cause.
type diagnosis struct {
	Namespace      string `json:"namespace"`
	Class          string `json:"class"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Pods are those with the volume.
	Pods []string `json:"pods"`
	Node string   `json:"node,omitempty"`
	// State is failing, waiting, stale, expired, expiring or fresh.
	State string       `json:"state"`
	Since *metav1.Time `json:"since,omitempty"`
	// Reported is what the driver or kubelet says.
	Reported string    `json:"reported,omitempty"`
	Steps    []checkup `json:"steps"`
	Warnings []string  `json:"warnings,omitempty"`
	// ToDo is the one thing to do; empty where nothing is wrong.
	ToDo string `json:"toDo,omitempty"`

	pod podIdentity
	// secretRef is the Secret with a service principal.
	secretRef string
	// managed is true where the node's identity asks.
	managed bool
}

// mostDiagnoses bounds how many causes are looked for.
const mostDiagnoses = 200

// diagnose starts from what is broken.
func diagnose(cmd *cobra.Command, f *checkFlags) error {
	waiting := newProgress(cmd.ErrOrStderr())
	defer waiting.end()
	waiting.begin("reading status objects, Pods and events")
	s, err := f.open(waiting)
	if err != nil {
		return unusable{err}
	}
	defer s.provider.Close()
	all, healthy, err := f.broken(cmd.Context(), s)
	if err != nil {
		return unusable{err}
	}
	left := max(len(all)-mostDiagnoses, 0)
	all = all[:len(all)-left]
	waiting.beginMany("checking "+count(len(all), "volume"), len(all))
	inspector := s.provider.Inspector()
	if err := atOnce(len(all), func(i int) {
		s.diagnose(cmd.Context(), inspector, all[i])
		waiting.did()
	}); err != nil {
		return err
	}
	waiting.end()
	for _, d := range all {
		stepsAsPlugin(cmd, d.Steps)
		if isPlugin(cmd) {
			d.ToDo = asPlugin(d.ToDo)
		}
	}
	if isTable(f.output) {
		err = printDiagnoses(newPaper(cmd.OutOrStdout()), all, healthy, left, time.Now(), f.output == wideOutput)
	} else {
		err = printValue(cmd.OutOrStdout(), f.output, all)
	}
	if err == nil && slices.ContainsFunc(all, func(d *diagnosis) bool { return d.ToDo != "" }) {
		err = ErrReported
	}
	return err
}

// open opens the cluster and the provider, which asks as the Pods do.
func (f *checkFlags) open(observer provider.Observer) (*subjects, error) {
	clouds, err := f.clouds()
	if err != nil {
		return nil, err
	}
	s := &subjects{flags: &f.subjectFlags, parse: class.Options{Clouds: clouds, AllowedHosts: f.allowedHosts, SplitCertAndKey: f.split}}
	if f.secretFile != "" {
		if s.secrets, err = readSecretFile(f.secretFile); err != nil {
			return nil, err
		}
	}
	if s.cluster, err = kube.NewCaller(f.callerOptions()); err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	s.asPods = true
	return s, s.openProvider(observer)
}

// broken returns what to look at, the worst first, and how many volumes are well.
func (f *checkFlags) broken(ctx context.Context, s *subjects) (all []*diagnosis, healthy int, err error) {
	namespace := s.cluster.Namespace()
	if f.allNamespaces {
		namespace = ""
	}
	pods, err := f.pods(ctx, s, namespace)
	if err != nil {
		return nil, 0, err
	}
	chosen := f.pod != "" || f.workload != "" // the person names what to look at
	statuses := map[string]ClusterVolume{}
	if err := s.cluster.EachStatus(ctx, namespace, func(o *v1.SecretProviderClassPodStatus) {
		statuses[o.Namespace+"/"+o.Status.PodName+"/"+o.Status.SecretProviderClassName] = volumeOf(o, f.driverName, time.Now())
	}); err != nil && !chosen {
		return nil, 0, err //nolint:wrapcheck // says all
	}
	warnings, err := s.cluster.LastEvents(ctx, namespace)
	if err != nil {
		warnings = map[types.UID]string{} // the status objects say most
	}
	byCause := map[string]*diagnosis{}
	for _, p := range pods {
		for _, v := range p.Volumes {
			d := newDiagnosis(p, v)
			if known, ok := statuses[p.Namespace+"/"+p.Name+"/"+v.Class]; ok {
				d.State, d.Since, d.Reported = known.State, known.Since, known.Message
			} else {
				d.Reported = warnings[p.UID]
			}
			key := fmt.Sprintln(d.Namespace, d.Class, d.ServiceAccount, d.State, v.SecretRef, v.Attributes)
			switch other, ok := byCause[key]; {
			case !chosen && !slices.Contains([]string{stateFailing, stateWaiting, stateStale}, d.State):
				healthy++
			case ok:
				other.Pods = append(other.Pods, p.Name)
			default:
				byCause[key] = d
			}
		}
	}
	all = slices.AppendSeq([]*diagnosis{}, maps.Values(byCause))
	slices.SortFunc(all, func(a, b *diagnosis) int {
		return cmp.Or(severity(a.State)-severity(b.State), len(b.Pods)-len(a.Pods), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Class, b.Class),
			cmp.Compare(a.Pods[0], b.Pods[0]))
	})
	return all, healthy, nil
}

// pods are those to look at.
func (f *checkFlags) pods(ctx context.Context, s *subjects, namespace string) (pods []kube.MountingPod, err error) {
	switch {
	case f.pod != "":
		pod, err := s.cluster.Pod(ctx, namespace, strings.TrimPrefix(f.pod, "pod/"), f.driverName)
		if err != nil {
			return nil, err //nolint:wrapcheck // says all
		}
		if len(pod.Volumes) == 0 {
			return nil, fmt.Errorf("pod %s/%s has no volume of the driver %s: correct the name, or set --driver-name", namespace, pod.Name, f.driverName)
		}
		return []kube.MountingPod{pod}, nil
	case f.workload != "":
		return f.podsOfWorkload(ctx, s, namespace)
	}
	err = s.cluster.Pods(ctx, namespace, "", f.driverName, func(p kube.MountingPod) {
		if p.Phase != "Succeeded" && p.Phase != "Failed" {
			pods = append(pods, p)
		}
	})
	return pods, err //nolint:wrapcheck // says all
}

// podsOfWorkload are the Pods of a workload that mount classes, or the Pod as it would be where there is none.
func (f *checkFlags) podsOfWorkload(ctx context.Context, s *subjects, namespace string) (pods []kube.MountingPod, err error) {
	kind, name, ok := strings.Cut(f.workload, "/")
	if !ok {
		kind, name = "", f.workload
	}
	w, err := s.cluster.Workload(ctx, workloadKind(kind), namespace, name, f.driverName)
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	if len(w.Template.Volumes) == 0 {
		return nil, fmt.Errorf("%s %s/%s has no volume of the driver %s: correct the name, or set --driver-name", w.Kind, namespace, name, f.driverName)
	}
	if w.Selector != "" {
		err := s.cluster.Pods(ctx, namespace, w.Selector, f.driverName, func(p kube.MountingPod) {
			if p.Phase != "Succeeded" && p.Phase != "Failed" { // the volumes of others are gone
				pods = append(pods, p)
			}
		})
		if err != nil {
			return nil, err //nolint:wrapcheck // says all
		}
	}
	if len(pods) == 0 {
		pods = []kube.MountingPod{w.Template}
	}
	return pods, nil
}

func newDiagnosis(p kube.MountingPod, v kube.MountedVolume) *diagnosis {
	return &diagnosis{
		Namespace: p.Namespace, Class: v.Class, ServiceAccount: p.ServiceAccount, Pods: []string{p.Name}, Node: p.Node, State: stateWaiting, Since: &p.Created,
		Steps: []checkup{}, pod: podIdentity{account: p.ServiceAccount, attributes: v.Attributes}, secretRef: v.SecretRef,
	}
}

// diagnose takes the steps of a volume, and finds the one thing to do.
func (s *subjects) diagnose(ctx context.Context, inspector *provider.Inspector, d *diagnosis) {
	defer d.conclude()
	found, err := s.cluster.Class(ctx, d.Namespace, d.Class)
	if d.Class == "" {
		err = &volume.Error{Reason: volume.ReasonInvalidRequest, Message: "the Pod's volumeAttributes have no secretProviderClass: write the name of a class in its namespace"}
	}
	if err != nil {
		d.Steps = append(d.Steps, wrongStep("class", d.Namespace+"/"+d.Class, err))
		return
	}
	set := classfile.NewSet(s.parse, classfile.Rules{Lint: true, Annotations: true})
	if err := addLive(found.DeepCopy(), set); err == nil {
		for _, m := range set.Finish(ctx, nil) {
			if m.Severity == classfile.Warning {
				d.Warnings = append(d.Warnings, m.Message)
			}
		}
	}
	parsed, _, _ := class.Parse(class.Merge(found.Spec.Parameters, d.pod.attributes), s.parse)
	switch {
	case parsed != nil && parsed.Mode == class.ManagedIdentity:
		d.managed = true
		d.Steps = append(d.Steps, checkup{Step: "identity", Name: "managed identity of the node", Status: statusSkipped,
			Message: "it can be tried on the node alone"})
		return
	case d.secretRef != "" && s.secrets == nil && (parsed == nil || parsed.ClientID == ""):
		d.Steps = append(d.Steps, checkup{Step: "identity", Name: "service principal of the Secret " + d.secretRef, Status: statusSkipped,
			Message: "its Secret is not read: give it with --node-publish-secret-file"})
		return
	}
	found.Namespace = d.Namespace
	c := s.check(ctx, inspector, subject{class: found, origin: "cluster"}, d.pod, time.Now())
	d.Steps = c.Steps
	d.Warnings = append(d.Warnings, c.Warnings...)
	slices.Sort(d.Warnings)
	d.Warnings = slices.Compact(d.Warnings)
}

// conclude finds the one thing to do: the first step that is not ok, else what the driver reported.
func (d *diagnosis) conclude() {
	c := checked{Steps: d.Steps}
	broken := slices.Contains([]string{stateFailing, stateWaiting, stateStale, stateExpired}, d.State)
	step := c.first()
	personal := step != nil && step.Step == "identity" && strings.Contains(step.Message, "serviceaccounts/token") // the person's right, not the Pod's
	switch {
	case step != nil && !personal:
		d.ToDo = step.Message
	case broken && d.Reported != "":
		d.ToDo = "the driver reported: " + d.Reported
		if step == nil && !d.managed && d.secretRef == "" {
			d.ToDo = "every step works from here now, so the next try of the driver may succeed; if not, compare the network of the node " +
				cmp.Or(d.Node, "of the Pod") + " with yours. It reported: " + d.Reported
		}
	case personal:
		d.ToDo = step.Message
	case broken && d.State == stateWaiting:
		d.ToDo = "no event says why: see `kubectl describe pod " + d.Pods[0] + " -n " + d.Namespace + "`, and whether the driver runs on the node " + d.Node
	}
}

// diagnosis prints what is wrong with one volume.
func (p *paper) diagnosis(d *diagnosis, now time.Time, wide bool) {
	who := printable.OneLine(d.Namespace + "/" + d.Pods[0])
	if more := len(d.Pods) - 1; more > 0 {
		who += " and " + count(more, "other Pod")
	}
	since := ""
	if d.Since != nil && !d.Since.IsZero() {
		since = " for " + span(now.Sub(d.Since.Time))
	}
	p.line(p.paint(who, bold), "  ", p.paint(d.State, statusLook(d.State)), since, "  ", p.paint(printable.OneLine(fmt.Sprintf("(class %s, service account %s, node %s)",
		d.Class, d.ServiceAccount, cmp.Or(d.Node, "-"))), faint))
	if d.Reported != "" {
		p.line("  reported: ", printable.OneLine(d.Reported))
	}
	var rows [][]cell
	var notes [][]string
	for _, s := range d.Steps {
		rows = append(rows, []cell{{text: "  " + s.Status, style: statusStyle(s.Status)}, {text: s.Step}, {text: s.Name}})
		var below []string
		if s.Status != statusOK || wide {
			below = stepNotes(s, wide || s.Status != statusOK)
		}
		notes = append(notes, below)
	}
	p.tableWithNotes(rows, notes)
	for _, w := range d.Warnings {
		p.line("  ", p.paint("warning", yellow), "  ", printable.OneLine(w))
	}
	if d.ToDo != "" {
		p.line("  ", p.paint("to do", bold), ": ", p.paint(printable.OneLine(d.ToDo), red))
	} else {
		p.line("  ", p.paint("nothing to do", green))
	}
}

func printDiagnoses(p *paper, all []*diagnosis, healthy, left int, now time.Time, wide bool) error {
	for i, d := range all {
		if i > 0 {
			p.line()
		}
		p.diagnosis(d, now, wide)
	}
	if len(all) > 0 {
		p.line()
	}
	summary := fmt.Sprintf("%s to look at, %s well", count(len(all)+left, "volume"), count(healthy, "volume"))
	if len(all) == 0 {
		summary = "nothing is broken: " + count(healthy, "volume") + " well"
	}
	if left > 0 {
		summary += fmt.Sprintf("; the first %d were checked: narrow it with -n, --workload or --pod", mostDiagnoses)
	}
	p.line(summary)
	if p.err != nil {
		return fmt.Errorf("output: %w", p.err)
	}
	return nil
}

func statusLook(state string) style {
	switch state {
	case stateFresh:
		return green
	case stateFailing, stateExpired:
		return red
	}
	return yellow
}
