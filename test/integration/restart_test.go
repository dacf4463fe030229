//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/restart"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// restartSite is a cluster with a driver on a node, and a controller that restarts workloads.
type restartSite struct {
	controllerSite

	n *kubelet.Node
}

// newRestarts installs both, and starts the driver.
func newRestarts(t *testing.T, values ...string) *restartSite {
	t.Helper()
	values = append([]string{"controller.enabled=true", "controller.restart.enabled=true"}, values...)
	s := &restartSite{controllerSite: controllerSite{syncSite: *newSite(t, controlplane.Shared(t), values...)}}
	s.CreatePod(s.system, "controller", "node-1", s.account+"-controller")
	if slices.Contains(values, byController) {
		s.n = s.start(t, "--rotation-interval", "1s", "--cache-ttl", "0s")
		s.nodes = append(s.nodes, s.n)
	} else {
		s.n = s.node("--rotation-interval", "1s")
	}
	s.vault = s.n.Emulator
	s.log = t.TempDir() + "/controller.log"
	t.Cleanup(func() {
		text, _ := os.ReadFile(s.log)
		if strings.Contains(string(text), canaryValue) {
			t.Error("a value is in the controller's log")
		}
		if t.Failed() {
			t.Logf("the controller's log:\n%s", text[max(0, len(text)-20_000):])
		}
	})
	return s
}

// byController has the controller write the Secrets of Pods.
const byController = "syncSecret.by=controller"

// control starts the controller.
func (s *restartSite) control(t *testing.T, flags ...string) (stop func(syscall.Signal)) {
	t.Helper()
	return s.launch(t, append([]string{"--restart", "--restart-delay", "2s"}, flags...)...)
}

// workload applies a Deployment of one Pod, whose volume is of the class where one is named, and whose environment is the Secret.
func (s *restartSite) workload(name, class, secret string, annotations map[string]string) {
	s.Helper()
	s.CreateServiceAccount(s.namespace, "app")
	pod := map[string]any{
		"serviceAccountName": "app", "terminationGracePeriodSeconds": 0,
		"containers": []any{map[string]any{
			"name": "app", "image": "app", "envFrom": []any{map[string]any{"secretRef": map[string]any{"name": secret}}},
		}},
	}
	if class != "" {
		pod["volumes"] = []any{map[string]any{"name": "secrets", "csi": map[string]any{
			"driver": "secrets-store.csi.k8s.io", "readOnly": true, "volumeAttributes": map[string]string{"secretProviderClass": class},
		}}}
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": name, "namespace": s.namespace, "annotations": annotations},
		"spec": map[string]any{
			"replicas": 1, "strategy": map[string]string{"type": "Recreate"}, "selector": map[string]any{"matchLabels": map[string]string{"app": name}},
			"template": map[string]any{"metadata": map[string]any{"labels": map[string]string{"app": name}}, "spec": pod},
		},
	})
	s.must(err)
	s.ApplyYAML(string(body))
}

// run makes the Deployment's Pod, which is none of those, run on node-1, as scheduler and kubelet would.
func (s *restartSite) run(name string, not ...*corev1.Pod) *corev1.Pod {
	s.Helper()
	pods := s.Client().CoreV1().Pods(s.namespace)
	pod := s.podsOf(name, 1, not...)[0]
	s.must(pods.Bind(s.Context(), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-1"},
	}, metav1.CreateOptions{}))
	pod, err := pods.Get(s.Context(), pod.Name, metav1.GetOptions{})
	s.must(err)
	return pod
}

// ready says that a Pod runs.
func (s *restartSite) ready(pod *corev1.Pod) {
	s.Helper()
	pod, err := s.Client().CoreV1().Pods(s.namespace).Get(s.Context(), pod.Name, metav1.GetOptions{})
	s.must(err)
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	_, err = s.Client().CoreV1().Pods(s.namespace).UpdateStatus(s.Context(), pod, metav1.UpdateOptions{})
	s.must(err)
}

// rolledOut waits for the end of a rollout.
func (s *restartSite) rolledOut(name string) *appsv1.Deployment {
	s.Helper()
	var d *appsv1.Deployment
	s.Eventually("the rollout of "+name, func() bool {
		var err error
		d, err = s.Client().AppsV1().Deployments(s.namespace).Get(s.Context(), name, metav1.GetOptions{})
		s.must(err)
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == 1 && d.Status.Replicas == 1 && d.Status.AvailableReplicas == 1
	})
	return d
}

// restartedFor is what the template of a Deployment says.
func (s *restartSite) restartedFor(name string) string {
	s.Helper()
	return s.get("deployment", name, "-o", `jsonpath={.spec.template.metadata.annotations.keyvault-csi/restarted-for}`)
}

// version waits until the Pod's status object has another version of db than the one, and returns it.
func (s *restartSite) version(pod *corev1.Pod, not string) (version string) {
	s.Helper()
	s.Eventually("another version in the status object of "+pod.Name, func() bool {
		out, err := s.Kubectl("", "-n", s.shop, "get", "secretproviderclasspodstatus", pod.Name+"-"+s.shop+"-web", "--ignore-not-found", "-o",
			`jsonpath={.status.objects[0].version}`)
		s.must(err)
		version = out
		return out != "" && out != not
	})
	return version
}

func onChange() map[string]string { return map[string]string{restart.Annotation: restart.OnChange} }

// TestRestartOnChange: a Deployment whose Pods read a Secret of a class is restarted once when the value changes, also where the controller
// is down at that time, and one without the annotation is not.
func TestRestartOnChange(t *testing.T) {
	t.Parallel()
	s := newRestarts(t)
	s.n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.workload("cart", "web", "db", onChange())
	s.workload("plain", "web", "db", nil)
	first, plain := s.run("cart"), s.run("plain")
	s.publish(s.n, first, "web")
	s.publish(s.n, plain, "web")
	s.ready(first)
	s.ready(plain)
	v1 := s.version(first, "")
	s.version(plain, "")
	s.rolledOut("cart")
	s.rolledOut("plain")
	kill := s.control(t)

	s.n.Secret("db", canaryValue+"2")
	s.Eventually("the restart", func() bool { return s.restartedFor("cart") != "" })
	if !s.holds("db", "password", canaryValue+"2") {
		t.Error("the workload is restarted before its Secret has the new value")
	}
	v2 := s.version(plain, v1)
	if got := s.restartedFor("cart"); !strings.HasSuffix(got, " web/secret/db@"+v2[:12]) {
		t.Errorf("restarted for %q", got)
	}
	second := s.run("cart", first)
	s.publish(s.n, second, "web")
	s.n.Unpublish(first.Name)
	s.ready(second)
	if got := s.version(second, v1); got != v2 {
		t.Errorf("the new Pod has version %s, want %s", got, v2)
	}
	after := s.rolledOut("cart")
	s.reported("RestartedOnChange", "secret/db of class web", v1[:12]+" -> "+v2[:12])

	// a change while the controller is away
	kill(syscall.SIGKILL)
	s.MustKubectl("", "-n", s.shop, "annotate", "deployment", "cart", restart.IntervalAnnotation+"=10s")
	polls := len(s.vault.Requests())
	s.n.Eventually("some polls", func() bool { return len(s.vault.Requests()) > polls+5 })
	s.n.Secret("db", canaryValue+"3")
	v3 := s.version(second, v2)
	if now := s.restartedFor("cart"); now != after.Spec.Template.Annotations[restart.TemplateAnnotation] {
		t.Errorf("restarted for %q, and then for %q", after.Spec.Template.Annotations, now)
	}
	s.control(t)
	s.Eventually("the restart for what happened meanwhile", func() bool { return strings.HasSuffix(s.restartedFor("cart"), "@"+v3[:12]) })
	third := s.run("cart", first, second)
	s.publish(s.n, third, "web")
	s.ready(third)
	s.version(third, v2)
	done := s.rolledOut("cart")
	// not again: time passes in which a defect would restart it, the interval is 10 s
	time.Sleep(15 * time.Second)
	if now := s.rolledOut("cart"); now.Generation != done.Generation {
		t.Errorf("restarted again: %q, then %q", done.Spec.Template.Annotations, now.Spec.Template.Annotations)
	}
	if got := s.restartedFor("plain"); got != "" {
		t.Errorf("a Deployment without the annotation is restarted for %q", got)
	}
}

// TestRestartWithSecretsOfTheController: where the controller writes the Secrets of Pods, it waits for itself.
func TestRestartWithSecretsOfTheController(t *testing.T) {
	t.Parallel()
	s := newRestarts(t, byController)
	s.control(t, "--pod-secrets")
	s.n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.workload("cart", "web", "db", onChange())
	first := s.run("cart")
	s.publish(s.n, first, "web")
	s.ready(first)
	s.rolledOut("cart")
	s.Eventually("the Secret", func() bool { return s.holds("db", "password", canaryValue+"1") })
	v1 := s.version(first, "")
	s.n.Secret("db", canaryValue+"2")
	v2 := s.version(first, v1)
	s.Eventually("the restart", func() bool { return strings.HasSuffix(s.restartedFor("cart"), "@"+v2[:12]) })
	if !s.holds("db", "password", canaryValue+"2") {
		t.Error("the workload is restarted before its Secret has the new value")
	}
}

// TestRestartOfAStatefulSet: its Pod keeps its name, and so does the Pod's status object.
func TestRestartOfAStatefulSet(t *testing.T) {
	t.Parallel()
	s := newRestarts(t)
	s.n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.CreateServiceAccount(s.shop, "app")
	s.ApplyYAML(strings.ReplaceAll(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: cart, namespace: NS, annotations: {keyvault-csi/restart: on-change, keyvault-csi/restart-interval: 10s}}
spec:
  serviceName: cart
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      serviceAccountName: app
      terminationGracePeriodSeconds: 0
      containers: [{name: app, image: app}]
      volumes: [{name: secrets, csi: {driver: secrets-store.csi.k8s.io, readOnly: true, volumeAttributes: {secretProviderClass: web}}}]
`, "NS", s.shop))
	rolledOut := func() int64 {
		var generation int64
		s.Eventually("the rollout", func() bool {
			set, err := s.Client().AppsV1().StatefulSets(s.shop).Get(t.Context(), "cart", metav1.GetOptions{})
			must(t, err)
			generation = set.Generation
			return set.Status.ObservedGeneration == generation && set.Status.AvailableReplicas == 1 && set.Status.CurrentRevision == set.Status.UpdateRevision
		})
		return generation
	}
	first := s.run("cart")
	s.publish(s.n, first, "web")
	s.ready(first)
	v1 := s.version(first, "")
	rolledOut()
	s.control(t)
	s.n.Secret("db", canaryValue+"2")
	second := s.run("cart", first)
	s.n.Unpublish(first.Name)
	s.publish(s.n, second, "web")
	s.ready(second)
	v2 := s.version(second, v1)
	done := rolledOut()
	started := s.get("secretproviderclasspodstatus", "cart-0-"+s.shop+"-web", "-o", "jsonpath={.status.objects[0].startedVersion}")
	if second.Name != first.Name || started != v2 {
		t.Errorf("Pod %s after %s started with %s, want %s", second.Name, first.Name, started, v2)
	}
	time.Sleep(15 * time.Second) // more than the interval
	if now := rolledOut(); now != done {
		t.Errorf("restarted again: generation %d, then %d", done, now)
	}
}

// TestRestartForSecretSync: a Deployment that mounts nothing and reads the Secret of a SecretSync.
func TestRestartForSecretSync(t *testing.T) {
	t.Parallel()
	s := newRestarts(t)
	s.n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.CreateServiceAccount(s.shop, "app")
	s.sync("env", "web", "{sourcePath: db, targetKey: password}")
	s.control(t)
	s.Eventually("the Secret", func() bool { return s.holds("env", "password", canaryValue+"1") })
	s.workload("cart", "", "env", onChange())
	first := s.run("cart")
	s.ready(first)
	s.rolledOut("cart")
	s.n.Secret("db", canaryValue+"2")
	s.Eventually("the restart", func() bool { return strings.Contains(s.restartedFor("cart"), " Secret/env@") })
	if !s.holds("env", "password", canaryValue+"2") {
		t.Error("the workload is restarted before its Secret has the new value")
	}
	reason := s.restartedFor("cart")
	s.ready(s.run("cart", first))
	s.rolledOut("cart")
	s.MustKubectl("", "-n", s.shop, "annotate", "deployment", "cart", restart.IntervalAnnotation+"=10s") // it looks again
	time.Sleep(12 * time.Second)
	if got := s.restartedFor("cart"); got != reason {
		t.Errorf("restarted again: %s, then %s", reason, got)
	}
	s.reported("RestartedOnChange", "Secret env")
}

// TestRestartAnnotationMistakes: wrong values are events with the fix, and edits cost a bounded number of requests.
func TestRestartAnnotationMistakes(t *testing.T) {
	t.Parallel()
	s := newRestarts(t)
	s.n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.workload("typo", "web", "none", map[string]string{restart.Annotation: "on-chnage"})
	s.workload("long", "web", "none", map[string]string{restart.Annotation: strings.Repeat("x", 200_000)})
	s.workload("pause", "web", "none", map[string]string{restart.Annotation: restart.OnChange, restart.IntervalAnnotation: "soon"})
	s.control(t)
	s.reported("InvalidRestartAnnotation", `"on-chnage" is no value of it: write on-change`)
	s.reported("InvalidRestartAnnotation", `xxxxx…`)
	s.reported("InvalidRestartAnnotation", `"soon" is no duration`)
	deployments := s.Client().AppsV1().Deployments(s.shop)
	start, edits := time.Now(), 0
	for time.Since(start) < 10*time.Second {
		d, err := deployments.Get(t.Context(), "typo", metav1.GetOptions{})
		must(t, err)
		d.Annotations[restart.Annotation] = []string{restart.OnChange, fmt.Sprint("wrong", edits)}[edits%2]
		if _, err = deployments.Update(t.Context(), d, metav1.UpdateOptions{}); err == nil {
			edits++
		}
	}
	took := time.Since(start)
	requests := 0
	for _, e := range s.Requests("keyvault-controller/") {
		if e.Received.After(start) && e.ObjectRef.Namespace == s.shop && e.ObjectRef.Resource != "secretproviderclasses" {
			requests++
		}
	}
	t.Logf("%d edits in %s: %d requests of the controller", edits, took, requests)
	if requests > int(took.Seconds())*3+10 {
		t.Errorf("%d requests for %d edits", requests, edits)
	}
}

// TestStolenRestartToken: what the controller's token may not do to workloads, although its role would permit it.
func TestStolenRestartToken(t *testing.T) {
	t.Parallel()
	s := newRestarts(t)
	stolen := s.BoundKubeconfig(s.system, s.account+"-controller", "controller")
	s.workload("cart", "web", "db", onChange())
	s.workload("plain", "web", "db", nil)
	s.ApplyYAML(strings.NewReplacer("NS", s.shop).Replace(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: state, namespace: NS, annotations: {keyvault-csi/restart: on-change}}
spec:
  selector: {matchLabels: {app: state}}
  serviceName: state
  template: {metadata: {labels: {app: state}, annotations: {a: b}}, spec: {containers: [{name: app, image: app}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each, namespace: NS, annotations: {keyvault-csi/restart: on-change}}
spec:
  selector: {matchLabels: {app: each}}
  template: {metadata: {labels: {app: each}}, spec: {containers: [{name: app, image: app}]}}
---
apiVersion: v1
kind: Secret
metadata: {name: foreign, namespace: NS}
stringData: {a: ` + canaryValue + `}
---
apiVersion: v1
kind: Secret
metadata: {name: ours, namespace: NS, labels: {secrets-store.csi.k8s.io/managed: "true"}}
stringData: {a: b}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: system, namespace: kube-system, annotations: {keyvault-csi/restart: on-change}}
spec:
  replicas: 0
  selector: {matchLabels: {app: system}}
  template: {metadata: {labels: {app: system}}, spec: {containers: [{name: app, image: app}]}}
`))
	t.Cleanup(func() { s.MustKubectl("", "-n", "kube-system", "delete", "deployment", "system") })
	const good = `{"spec":{"template":{"metadata":{"annotations":{"keyvault-csi/restarted-for":"2026-11-28T01:10:05Z web/secret/db@0123"}}}}}`
	patch := func(what, body string) []string { return []string{"patch", what, "--type=merge", "-p", body} }
	s.Eventually("the policy", func() bool {
		_, err := s.Plane.Kubectl(stolen, "", append([]string{"--namespace", s.shop}, patch("deployment/plain", good)...)...)
		return err != nil && strings.Contains(err.Error(), "-controller-restart")
	})
	with := func(more string) string {
		return strings.Replace(good, `"annotations":{`, `"annotations":{`+more+`,`, 1)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no annotation":          {patch("deployment/plain", good), "only workloads with the annotation"},
		"an annotation for it":   {patch("deployment/plain", `{"metadata":{"annotations":{"keyvault-csi/restart":"on-change"}}}`), "only workloads with the annotation"},
		"the annotation removed": {patch("deployment/cart", `{"metadata":{"annotations":{"keyvault-csi/restart":null}}}`), "leaves labels, annotations"},
		"a label":                {patch("deployment/cart", `{"metadata":{"labels":{"a":"b"}}}`), "leaves labels, annotations"},
		"an owner": {patch("deployment/cart",
			`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"1"}]}}`), "leaves labels, annotations"},
		"a finalizer":           {patch("deployment/cart", `{"metadata":{"finalizers":["a.b/c"]}}`), "leaves labels, annotations"},
		"replicas":              {patch("deployment/cart", `{"spec":{"replicas":0}}`), "leaves the spec"},
		"paused":                {patch("deployment/cart", `{"spec":{"paused":true}}`), "leaves the spec"},
		"an image":              {patch("deployment/cart", `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"evil"}]}}}}`), "leaves the spec"},
		"an account":            {patch("deployment/cart", `{"spec":{"template":{"spec":{"serviceAccountName":"admin"}}}}`), "leaves the spec"},
		"a host path":           {patch("daemonset/each", `{"spec":{"template":{"spec":{"volumes":[{"name":"x","hostPath":{"path":"/"}}]}}}}`), "leaves the spec"},
		"a Pod's label":         {patch("deployment/cart", `{"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`), "annotation keyvault-csi/restarted-for alone"},
		"another annotation":    {patch("deployment/cart", with(`"sidecar":"evil"`)), "annotation keyvault-csi/restarted-for alone"},
		"an annotation edited":  {patch("statefulset/state", with(`"a":"c"`)), "annotation keyvault-csi/restarted-for alone"},
		"an annotation removed": {patch("statefulset/state", with(`"a":null`)), "annotation keyvault-csi/restarted-for alone"},
		"a StatefulSet's spec":  {patch("statefulset/state", `{"spec":{"minReadySeconds":5}}`), "leaves the spec"},
		"an annotation of it":   {patch("daemonset/each", `{"metadata":{"annotations":{"a":"b"}}}`), "leaves labels, annotations"},
		"any text":              {patch("deployment/cart", strings.Replace(good, "2026", "x 2026", 1)), "holds a time and what changed"},
		"a long text":           {patch("deployment/cart", strings.Replace(good, "@0123", strings.Repeat("x", 3000), 1)), "holds a time and what changed"},
		"another namespace":     {append(patch("deployment/system", good), "-n", "kube-system"), "restarts nothing in this namespace"},
		"a scale":               {append(patch("deployment/cart", `{"spec":{"replicas":0}}`), "--subresource=scale"), "forbidden"},
		"a creation":            {[]string{"create", "deployment", "x", "--image=x"}, "forbidden"},
		"a deletion":            {[]string{"delete", "deployment", "cart"}, "forbidden"},
		"a Pod":                 {[]string{"run", "x", "--image=x"}, "forbidden"},
		"a ReplicaSet":          {patch("replicaset/x", `{"spec":{"replicas":0}}`), "forbidden"},
		"Secrets":               {[]string{"get", "secrets"}, "forbidden"},
		"a Secret":              {[]string{"get", "secret", "ours"}, "forbidden"},
	} {
		args := tc.args
		if name != "another namespace" {
			args = append(args, "-n", s.shop)
		}
		out, err := s.Plane.Kubectl(stolen, "", args...)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(out+err.Error(), canaryValue) {
			t.Errorf("%s: %s %v", name, out, err)
		}
	}
	large := strings.Builder{} // of about 700 kB: the policy's expressions have bounded costs
	for i := range 5000 {
		fmt.Fprintf(&large, `{name: VARIABLE_%d, value: "%s"}, `, i, strings.Repeat("v", 100))
	}
	s.MustKubectl(fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: large, namespace: %s, annotations: {keyvault-csi/restart: on-change}}
spec:
  replicas: 0
  selector: {matchLabels: {app: large}}
  template: {metadata: {labels: {app: large}}, spec: {containers: [{name: app, image: app, env: [%s]}]}}
`, s.shop, large.String()), "create", "-f", "-")
	for _, what := range []string{"deployment/cart", "statefulset/state", "daemonset/each", "deployment/large"} {
		for _, body := range []string{good, strings.Replace(good, "0123", "4567", 1)} {
			if out, err := s.Plane.Kubectl(stolen, "", append(patch(what, body), "-n", s.shop)...); err != nil {
				t.Errorf("what it may do: %s %v", out, err)
			}
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", stolen)
	must(t, err)
	thief, err := kubernetes.NewForConfig(config)
	must(t, err)
	const look = `[{"op":"test","path":"/metadata/namespace","value":"NS"}]`
	for name, tc := range map[string]struct {
		secret, body string
		kind         types.PatchType
		want         string
	}{
		"a look at a foreign one": {"foreign", look, types.JSONPatchType, "it has no label"},
		"an edit":                 {"ours", `{"stringData":{"a":"c"}}`, types.MergePatchType, "it has no label"},
		"a label":                 {"ours", `{"metadata":{"labels":{"a":"c"}}}`, types.MergePatchType, "it has no label"},
		"a label taken away":      {"ours", `{"metadata":{"labels":null}}`, types.MergePatchType, "it has no label"},
		"a label for a foreign":   {"foreign", `{"metadata":{"labels":{"secrets-store.csi.k8s.io/managed":"true"}}}`, types.MergePatchType, "it has no label"},
		"a look at ours":          {"ours", look, types.JSONPatchType, ""},
	} {
		_, err := thief.CoreV1().Secrets(s.shop).Patch(t.Context(), tc.secret, tc.kind, []byte(strings.Replace(tc.body, "NS", s.shop, 1)), metav1.PatchOptions{})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), canaryValue)) {
			t.Errorf("Secrets: %s: %v", name, err)
		}
	}
	if out := s.get("secret", "ours", "-o", "jsonpath={.data.a}"); out != "Yg==" {
		t.Errorf("the Secret holds %s", out)
	}
	warnings := s.MustKubectl("", "get", "validatingadmissionpolicy", s.account+"-controller-restart", s.account+"-controller", "-o",
		"jsonpath={.items[*].status.typeChecking.expressionWarnings}")
	if strings.TrimSpace(warnings) != "" {
		t.Errorf("the API server warns of expressions: %s", warnings)
	}
}
