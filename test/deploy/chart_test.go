//go:build integration

package deploy

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	k8syaml "sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

const root = "../.."

// helm returns the output and the error output of a run, and whether it failed.
func helm(t *testing.T, args ...string) (out, problems string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(t.Context(), binaries.Helm(t), args...) //nolint:gosec // a tool of the project
	c.Dir, c.Stdout, c.Stderr = root, &stdout, &stderr
	err = c.Run()
	return stdout.String(), stderr.String(), err
}

const newest = "1.37.0"

// render returns the objects that an installation makes, each decoded strictly.
func render(t *testing.T, version string, args ...string) []runtime.Object {
	t.Helper()
	return renderAs(t, "keyvault-csi", version, args...)
}

func renderAs(t *testing.T, release, version string, args ...string) []runtime.Object {
	t.Helper()
	out, problems, err := helm(t, append([]string{"template", release, "deploy/chart", "--namespace", "kube-system", "--kube-version", version}, args...)...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, problems)
	}
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(out)))
	var objects []runtime.Object
	for {
		document := make([]byte, 1<<20)
		n, err := documents.Read(document)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		document = document[:n]
		if strings.TrimSpace(strings.TrimPrefix(string(document), "---")) == "" {
			continue
		}
		var object unstructured.Unstructured
		if err := k8syaml.UnmarshalStrict(document, &object.Object); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if len(object.Object) == 0 {
			continue
		}
		switch object.GroupVersionKind().Group {
		case "apiextensions.k8s.io", "monitoring.coreos.com": // kinds that client-go does not know
			objects = append(objects, &object)
			continue
		}
		decoded, _, err := strict.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		objects = append(objects, decoded)
	}
}

// only returns the one object of a type.
func only[T runtime.Object](t *testing.T, objects []runtime.Object) T {
	t.Helper()
	var found []T
	for _, o := range objects {
		if typed, ok := o.(T); ok {
			found = append(found, typed)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of type %T", len(found), found)
	}
	return found[0]
}

// everything switches all options on.
var everything = []string{"--set", strings.Join([]string{
	"syncSecret.enabled=true", "syncSecret.namespaces={a,b}", "serviceAccountAnnotations.enabled=true", "rbac.ownerReferences=true",
	"emulator.enabled=true", "emulator.clusterIP=10.96.0.77", "networkPolicy.enabled=true", "podMonitor.enabled=true", "serviceMonitor.enabled=true",
	"podMonitor.interval=30s", "serviceMonitor.labels.release=prometheus", "openshift.scc=privileged", "linux.hostNetwork=true",
	"linux.metricsAddr=127.0.0.1:9095", "logFormatJSON=true", "imagePullSecrets[0].name=pull", "commonLabels.team=platform",
	"linux.podLabels.a=b", "linux.podAnnotations.c=d", "linux.daemonsetAnnotations.e=f", "linux.crds.annotations.g=h",
	"serviceAccount.annotations.i=j", "linux.env[0].name=X", "linux.env[0].value=y", "linux.volumes[0].name=v", "linux.volumes[0].emptyDir.medium=Memory",
	"linux.volumeMounts[0].name=v", "linux.volumeMounts[0].mountPath=/v", "linux.driver.extraArgs={--v=2}", "allowedVaultHosts={.example.com}",
	"cloudConfig.configMap=clouds", "auditLog=-", "otlpEndpoint=http://collector.observability:4318", "tokenProxy.url=https://proxy.example:443", "tokenProxy.sni=proxy.example", "linux.driver.resources.limits.memory=1Gi",
}, ",")}

func TestLint(t *testing.T) {
	if out, problems, err := helm(t, "lint", "--strict", "--kube-version", newest, "deploy/chart"); err != nil {
		t.Errorf("%v\n%s%s", err, out, problems)
	}
}

func TestEveryVersionOfKubernetes(t *testing.T) {
	for version, secrets := range map[string]bool{"1.32.0": false, "1.32.13-eks-1": false, "1.34.1-gke.5": false, "1.35.0": true, newest: true} {
		for name, args := range map[string][]string{"as it is": nil, "everything": everything} {
			t.Run(version+" "+name, func(t *testing.T) {
				driver := only[*storagev1.CSIDriver](t, render(t, version, args...))
				if got := driver.Spec.ServiceAccountTokenInSecrets; (got != nil && *got) != secrets {
					t.Errorf("tokens in secrets: %v", got)
				}
			})
		}
	}
	if _, problems, err := helm(t, "template", "x", "deploy/chart", "--kube-version", "1.31.9"); err == nil || !strings.Contains(problems, "kubeVersion") {
		t.Errorf("an old version: %v, %s", err, problems)
	}
}

func TestCSIDriver(t *testing.T) {
	d := only[*storagev1.CSIDriver](t, render(t, newest))
	s := d.Spec
	if d.Name != "secrets-store.csi.k8s.io" || *s.AttachRequired || !*s.PodInfoOnMount || !*s.RequiresRepublish ||
		*s.FSGroupPolicy != storagev1.FileFSGroupPolicy || !slices.Equal(s.VolumeLifecycleModes, []storagev1.VolumeLifecycleMode{"Ephemeral"}) {
		t.Errorf("%+v", d)
	}
	if len(s.TokenRequests) != 2 || s.TokenRequests[0].Audience != "api://AzureADTokenExchange" || s.TokenRequests[1].Audience != "api://AKSIdentityBinding" {
		t.Errorf("%v", s.TokenRequests)
	}
	if d.Labels["security.kubernetes.io/csi-ephemeral-volume-profile"] != "restricted" {
		t.Errorf("labels %v", d.Labels)
	}
	// the API server refuses the one without the other
	bare := only[*storagev1.CSIDriver](t, render(t, newest, "--set", "tokenRequests=null", "--set-json", "tokenRequests=[]"))
	if bare.Spec.ServiceAccountTokenInSecrets != nil {
		t.Error("tokens in secrets, and no token is asked for")
	}
	for _, o := range render(t, newest, "--set", "csiDriver.create=false") {
		if _, ok := o.(*storagev1.CSIDriver); ok {
			t.Error("a CSIDriver that is not to be created")
		}
	}
}

func TestUninstallingKeepsClassesAndTheirKinds(t *testing.T) {
	kept := 0
	for _, o := range render(t, newest) {
		accessor := o.(interface {
			GetName() string
			GetAnnotations() map[string]string
		})
		kind := o.GetObjectKind().GroupVersionKind().Kind
		if kind == "CustomResourceDefinition" || kind == "CSIDriver" {
			kept++
			if accessor.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s %s goes with the release", kind, accessor.GetName())
			}
		}
	}
	if kept != 3 {
		t.Errorf("%d objects to keep", kept)
	}
}

func TestDaemonSet(t *testing.T) {
	d := only[*appsv1.DaemonSet](t, render(t, newest))
	pod := d.Spec.Template.Spec
	if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 || pod.HostNetwork || pod.HostPID {
		t.Errorf("%+v", pod)
	}
	c := pod.Containers[0]
	if !*c.SecurityContext.ReadOnlyRootFilesystem || c.Resources.Limits != nil || c.Resources.Requests.Memory().IsZero() {
		t.Errorf("%+v", c)
	}
	if pod.PriorityClassName != "system-node-critical" || pod.Tolerations[0].Operator != corev1.TolerationOpExists ||
		d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String() != "10%" || d.Spec.UpdateStrategy.RollingUpdate.MaxSurge.String() != "0" {
		t.Errorf("%+v", d.Spec)
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if probe.HTTPGet.Port.String() != "metrics" || probe.HTTPGet.Host != "" {
			t.Errorf("%+v", probe)
		}
	}
	for _, m := range c.VolumeMounts {
		if (m.MountPropagation != nil) != (m.MountPath == "/var/lib/kubelet/pods") {
			t.Errorf("%+v", m)
		}
	}
	other := only[*appsv1.DaemonSet](t, render(t, newest, everything...)).Spec.Template.Spec
	if probe := other.Containers[0].LivenessProbe.HTTPGet; probe.Host != "127.0.0.1" || other.Containers[0].Ports[0].ContainerPort != 9095 {
		t.Errorf("on the host's network: %+v", probe)
	}
	if other.DNSPolicy != corev1.DNSClusterFirstWithHostNet {
		t.Errorf("DNS policy %s", other.DNSPolicy)
	}
}

// Where the controller writes the Secrets of Pods, the driver of the nodes has no right on Secrets and Pods, and does not try.
func TestSecretsByTheController(t *testing.T) {
	const by = "syncSecret.enabled=true,controller.enabled=true,syncSecret.by="
	for _, tc := range []struct {
		values             string
		node, controller   bool // who writes
		bindings, clusters int  // of the controller's role for Pods
	}{
		{"controller.enabled=true", false, false, 0, 0},
		{by + "nodes", true, false, 0, 0},
		{by + "controller,linux.driver.extraArgs={--sync-secrets}", false, true, 0, 1},
		{by + "controller,controller.namespaces={a,b}", false, true, 2, 0},
	} {
		objects := render(t, newest, "--set", tc.values)
		args := only[*appsv1.DaemonSet](t, objects).Spec.Template.Spec.Containers[0].Args
		last := ""
		for _, arg := range args {
			if strings.HasPrefix(arg, "--sync-secrets") {
				last = arg
			}
		}
		if (last == "--sync-secrets") != tc.node || tc.controller && args[len(args)-1] != "--sync-secrets=false" {
			t.Errorf("%s: the driver runs with %q", tc.values, args)
		}
		var writes, reads []string
		bindings, clusters := 0, 0
		for _, o := range objects {
			switch o := o.(type) {
			case *rbacv1.ClusterRole:
				for _, rule := range o.Rules {
					if slices.Contains(rule.Resources, "secrets") {
						writes = append(writes, o.Name)
					}
					if slices.Contains(rule.Resources, "pods") {
						reads = append(reads, o.Name+" "+strings.Join(rule.Verbs, ","))
					}
				}
			case *rbacv1.RoleBinding:
				if o.RoleRef.Name == "keyvault-csi-controller-podsecrets" {
					bindings++
				}
			case *rbacv1.ClusterRoleBinding:
				if o.RoleRef.Name == "keyvault-csi-controller-podsecrets" {
					clusters++
				}
			}
		}
		want := []string{"keyvault-csi-controller"}
		var pods []string
		switch {
		case tc.node:
			want, pods = append(want, "keyvault-csi-sync"), []string{"keyvault-csi-sync get"}
		case tc.controller:
			pods = []string{"keyvault-csi-controller-podsecrets get"}
		}
		if slices.Sort(writes); !slices.Equal(writes, want) || !slices.Equal(reads, pods) {
			t.Errorf("%s: Secrets are written by %v, Pods read by %v", tc.values, writes, reads)
		}
		if bindings != tc.bindings || clusters != tc.clusters {
			t.Errorf("%s: %d RoleBindings, %d ClusterRoleBindings", tc.values, bindings, clusters)
		}
		if d := only[*appsv1.Deployment](t, objects).Spec.Template.Spec.Containers[0]; slices.Contains(d.Args, "--pod-secrets") != tc.controller {
			t.Errorf("%s: the controller runs with %q", tc.values, d.Args)
		}
	}
}

// TestTheControllersPods: where the controller's Pods run, and what they have, follows the values; what the Deployment selects by does not.
func TestTheControllersPods(t *testing.T) {
	plain := only[*appsv1.Deployment](t, render(t, newest, "--set", "controller.enabled=true"))
	selector := plain.Spec.Selector.MatchLabels
	spread := plain.Spec.Template.Spec.TopologySpreadConstraints
	if len(spread) != 1 || spread[0].WhenUnsatisfiable != corev1.ScheduleAnyway || !maps.Equal(spread[0].LabelSelector.MatchLabels, selector) {
		t.Errorf("spread by default: %+v", spread)
	}
	if plain.Spec.Template.Spec.PriorityClassName != "system-cluster-critical" || plain.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		t.Errorf("by default: priority class %q, strategy %+v", plain.Spec.Template.Spec.PriorityClassName, plain.Spec.Strategy)
	}

	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(`
proxy: {https: "http://p:3128"}
linux: {env: [{name: HTTPS_PROXY, value: "http://of-the-nodes:3128"}]}
controller:
  enabled: true
  priorityClassName: ""
  updateStrategy: {type: Recreate}
  deploymentAnnotations: {reloader: "off"}
  podAnnotations: {mesh: "off"}
  podLabels: {team: platform, app.kubernetes.io/name: another}
  env: [{name: NO_PROXY, value: .corp}]
  nodeSelector: {pool: system}
  tolerations: [{key: system, operator: Exists}]
  affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: zone}}]}}
  topologySpreadConstraints:
    - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
    - {maxSkew: 2, topologyKey: rack, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {own: selector}}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	d := only[*appsv1.Deployment](t, render(t, newest, "-f", values))
	pod := d.Spec.Template.Spec
	if !maps.Equal(d.Spec.Selector.MatchLabels, selector) || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || d.Annotations["reloader"] != "off" {
		t.Errorf("selector %v, strategy %+v, annotations %v", d.Spec.Selector.MatchLabels, d.Spec.Strategy, d.Annotations)
	}
	labels := d.Spec.Template.Labels
	for key, value := range selector {
		if labels[key] != value {
			t.Errorf("label %s is %q: the Deployment would not find its Pods", key, labels[key])
		}
	}
	if labels["team"] != "platform" || d.Spec.Template.Annotations["mesh"] != "off" {
		t.Errorf("labels %v, annotations %v", labels, d.Spec.Template.Annotations)
	}
	if pod.PriorityClassName != "" || pod.NodeSelector["pool"] != "system" || len(pod.Tolerations) != 1 || pod.Affinity.PodAntiAffinity == nil {
		t.Errorf("%+v", pod)
	}
	spread = pod.TopologySpreadConstraints
	if len(spread) != 2 || !maps.Equal(spread[0].LabelSelector.MatchLabels, selector) ||
		!maps.Equal(spread[1].LabelSelector.MatchLabels, map[string]string{"own": "selector"}) {
		t.Errorf("spread: %+v", spread)
	}
	env := map[string]string{}
	for _, v := range pod.Containers[0].Env {
		env[v.Name] += v.Value
	}
	if want := map[string]string{"HTTPS_PROXY": "http://p:3128", "NO_PROXY": ".corp"}; !maps.Equal(env, want) {
		t.Errorf("environment %v, not %v", env, want)
	}
}

// What the Deployment of the controller passes, the binary takes.
func TestTheControllerKnowsItsArguments(t *testing.T) {
	objects := render(t, newest, "--set", "syncSecret.enabled=true,controller.enabled=true,syncSecret.by=controller,syncSecret.types={x.io/y}")
	c := only[*appsv1.Deployment](t, objects).Spec.Template.Spec.Containers[0]
	run := exec.CommandContext(t.Context(), binaries.Controller(t), append(c.Args, "--help")...) //nolint:gosec // the project's own
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", c.Args, err, out)
	}
}

// What the DaemonSet passes, the binary takes.
func TestTheDriverKnowsItsArguments(t *testing.T) {
	for name, args := range map[string][]string{"as it is": nil, "everything": everything} {
		c := only[*appsv1.DaemonSet](t, render(t, newest, args...)).Spec.Template.Spec.Containers[0]
		run := exec.CommandContext(t.Context(), binaries.Driver(t), append(c.Args, "--help")...) //nolint:gosec // the project's own
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %v\n%s", name, c.Args, err, out)
		}
	}
}

func TestProxies(t *testing.T) {
	const api = "$(KUBERNETES_SERVICE_HOST),kubernetes.default,.svc,.cluster.local"
	for name, tc := range map[string]struct {
		args []string
		want map[string]string
	}{
		"none":  {nil, map[string]string{}},
		"HTTPS": {[]string{"proxy.https=http://p:3128", "proxy.none={.corp,10.0.0.0/8}"}, map[string]string{"HTTPS_PROXY": "http://p:3128", "NO_PROXY": api + ",169.254.169.254,.corp,10.0.0.0/8"}},
		"traces": {[]string{"emulator.enabled=true", "otlpEndpoint=http://collector:4318"}, map[string]string{
			"HTTPS_PROXY": "http://keyvault-csi-emulator.kube-system.svc:8200", "HTTP_PROXY": "http://keyvault-csi-emulator.kube-system.svc:8200",
			"NO_PROXY": api + ",collector",
		}},
		"own":      {[]string{"linux.env[0].name=HTTP_PROXY", "linux.env[0].value=http://q"}, map[string]string{"HTTP_PROXY": "http://q", "NO_PROXY": api + ",169.254.169.254"}},
		"own none": {[]string{"proxy.http=http://p:3128", "linux.env[0].name=NO_PROXY", "linux.env[0].value=x"}, map[string]string{"HTTP_PROXY": "http://p:3128", "NO_PROXY": "x"}},
		"emulator": {[]string{"emulator.enabled=true"}, map[string]string{
			"HTTPS_PROXY": "http://keyvault-csi-emulator.kube-system.svc:8200", "HTTP_PROXY": "http://keyvault-csi-emulator.kube-system.svc:8200", "NO_PROXY": api,
		}},
	} {
		var args []string
		for _, a := range tc.args {
			args = append(args, "--set", strings.ReplaceAll(a, ",", `\,`))
		}
		if name == "HTTPS" {
			args[len(args)-1] = tc.args[1]
		}
		got := map[string]string{}
		for _, v := range only[*appsv1.DaemonSet](t, render(t, newest, args...)).Spec.Template.Spec.Containers[0].Env {
			if strings.HasSuffix(v.Name, "_PROXY") {
				if _, twice := got[v.Name]; twice {
					t.Errorf("%s: %s twice", name, v.Name)
				}
				got[v.Name] = v.Value
			}
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: %v", name, got)
		}
		for variable, value := range tc.want {
			if got[variable] != value {
				t.Errorf("%s: %s is %q, not %q", name, variable, got[variable], value)
			}
		}
	}
}

// The node's identity: flags of the driver, and the permission to get namespaces only where labels decide.
func TestTheNodesIdentity(t *testing.T) {
	for name, tc := range map[string]struct {
		values []string
		flags  []string
		reads  bool
	}{
		"default": {},
		"none":    {[]string{"nodeIdentity.allowed=none"}, []string{"--node-identity=none"}, false},
		"names": {
			[]string{"nodeIdentity.allowed=namespaces", "nodeIdentity.namespaces={a,b}"},
			[]string{"--node-identity=namespaces", "--node-identity-namespaces=a,b"}, false,
		},
		"labels": {
			[]string{
				"nodeIdentity.allowed=namespaces", "nodeIdentity.namespaces.matchLabels.team=a",
				"nodeIdentity.namespaces.matchExpressions[0].key=x.io/tier", "nodeIdentity.namespaces.matchExpressions[0].operator=NotIn",
				"nodeIdentity.namespaces.matchExpressions[0].values={q,r}", "nodeIdentity.namespaces.matchExpressions[1].key=off-limits",
				"nodeIdentity.namespaces.matchExpressions[1].operator=DoesNotExist",
			},
			[]string{"--node-identity=namespaces", "--node-identity-namespace-selector=team=a,x.io/tier notin (q,r),!off-limits"}, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, value := range tc.values {
				args = append(args, "--set", value)
			}
			objects := render(t, newest, args...)
			var flags []string
			for _, arg := range only[*appsv1.DaemonSet](t, objects).Spec.Template.Spec.Containers[0].Args {
				if strings.HasPrefix(arg, "--node-identity") {
					flags = append(flags, arg)
				}
			}
			if !slices.Equal(flags, tc.flags) {
				t.Errorf("flags %q, want %q", flags, tc.flags)
			}
			reads := false
			for _, o := range objects {
				role, ok := o.(*rbacv1.ClusterRole)
				for i := 0; ok && i < len(role.Rules); i++ {
					if rule := role.Rules[i]; slices.Contains(rule.Resources, "namespaces") {
						reads = true
						if !slices.Equal(rule.Verbs, []string{"get"}) {
							t.Errorf("verbs %v", rule.Verbs)
						}
					}
				}
			}
			if reads != tc.reads {
				t.Errorf("the driver may read namespaces: %t", reads)
			}
		})
	}
}

// Two releases in one cluster share no object, no socket, no directory.
func TestTwoDriversSideBySide(t *testing.T) {
	seen := map[string]bool{}
	for release, args := range map[string][]string{
		"keyvault-csi": {"--set", "syncSecret.enabled=true,emulator.enabled=true"},
		"blue":         {"--set", "syncSecret.enabled=true,emulator.enabled=true,driverName=blue.csi.example,linux.crds.enabled=false"},
	} {
		objects := renderAs(t, release, newest, args...)
		for _, o := range objects {
			named := o.(interface {
				GetName() string
				GetNamespace() string
			})
			id := o.GetObjectKind().GroupVersionKind().Kind + " " + named.GetNamespace() + "/" + named.GetName()
			if seen[id] {
				t.Errorf("both have %s", id)
			}
			seen[id] = true
		}
		for _, v := range only[*appsv1.DaemonSet](t, objects).Spec.Template.Spec.Volumes {
			if v.Name == "plugin" {
				if seen[v.HostPath.Path] {
					t.Errorf("both use %s", v.HostPath.Path)
				}
				seen[v.HostPath.Path] = true
			}
		}
	}
}

func TestWrongValuesAreRefusedInWordsThatHelp(t *testing.T) {
	for set, want := range map[string][]string{
		"syncSecrets.enabled=true":                             {"additional properties 'syncSecrets' not allowed"},
		"linux.tolleration=x":                                  {"at '/linux'", "'tolleration' not allowed"},
		"rotationPollInterval=120":                             {"at '/rotationPollInterval'", "want string"},
		"rotationPollInterval=2min":                            {"at '/rotationPollInterval'", "does not match"},
		"linux.kubeletRootDir=var/lib":                         {"at '/linux/kubeletRootDir'"},
		"windows.enabled=true":                                 {"windows.enabled: this driver runs on Linux nodes: leave it out, and keep the old release"},
		"linux.enabled=false":                                  {"linux.enabled: this chart installs nothing but the driver of Linux nodes"},
		"linux.enabled=":                                       {"linux.enabled: this chart installs nothing but the driver of Linux nodes"},
		"image.tag=1":                                          {"image.tag: write linux.image.tag"},
		"rbac.pspEnabled=true":                                 {"rbac.pspEnabled: Kubernetes has no PodSecurityPolicies since 1.25: leave it out"},
		"enableArcExtension=true":                              {"enableArcExtension: this chart is not an extension", "write proxy.https and proxy.none"},
		"cloudConfig.hostPath=/etc/kubernetes/azurestack.json": {"is a file: write its directory, /etc/kubernetes"},
		"cloudConfig.hostPath=etc":                             {"at '/cloudConfig/hostPath'"},
		"cloudConfig.hostPath=/a,cloudConfig.configMap=b":      {"cloudConfig: configMap and hostPath are both set"},
		"cloud=AzurePublic":                                    {"at '/cloud'", "'AzurePublicCloud', 'AzureUSGovernmentCloud', 'AzureChinaCloud'"},
		"cloud=":                                               {"at '/cloud'"},
		"logVerbosity=high":                                    {"at '/logVerbosity'"},
		"driverName=Not_A_Name":                                {"at '/driverName'"},
		"proxy.https=proxy:3128":                               {"at '/proxy/https'"},
		"nodeIdentity.allowed=some":                            {"at '/nodeIdentity/allowed'"},
		"nodeIdentity.allowed=namespaces":                      {"nodeIdentity.namespaces is empty"},
		"nodeIdentity.namespaces={a}":                          {"set nodeIdentity.allowed=namespaces"},
		"controller.events.queueURL=https://a.queue.core.windows.net/q": {"set controller.enabled=true"},
		"controller.enabled=true,controller.events.hook.enabled=true,controller.events.hook.issuer=https://sts.windows.net/t/": {
			"issuer, audience and tlsSecret are needed",
		},
		"controller.enabled=true,controller.events.tenantID=t":                                        {"needs clientID"},
		"controller.enabled=true,controller.events.queueURL=https://a.queue.core.windows.net/q?sig=x": {"at '/controller/events/queueURL'"},
		"linux.metricsAddr=127.0.0.1:8095":                                                            {"write :8095, or set linux.hostNetwork"},
		"syncSecret.by=pods":                                                                          {"at '/syncSecret/by'"},
		"syncSecret.by=controller":                                                                    {"write syncSecret.enabled=true"},
		"syncSecret.by=controller,syncSecret.enabled=true":                                            {"syncSecret.by: controller needs the controller: write controller.enabled=true"},
		"syncSecret.by=controller,syncSecret.enabled=true,controller.enabled=true,syncSecret.namespaces={a}": {
			"syncSecret.namespaces: bounds the nodes", "write the namespaces in controller.namespaces",
		},
		"syncSecret.by=controller,syncSecret.enabled=true,controller.enabled=true,policies.driver=false": {
			"syncSecret.by: without the admission policy of the driver", "write status objects in the name of other nodes",
		},
		"linux.image.repository=r/secrets-store/provider-azure": {"is the image of another driver or provider"},
		"linux.image.repository=r/csi-secrets-store/driver":     {"is the image of another driver or provider"},
		"secrets-store-csi-driver.syncSecret.enabled=true,secrets-store-csi-driver.linux.kubeletRootDir=/x": {
			"secrets-store-csi-driver.syncSecret.enabled: there is no chart below this one: write syncSecret.enabled=true",
			"secrets-store-csi-driver.linux.kubeletRootDir: there is no chart below this one: write linux.kubeletRootDir=/x",
		},
		"secrets-store-csi-driver.tokenRequests[0].audience=aud1,secrets-store-csi-driver.linux.image.tag=v1.6.0,secrets-store-csi-driver.windows.enabled=true": {
			`secrets-store-csi-driver.tokenRequests: there is no chart below this one: write tokenRequests=[{"audience":"aud1"}]`,
			"secrets-store-csi-driver.linux.image.tag: this is the image of another driver: leave it out",
			"secrets-store-csi-driver.windows.enabled: this driver runs on Linux nodes",
		},
	} {
		_, problems, err := helm(t, "template", "x", "deploy/chart", "--kube-version", newest, "--set", set)
		if err == nil {
			t.Errorf("%s is accepted", set)
		}
		for _, text := range want {
			if !strings.Contains(problems, text) {
				t.Errorf("%s: %q is not in: %s", set, text, problems)
			}
		}
	}
}

// oldValues are what pipelines and documents of the Secrets Store CSI Driver and of its Azure provider pass to their charts, as far as it
// asks for nothing that this driver does not do: empty switches among it, whose variable is not set.
var oldValues = []string{
	"windows.enabled=", "windows.enabled=false", "windows.image.pullPolicy=IfNotPresent", "windows.customUserAgent=csi-e2e",
	"windows.nodeSelector.kubernetes\\.io/os=windows", "linux.enabled=true", "linux.image.pullPolicy=IfNotPresent", "linux.image.tag=e2e-1",
	"linux.crds.image.repository=registry/driver-crds", "linux.crds.image.tag=v1", "linux.crds.annotations.myAnnotation=test",
	"linux.customUserAgent=csi-e2e", "linux.podLabels.app=csi-secrets-store-provider-azure", "linux.podAnnotations.foo=bar",
	"linux.priorityClassName=", "linux.nodeSelector=null", "linux.volumes=null", "linux.volumeMounts=null", "linux.privileged=false",
	"linux.additionalProvidersDirs=null", "linux.registrar.logVerbosity=5", "livenessProbe.logLevel=2", "enableSecretRotation=true",
	"enableSecretRotation=", "rotationPollInterval=30s", "rotationPollInterval=", "syncSecret.enabled=true", "syncSecret.enabled=",
	"tokenRequests[0].audience=aud1", "rbac.install=true", "rbac.install=", "rbac.pspEnabled=false", "rbac.pspEnabled=", "logVerbosity=5",
	"logVerbosity=", "logFormatJSON=true", "logFormatJSON=", "writeCertAndKeyInSeparateFiles=true", "writeCertAndKeyInSeparateFiles=",
	"constructPEMChain=true", "constructPEMChain=", "enableArcExtension=false", "enableArcExtension=", "providerHealthCheck=false",
	"providerHealthCheckInterval=2m", "maxCallRecvMsgSize=4194304", "minimumProviderVersions=", "grpcSupportedProviders=azure", "imagePullSecrets=null",
	"secrets-store-csi-driver.install=false", "secrets-store-csi-driver.install=true", "secrets-store-csi-driver.install=",
	"secrets-store-csi-driver.enableSecretRotation=true", "secrets-store-csi-driver.rotationPollInterval=2m", "secrets-store-csi-driver.syncSecret.enabled=false",
	"secrets-store-csi-driver.tokenRequests[0].audience=api://AzureADTokenExchange", "secrets-store-csi-driver.windows.enabled=false",
	"secrets-store-csi-driver.linux.enabled=true", "secrets-store-csi-driver.linux.kubeletRootDir=/var/lib/kubelet",
	"secrets-store-csi-driver.linux.crds.image.tag=v1", "secrets-store-csi-driver.fullnameOverride=secrets-store-csi-driver",
	"secrets-store-csi-driver.linux.image.pullPolicy=IfNotPresent", "secrets-store-csi-driver.linux.image.tag=", "secrets-store-csi-driver.linux.tolerations=null",
	"secrets-store-csi-driver.linux.priorityClassName=", "image.repository=", "logLevel.debug=true", "syncSecret.enabled=true,secrets-store-csi-driver.syncSecret.enabled=true",
}

func TestValuesOfTheOldCharts(t *testing.T) {
	for _, set := range oldValues {
		t.Run(set, func(t *testing.T) {
			c := only[*appsv1.DaemonSet](t, render(t, newest, "--set", set)).Spec.Template.Spec.Containers[0]
			if strings.HasSuffix(set, "=") { // asks for nothing
				if plain := only[*appsv1.DaemonSet](t, render(t, newest)).Spec.Template.Spec.Containers[0]; !slices.Equal(c.Args, plain.Args) {
					t.Errorf("arguments %q", c.Args)
				}
			}
		})
	}
}

// An installation names the values that have no effect.
func TestNotesNameValuesWithoutEffect(t *testing.T) {
	chart := filepath.Join(t.TempDir(), "chart")
	if err := os.CopyFS(chart, os.DirFS(filepath.Join(root, "deploy/chart"))); err != nil {
		t.Fatal(err)
	}
	// helm template leaves the notes out, and an installation wants a cluster
	if err := os.Rename(filepath.Join(chart, "templates/NOTES.txt"), filepath.Join(chart, "templates/notes.yaml")); err != nil {
		t.Fatal(err)
	}
	notes := func(set string) string {
		out, _, _ := helm(t, "template", "x", chart, "--kube-version", newest, "--debug", "--show-only", "templates/notes.yaml", "--set", set)
		return out // text is no YAML, which --debug prints nevertheless
	}
	out := notes("windows.enabled=,secrets-store-csi-driver.install=false,linux.registrar.logVerbosity=5,rbac.pspEnabled=false,livenessProbe.port=9808")
	for _, line := range []string{
		"windows: this driver runs on Linux nodes", "secrets-store-csi-driver: there is no chart below this one", "linux.registrar: the driver registers itself",
		"rbac.pspEnabled: ", "livenessProbe: ",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in:\n%s", line, out)
		}
	}
	if out := notes("linux.podLabels.a=b"); strings.Contains(out, "have no effect") || !strings.Contains(out, "is being installed") {
		t.Errorf("notes without such a value:\n%s", out)
	}
}

// The driver finds the files of custom clouds in a ConfigMap or a directory of the node.
func TestCustomClouds(t *testing.T) {
	for name, tc := range map[string]struct {
		set  []string
		want string // the flag's directory
		at   string // where it is mounted
	}{
		"none":          {nil, "", ""},
		"ConfigMap":     {[]string{"cloudConfig.configMap=clouds"}, "/etc/kubernetes", "/etc/kubernetes"},
		"another place": {[]string{"cloudConfig.configMap=clouds", "cloudConfig.directory=/clouds"}, "/clouds", "/clouds"},
		"directory":     {[]string{"cloudConfig.hostPath=/opt/clouds"}, "/opt/clouds", "/opt/clouds"},
		"own volumes": {[]string{
			"cloudConfig.directory=/etc/kubernetes", "linux.volumes[0].name=cloudenvfile-vol", "linux.volumes[0].hostPath.path=/etc/kubernetes/cloud.json",
			"linux.volumeMounts[0].name=cloudenvfile-vol", "linux.volumeMounts[0].mountPath=/etc/kubernetes/cloud.json",
		}, "/etc/kubernetes", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, set := range tc.set {
				args = append(args, "--set", set)
			}
			pod := only[*appsv1.DaemonSet](t, render(t, newest, args...)).Spec.Template.Spec
			flag := ""
			for _, arg := range pod.Containers[0].Args {
				if directory, ok := strings.CutPrefix(arg, "--cloud-config-dir="); ok {
					flag = directory
				}
			}
			at := ""
			for _, m := range pod.Containers[0].VolumeMounts {
				if m.Name == "clouds" && m.ReadOnly {
					at = m.MountPath
				}
			}
			has := slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool {
				return v.Name == "clouds" && (v.ConfigMap != nil && v.ConfigMap.Name == "clouds" || v.HostPath != nil && v.HostPath.Path == "/opt/clouds")
			})
			if flag != tc.want || at != tc.at || has != (tc.at != "") {
				t.Errorf("--cloud-config-dir=%s, mounted at %q, volume %t", flag, at, has)
			}
		})
	}
}

// A value that the schema takes either has a default, and with it a line in the README, or is one that has no effect,
// and then the notes name it.
func TestEveryValueOfTheSchemaIsKnown(t *testing.T) {
	var schema, values map[string]any
	for path, into := range map[string]*map[string]any{"values.schema.json": &schema, "values.yaml": &values} {
		data, err := os.ReadFile(filepath.Join(root, "deploy/chart", path))
		if err != nil {
			t.Fatal(err)
		}
		if err := k8syaml.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	var unused []string
	var walk func(path string, schema, values map[string]any)
	walk = func(path string, schema, values map[string]any) {
		properties, _ := schema["properties"].(map[string]any)
		for name, below := range properties {
			below := below.(map[string]any)
			value, has := values[name]
			description, _ := below["description"].(string)
			switch {
			case !has && description == "":
				t.Errorf("%s%s has no default", path, name)
			case !has && strings.HasPrefix(description, "no effect"):
				unused = append(unused, path+name)
			}
			if nested, ok := value.(map[string]any); ok {
				walk(path+name+".", below, nested)
			}
		}
	}
	walk("", schema, values)
	if len(unused) < 20 {
		t.Errorf("only %d values without effect: %v", len(unused), unused)
	}
	notes, err := os.ReadFile(filepath.Join(root, "deploy/chart/templates/_checks.tpl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range unused {
		name := path[strings.LastIndex(path, ".")+1:]
		if !strings.Contains(string(notes), `"`+name+`" `) {
			t.Errorf("%s has no effect, and the notes do not say so", path)
		}
	}
}

// events switches Key Vault's events on, from a queue and at a hook.
var events = []string{
	"--set", "controller.enabled=true,networkPolicy.enabled=true,controller.events.queueURL=https://a.queue.core.windows.net/q",
	"--set", "controller.events.clientID=c,controller.events.tenantID=t",
	"--set", "controller.events.hook.enabled=true,controller.events.hook.issuer=https://sts.windows.net/t/",
	"--set", "controller.events.hook.audience=api://events,controller.events.hook.tlsSecret=hook-tls",
}

// TestKeyVaultsEvents: the controller gets its arguments, and the right to patch classes comes with the policy that bounds it. Without
// events there is neither.
func TestKeyVaultsEvents(t *testing.T) {
	mayPatch := func(objects []runtime.Object) (roles int) {
		for _, o := range objects {
			role, ok := o.(*rbacv1.ClusterRole)
			if !ok || !strings.Contains(role.Name, "-controller") {
				continue
			}
			for _, rule := range role.Rules {
				if slices.Contains(rule.Resources, "secretproviderclasses") && slices.Contains(rule.Verbs, "patch") {
					roles++
				}
			}
		}
		return roles
	}
	policies := func(objects []runtime.Object) (found int) {
		for _, o := range objects {
			if p, ok := o.(*admissionv1.ValidatingAdmissionPolicy); ok && strings.HasSuffix(p.Name, "-controller-push") {
				found++
			}
		}
		return found
	}
	for _, version := range []string{"1.32.0", newest} {
		on := render(t, version, events...)
		if mayPatch(on) != 1 || policies(on) != 1 {
			t.Errorf("%d roles that may patch classes, %d policies", mayPatch(on), policies(on))
		}
		container := only[*appsv1.Deployment](t, on).Spec.Template.Spec.Containers[0]
		for _, want := range []string{
			"--events-queue-url=https://a.queue.core.windows.net/q", "--events-token-file=/events-token/token", "--events-listen=:8443",
			"--events-issuer=https://sts.windows.net/t/", "--events-audience=api://events",
		} {
			if !slices.Contains(container.Args, want) {
				t.Errorf("%s is not in %v", want, container.Args)
			}
		}
		if len(container.VolumeMounts) != 2 || len(only[*appsv1.Deployment](t, on).Spec.Template.Spec.Volumes) != 2 {
			t.Errorf("%v", container.VolumeMounts)
		}
	}
	off := render(t, newest, "--set", "controller.enabled=true")
	if mayPatch(off) != 0 || policies(off) != 0 {
		t.Error("without events, the controller may patch classes")
	}
}

// TestRightsOfTheControllerEndWithItsNamespaces: with controller.namespaces, no role in all namespaces is the controller's but for what has no
// namespace.
func TestRightsOfTheControllerEndWithItsNamespaces(t *testing.T) {
	values := []string{
		"--set", "controller.enabled=true,controller.namespaces={shop},controller.restart.enabled=true,serviceAccountAnnotations.enabled=true",
		"--set", "syncSecret.enabled=true,syncSecret.by=controller,controller.events.queueURL=https://a.queue.core.windows.net/q",
	}
	bound := 0
	for _, o := range render(t, newest, values...) {
		var subjects []rbacv1.Subject
		wide := false
		switch b := o.(type) {
		case *rbacv1.RoleBinding:
			subjects = b.Subjects
		case *rbacv1.ClusterRoleBinding:
			subjects, wide = b.Subjects, true
		}
		for _, s := range subjects {
			if !strings.HasSuffix(s.Name, "-controller") {
				continue
			}
			if bound++; wide {
				t.Errorf("%s is bound in all namespaces: %v", s.Name, o)
			}
		}
	}
	if bound < 4 {
		t.Errorf("%d bindings of the controller", bound)
	}
}
