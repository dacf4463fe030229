package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// mounting adds a container to a Pod that mounts its volume, and reads a Secret that exists without a class.
func mounting(p map[string]any) map[string]any {
	p["spec"].(map[string]any)["containers"] = []any{map[string]any{
		"name": "c", "volumeMounts": []any{map[string]any{"name": "v", "mountPath": "/secrets"}},
		"env": []any{map[string]any{"name": "E", "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": "elsewhere", "key": "k"}}}},
	}}
	return p
}

// ofTemplate is a workload with a Pod template, as the API server has it in a list: without its kind.
func ofTemplate(name, class string, owner *metav1.OwnerReference) map[string]any {
	made := mounting(pod(name, "app", class, "", nil))
	metadata := map[string]any{"name": name, "namespace": "default"}
	if owner != nil {
		yes := true
		owner.Controller = &yes
		metadata["ownerReferences"] = []any{owner}
	}
	return map[string]any{"metadata": metadata, "spec": map[string]any{"template": map[string]any{"spec": made["spec"]}}, "status": map[string]any{}}
}

func ofJobTemplate(name, class string) map[string]any {
	return map[string]any{"metadata": map[string]any{"name": name, "namespace": "default"},
		"spec": map[string]any{"jobTemplate": map[string]any{"spec": ofTemplate(name, class, nil)["spec"]}}}
}

// items answers a list.
func items(all ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{}, "items": all})
	}
}

// workloads is a cluster with workloads of every kind; DaemonSets may not be listed, and Deployments come in two pages.
func workloads(mux *http.ServeMux) {
	const apps, batch = "GET /apis/apps/v1/namespaces/default/", "GET /apis/batch/v1/namespaces/default/"
	mux.HandleFunc(apps+"deployments", func(w http.ResponseWriter, r *http.Request) {
		page, metadata := []any{ofTemplate("good", "shop", nil)}, map[string]any{"continue": "more"}
		if r.URL.Query().Get("continue") == "more" {
			page, metadata = []any{ofTemplate("wrong", "shpo", nil)}, map[string]any{}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": metadata, "items": page})
	})
	mux.HandleFunc(apps+"daemonsets", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden})
	})
	mux.HandleFunc(apps+"replicasets", items(
		ofTemplate("of-wrong", "shpo", &metav1.OwnerReference{Kind: "Deployment", Name: "wrong"}), ofTemplate("alone", "nothing", nil)))
	mux.HandleFunc(batch+"cronjobs", items(ofJobTemplate("nightly", "shopp")))
	mux.HandleFunc(batch+"jobs", items(ofTemplate("of-nightly", "shopp", &metav1.OwnerReference{Kind: "CronJob", Name: "nightly"})))
	bare := mounting(pod("bare", "app", "shop", "Running", map[string]string{"keyvaultNmae": "x"}))
	owned := pod("of-set", "app", "shpo", "Running", nil)
	yes := true
	owned["metadata"].(map[string]any)["ownerReferences"] = []any{metav1.OwnerReference{Kind: "ReplicaSet", Name: "of-wrong", Controller: &yes}}
	mux.HandleFunc("GET /api/v1/namespaces/default/pods", items(bare, owned, pod("done", "app", "shpo", "Succeeded", nil)))
}

// `validate --live` looks at the workloads of the cluster as it does at those of files, each cause once.
func TestValidateLiveWorkloads(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	config := apiServer(d, classText(t, "shop", nil, "db"), workloads)
	r := d.run(nil, "validate", "--live", "--kubeconfig", config)
	wants := []string{
		`deployment default/wrong: error: spec.template.spec.volumes[0].csi.volumeAttributes.secretProviderClass "shpo" is no class of the cluster: did you mean shop?`,
		`replicaset default/alone: error: spec.template.spec.volumes[0].csi.volumeAttributes.secretProviderClass "nothing" is no class of the cluster: add the class, or write one of shop`,
		`cronjob default/nightly: error: spec.jobTemplate.spec.template.spec.volumes[0].csi.volumeAttributes.secretProviderClass "shopp" is no class of the cluster: did you mean shop?`,
		`pod default/bare: warning: spec.volumes[0].csi.volumeAttributes.keyvaultNmae "x" is an unknown attribute`,
	}
	for _, want := range wants {
		if r.exit != 1 || !strings.Contains(r.stdout, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, want := range []string{"1 class and 5 workloads checked, 4 findings (3 errors, 1 warning)", "not checked, because you may not list them: daemonsets"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, not := range []string{"of-wrong", "of-nightly", "of-set", "done", "elsewhere", "good"} {
		if strings.Contains(r.stdout, not) {
			t.Errorf("%q is there", not)
		}
	}
	if t.Failed() {
		t.Log(r)
	}
	if r := d.run(nil, "validate", "--live", "--kubeconfig", config, "shop"); r.exit != 0 || !strings.Contains(r.stderr, "1 class checked, 0 findings") {
		t.Errorf("a class that is named: %s", r)
	}
}

// `check --workload` takes CronJobs: the Pods of their Jobs, or the Pod as it will be where there is none.
func TestCheckCronJob(t *testing.T) {
	t.Parallel()
	for name, jobs := range map[string][]any{"before its first Job": nil, "with Jobs": {
		ofTemplate("nightly-2", "shop", &metav1.OwnerReference{Kind: "CronJob", Name: "nightly"}),
		ofTemplate("other-1", "shop", &metav1.OwnerReference{Kind: "CronJob", Name: "other"}),
	}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newSession(t)
			config := apiServer(d, classText(t, "shop", nil, "db"), func(mux *http.ServeMux) {
				mux.HandleFunc("GET /apis/batch/v1/namespaces/default/cronjobs/nightly", func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					_ = json.NewEncoder(w).Encode(ofJobTemplate("nightly", "nowhere"))
				})
				mux.HandleFunc("GET /apis/batch/v1/namespaces/default/jobs", items(jobs...))
				mux.HandleFunc("GET /api/v1/namespaces/default/events", items())
				mux.HandleFunc("GET /apis/secrets-store.csi.x-k8s.io/v1/namespaces/default/secretproviderclasspodstatuses", items())
				mux.HandleFunc("GET /api/v1/namespaces/default/pods", func(w http.ResponseWriter, r *http.Request) {
					if selector := r.URL.Query().Get("labelSelector"); selector != "" && selector != "batch.kubernetes.io/job-name in (nightly-2)" {
						t.Errorf("Pods are selected by %q", selector)
					}
					items(pod("nightly-2-x", "app", "nowhere", "Pending", nil), pod("nightly-1-y", "app", "nowhere", "Failed", nil))(w, r)
				})
			})
			want := "nightly-2-x"
			if jobs == nil {
				want = "nightly"
			}
			for _, workload := range []string{"cronjob/nightly", "cj/nightly", "nightly"} {
				r := d.run(anonymous(), "check", "--kubeconfig", config, "--workload", workload, "-o", "json")
				var found []struct{ Pods []string }
				if err := json.Unmarshal([]byte(r.stdout), &found); err != nil || r.exit != 1 || len(found) != 1 || fmt.Sprint(found[0].Pods) != "["+want+"]" ||
					!strings.Contains(r.stdout, "secretproviderclass default/nowhere was not found") {
					t.Errorf("--workload %s: %v %s", workload, err, r)
				}
			}
		})
	}
}
