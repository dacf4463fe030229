package cli

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

// The bounds of an archive.
const (
	mostBundledClasses = 2000
	mostBundledPods    = 5000
	mostBundledEvents  = 5000
	mostBundledLogs    = 10
	bundledLines       = 2000
	bundledLog         = 2 << 20
)

// supportFlags are the flags of `keyvault-csi support-bundle`.
type supportFlags struct {
	clusterFlags

	file     string
	output   string
	selector string
	// programs is the namespace of the driver and the controller.
	programs string
	timeout  time.Duration
}

func newSupportCommand(build version.Build) *cobra.Command {
	f := supportFlags{clusterFlags: clusterFlags{build: build}}
	c := &cobra.Command{
		Use:   "support-bundle",
		Short: "Write one archive for a bug report, without secrets",
		Long: `support-bundle writes a tar.gz with what a bug report needs, and prints what is in it: versions, the settings and
logs of the driver and the controller, classes, the Pods that mount them, their status objects and warnings.
It reads what you may read, and lists what it could not.

It reads no Secret and no value of a vault. Everything that could be a secret is left out: values of
environment variables, of unknown parameters, annotations, tags and templates, and what looks like a key, a token or a
password in texts. GUIDs are replaced by names that are the same within one archive. Names of namespaces, Pods, classes,
vaults and objects stay: look at the archive before you publish it.`,
		Example: `  keyvault-csi support-bundle
  keyvault-csi support-bundle -n shop --file shop.tar.gz
  tar -tzf shop.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unusable{err} })
	flags := c.Flags()
	flags.StringVar(&f.file, "file", "", "archive `file` to write, - for standard output; empty: keyvault-csi-support-TIME.tar.gz")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "classes and Pods of a `namespace`; empty: of the whole cluster")
	flags.StringVar(&f.driverName, "driver-name", volume.DriverName, "`name` of the CSI driver")
	flags.StringVar(&f.selector, "selector", "app.kubernetes.io/name in (keyvault-csi,keyvault-csi-controller)", "label `selector` of the Pods of the driver and the controller")
	flags.StringVar(&f.programs, "driver-namespace", "",
		"`namespace` of the driver and the controller; empty: that of the CSIDriver object's Helm release, or "+defaultNamespace)
	flags.DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long to read")
	flags.StringVarP(&f.output, "output", "o", tableOutput, "`format` of the list of what is in the archive: table, wide, json or yaml")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty: as kubectl finds it")
	flags.StringVar(&f.context, "context", "", "the kubeconfig's `context`; empty: the current one")
	CompleteFlag(c, "output", formats()...)
	completeFrom(c, "context", func(*cobra.Command) ([]string, error) { return f.caller().Contexts() })
	completeNamespaces(c, f.caller)
	completeFrom(c, "driver-namespace", func(cmd *cobra.Command) ([]string, error) { return namespaces(cmd, f.caller) })
	return c
}

// bundled is a file of the archive.
type bundled struct {
	File string `json:"file"`
	Size int    `json:"size"`
	What string `json:"what"`
	// Error is why there is nothing, or not all.
	Error string `json:"error,omitempty"`

	data []byte
}

// bundle is the content of an archive.
type bundle struct {
	cluster    *kube.Caller
	namespace  string
	driverName string
	redact     *redactor
	files      []bundled
}

func (f *supportFlags) run(cmd *cobra.Command) error {
	wrong := checkOutput(f.output, formats()...)
	if f.timeout <= 0 {
		wrong = errors.Join(wrong, fmt.Errorf("--timeout %s is not positive: write one such as 2m", f.timeout))
	}
	if wrong != nil {
		return unusable{wrong}
	}
	cluster, err := kube.NewCaller(f.caller())
	if err != nil {
		return unusable{err}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	b := &bundle{cluster: cluster, namespace: f.namespace, driverName: f.driverName, redact: newRedactor()}
	waiting := newProgress(cmd.ErrOrStderr())
	defer waiting.end()
	version, err := cluster.ServerVersion(ctx)
	if err != nil {
		return unusable{fmt.Errorf("nothing can be read: %w", err)}
	}
	waiting.begin("reading the programs and their logs")
	b.add("version.json", "versions of the tool and of the API server", map[string]any{"tool": f.build, "kubernetes": version}, nil)
	b.programs(ctx, cmp.Or(f.programs, b.csiDriver(ctx), defaultNamespace), f.selector)
	waiting.begin("reading classes, Pods and events")
	b.classes(ctx)
	b.pods(ctx)
	b.status(ctx, &f.clusterFlags)
	waiting.end()
	return f.write(cmd, b)
}

// write writes the archive, and lists what is in it.
func (f *supportFlags) write(cmd *cobra.Command, b *bundle) error {
	now := time.Now()
	list := cmd.OutOrStdout()
	to, name, closing := cmd.OutOrStdout(), f.file, func() error { return nil }
	if f.file == "-" {
		list = cmd.ErrOrStderr()
	} else {
		name = cmp.Or(f.file, "keyvault-csi-support-"+now.UTC().Format("20060102-150405")+".tar.gz")
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the person's choice
		if errors.Is(err, os.ErrExist) {
			return unusable{fmt.Errorf("--file: %s exists: name another file, or remove it", name)}
		}
		if err != nil {
			return unusable{fmt.Errorf("--file: %w", fileError(name, err))}
		}
		to, closing = file, file.Close
	}
	if err := errors.Join(b.archive(to, now), closing()); err != nil { // a full disk may be known at the end alone
		return unusable{fmt.Errorf("--file: %s: %w", name, err)}
	}
	if !isTable(f.output) {
		return printValue(list, f.output, b.files)
	}
	p := newPaper(list)
	rows, notes := [][]cell{headings("FILE", "BYTES", "WHAT")}, [][]string{nil}
	for _, one := range b.files {
		rows = append(rows, []cell{{text: one.File}, {text: fmt.Sprint(one.Size), right: true}, {text: one.What}})
		var below []string
		if one.Error != "" {
			below = []string{p.paint(one.Error, yellow)}
		}
		notes = append(notes, below)
	}
	p.tableWithNotes(rows, notes)
	if f.file != "-" {
		p.line()
		p.line("written to ", p.paint(name, bold), ": look at it before you publish it")
	}
	if p.err != nil {
		return fmt.Errorf("output: %w", p.err)
	}
	return nil
}

// archive writes the files as a tar.gz, with their list.
func (b *bundle) archive(w io.Writer, now time.Time) error {
	slices.SortFunc(b.files, func(x, y bundled) int { return cmp.Compare(x.File, y.File) })
	list, err := json.MarshalIndent(b.files, "", "  ")
	if err != nil {
		return err //nolint:wrapcheck // the caller does
	}
	packed := gzip.NewWriter(w)
	t := tar.NewWriter(packed)
	for _, one := range append([]bundled{{File: "contents.json", data: list}}, b.files...) {
		header := &tar.Header{Name: "keyvault-csi-support/" + one.File, Mode: 0o600, Size: int64(len(one.data)), ModTime: now, Typeflag: tar.TypeReg}
		if err := t.WriteHeader(header); err != nil {
			return err //nolint:wrapcheck // the caller does
		}
		if _, err := t.Write(one.data); err != nil {
			return err //nolint:wrapcheck // the caller does
		}
	}
	return errors.Join(t.Close(), packed.Close())
}

// add adds a value as JSON; what is in its texts is redacted by the caller.
func (b *bundle) add(file, what string, value any, err error) {
	text, failed := json.MarshalIndent(value, "", "  ")
	b.addText(file, what, text, errors.Join(err, failed))
}

func (b *bundle) addText(file, what string, text []byte, err error) {
	one := bundled{File: file, What: what, Size: len(text), data: text}
	if err != nil {
		one.Error = b.redact.text(err.Error())
	}
	b.files = append(b.files, one)
}

// defaultNamespace is where the driver is installed as the documentation says.
const defaultNamespace = "kube-system"

// programs adds the Pods of the driver and the controller, and the logs of some: of those that are not ready or have restarted first. Only Pods of one
// namespace count, which tenants cannot choose: anybody may give a Pod of their own the label.
func (b *bundle) programs(ctx context.Context, namespace, selector string) {
	all := []kube.ProgramPod{}
	err := b.cluster.ProgramPods(ctx, namespace, selector, func(p kube.ProgramPod) {
		if len(all) >= mostBundledPods {
			return
		}
		for i := range p.Containers {
			c := &p.Containers[i]
			for j, arg := range c.Args {
				c.Args[j] = b.argument(arg)
			}
		}
		all = append(all, p)
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("the namespace %s has no Pod with %s: set --driver-namespace or --selector", namespace, selector)
	}
	b.add("programs.json", "Pods of the driver and the controller in "+namespace+" with their arguments, without environment", all, err)
	trouble := func(p kube.ProgramPod) int {
		n := 0
		for _, c := range p.Containers {
			n += c.Restarts
			if !c.Ready {
				n += 1000
			}
		}
		return n
	}
	slices.SortStableFunc(all, func(x, y kube.ProgramPod) int { return trouble(y) - trouble(x) })
	for _, p := range all[:min(len(all), mostBundledLogs)] {
		for _, c := range p.Containers {
			b.log(ctx, p, c, false)
			if c.Restarts > 0 {
				b.log(ctx, p, c, true)
			}
		}
	}
}

func (b *bundle) log(ctx context.Context, p kube.ProgramPod, c kube.ProgramInstance, previous bool) {
	name, what := fmt.Sprintf("logs/%s/%s.log", p.Name, c.Name), "the end of the log"
	if previous {
		name, what = fmt.Sprintf("logs/%s/%s.previous.log", p.Name, c.Name), "the end of the log before the restart"
	}
	text, err := b.cluster.Log(ctx, p.Namespace, p.Name, c.Name, previous, bundledLines, bundledLog)
	b.addText(name, what, []byte(b.redact.text(string(text))), err)
}

// argument is an argument of a program. The value of a flag whose name says that it is secret is left out.
func (b *bundle) argument(arg string) string {
	name, _, ok := strings.Cut(arg, "=")
	for _, word := range []string{"secret", "token", "password", "key", "credential"} {
		if ok && strings.Contains(strings.ToLower(name), word) && !strings.Contains(name, "sync-secrets") {
			return name + "=" + redacted
		}
	}
	return b.redact.text(arg)
}

// csiDriver adds the CSIDriver object, and returns the namespace of its release.
func (b *bundle) csiDriver(ctx context.Context) string {
	spec, namespace, err := b.cluster.CSIDriver(ctx, b.driverName)
	b.add("csidriver.json", "the spec of the CSIDriver object", spec, err)
	return namespace
}

// bundledClass is a class without what its author may have written by mistake.
type bundledClass struct {
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name"`
	Generation int64             `json:"generation"`
	Provider   string            `json:"provider"`
	Parameters map[string]string `json:"parameters"`
	Objects    []bundledObject   `json:"objects"`
	// Secrets are the names of secretObjects with their types and keys.
	Secrets []v1.SecretObject `json:"secretObjects"`
	// Findings are those of validate: the fields and the rules alone, since messages quote values.
	Findings []string `json:"findings"`
}

type bundledObject struct {
	Vault, Kind, Name, Path, Version string
	History                          int  `json:",omitempty"`
	Selected                         bool `json:",omitempty"`
	Optional                         bool `json:",omitempty"`
	Fields                           int  `json:",omitempty"`
	Mode                             string
}

func (b *bundle) classes(ctx context.Context) {
	all := []bundledClass{}
	clouds, err := cloud.NewResolver("AzurePublicCloud", "")
	if err == nil {
		options := class.Options{Clouds: clouds}
		err = b.cluster.EachClass(ctx, b.namespace, func(c *v1.SecretProviderClass) error {
			if len(all) >= mostBundledClasses {
				return fmt.Errorf("only the first %d classes are in the archive: name a namespace with -n", mostBundledClasses)
			}
			all = append(all, b.class(ctx, c, options))
			return nil
		})
	}
	b.add("classes.json", "classes, without values of unknown parameters, annotations, tags, expressions and templates", all, err)
}

func (b *bundle) class(ctx context.Context, c *v1.SecretProviderClass, options class.Options) bundledClass {
	one := bundledClass{
		Namespace: c.Namespace, Name: c.Name, Generation: c.Generation, Provider: b.redact.text(c.Spec.Provider), Parameters: b.parameters(c.Spec.Parameters),
		Objects: []bundledObject{}, Secrets: []v1.SecretObject{}, Findings: []string{},
	}
	if !class.Served(c.Spec.Provider) {
		for name := range one.Parameters {
			one.Parameters[name] = redacted
		}
		return one
	}
	for _, s := range c.Spec.SecretObjects {
		one.Secrets = append(one.Secrets, v1.SecretObject{SecretName: s.SecretName, Type: s.Type, Data: s.Data})
	}
	if parsed, _, _ := class.Parse(c.Spec.Parameters, options); parsed != nil {
		for i := range parsed.Objects {
			o := &parsed.Objects[i]
			object := bundledObject{
				Vault: o.VaultURL, Kind: string(o.Kind), Name: o.Name, Path: o.Path, Version: o.Version, History: o.History, Selected: o.Selector != nil,
				Optional: o.Optional, Mode: fmt.Sprintf("%04o", o.Mode),
			}
			if o.Extract != nil {
				object.Fields = len(o.Extract.Entries)
			}
			one.Objects = append(one.Objects, object)
		}
	}
	set := classfile.NewSet(options, classfile.Rules{Lint: true, Annotations: true})
	if addLive(c.DeepCopy(), set) == nil {
		for _, f := range set.Finish(ctx, nil) {
			one.Findings = append(one.Findings, b.redact.text(fmt.Sprintf("%s: %s: %s", f.Severity, f.Rule, f.Field)))
		}
	}
	return one
}

// parameters are those of a class or the attributes of a Pod: values of those whose values are names, ids, times and switches, and are valid.
func (b *bundle) parameters(all map[string]string) map[string]string {
	known, invalid := map[string]string{}, map[string]bool{}
	if clouds, err := cloud.NewResolver("AzurePublicCloud", ""); err == nil {
		_, mistakes, _ := class.Parse(all, class.Options{Clouds: clouds})
		for _, m := range mistakes {
			invalid[m.Parameter] = true
		}
	}
	for name, value := range all {
		switch {
		case !slices.Contains(class.Parameters(), name):
			known[b.redact.text(name)] = redacted
		case invalid[name] && value != "":
			known[name] = "[invalid]"
		case value != "" && slices.Contains([]string{"tenantID", "tenantId", "clientID", "userAssignedIdentityID", "userAssignedIdentityObjectID"}, name):
			known[name] = b.redact.alias(value)
		case name == "objects" || name == "templates":
			known[name] = fmt.Sprintf("[%d bytes]", len(value))
		default:
			known[name] = b.redact.text(value)
		}
	}
	return known
}

// bundledPod is a Pod with volumes of the driver.
type bundledPod struct {
	Namespace      string      `json:"namespace"`
	Name           string      `json:"name"`
	Node           string      `json:"node"`
	Phase          string      `json:"phase"`
	ServiceAccount string      `json:"serviceAccount"`
	Created        metav1.Time `json:"created"`
	// Volumes are the classes with the volumes' attributes.
	Volumes []bundledVolume `json:"volumes"`
}

type bundledVolume struct {
	Name       string            `json:"name"`
	Class      string            `json:"class"`
	Attributes map[string]string `json:"attributes"`
	SecretRef  bool              `json:"nodePublishSecretRef"`
}

// pods adds Pods and what the driver and kubelet say about their volumes. Events about anything else, such as probes, may quote a program.
func (b *bundle) pods(ctx context.Context) {
	all, volumes := []bundledPod{}, map[types.UID][]string{}
	err := b.cluster.Pods(ctx, b.namespace, "", b.driverName, func(p kube.MountingPod) {
		if len(all) >= mostBundledPods {
			return
		}
		one := bundledPod{Namespace: p.Namespace, Name: p.Name, Node: p.Node, Phase: p.Phase, ServiceAccount: p.ServiceAccount, Created: p.Created}
		for _, v := range p.Volumes {
			one.Volumes = append(one.Volumes, bundledVolume{Name: v.Name, Class: v.Class, Attributes: b.parameters(v.Attributes), SecretRef: v.SecretRef != ""})
			volumes[p.UID] = append(volumes[p.UID], v.Name)
		}
		all = append(all, one)
	})
	b.add("pods.json", "Pods with a volume of the driver: names, nodes, service accounts", all, err)
	events := []kube.PodEvent{}
	err = b.cluster.PodEvents(ctx, b.namespace, func(e kube.PodEvent) {
		about := e.Source == b.driverName
		for _, name := range volumes[e.UID] {
			about = about || e.Reason == "FailedMount" && strings.Contains(e.Message, `"`+name+`"`)
		}
		if about && len(events) < mostBundledEvents {
			e.Message = b.redact.text(e.Message)
			events = append(events, e)
		}
	})
	b.add("events.json", "warnings of the driver, and of kubelet about its volumes", events, err)
}

// status adds what status objects and SecretSyncs say.
func (b *bundle) status(ctx context.Context, f *clusterFlags) {
	f.allNamespaces = f.namespace == ""
	s, err := f.read(ctx, b.cluster, 0)
	if s == nil {
		s = &ClusterStatus{Volumes: []ClusterVolume{}, SecretSyncs: []ClusterSecretSync{}}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		v.Message = b.redact.text(v.Message)
		if v.State == stateWaiting {
			v.Message = "" // events.json has those that are about the volume
		}
	}
	for i := range s.SecretSyncs {
		s.SecretSyncs[i].Message = b.redact.text(s.SecretSyncs[i].Message)
	}
	b.add("status.json", "states of volumes and SecretSyncs, from their status", s, err)
}
