package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Workload is a Deployment or another object that makes Pods.
type Workload struct {
	Kind, Namespace, Name string
	// Selector is that of its Pods.
	Selector string
	// Template is its Pod as it will be.
	Template MountingPod
}

// workloadKind is a kind of objects that make Pods.
type workloadKind struct {
	// name is the kind in lower case, group the path of its API group.
	name, kind, group string
	// owner is the kind that makes such objects, whose Pods are checked there; empty for none.
	owner string
}

// path is that of the kind's objects in a namespace, in all where it is empty.
func (k workloadKind) path(namespace string) string {
	if namespace != "" {
		namespace = "/namespaces/" + namespace
	}
	return k.group + namespace + "/" + k.name + "s"
}

// workloadKinds are those that are known, in the order in which a name is looked for.
func workloadKinds() []workloadKind {
	return []workloadKind{
		{name: "deployment", kind: "Deployment", group: "/apis/apps/v1"},
		{name: "statefulset", kind: "StatefulSet", group: "/apis/apps/v1"},
		{name: "daemonset", kind: "DaemonSet", group: "/apis/apps/v1"},
		{name: "replicaset", kind: "ReplicaSet", group: "/apis/apps/v1", owner: "Deployment"},
		{name: "cronjob", kind: "CronJob", group: "/apis/batch/v1"},
		{name: "job", kind: "Job", group: "/apis/batch/v1", owner: "CronJob"},
	}
}

// WorkloadKinds are the kinds that Workload knows.
func WorkloadKinds() []string {
	var names []string
	for _, k := range workloadKinds() {
		names = append(names, k.name)
	}
	return names
}

// workloadObject is the part of a workload that is used.
type workloadObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Selector    *metav1.LabelSelector `json:"selector"`
		Template    podObject             `json:"template"`
		JobTemplate struct {
			Spec struct {
				Template podObject `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

// Workload finds a workload by its name, of the kind or of any where it is empty. Errors are of type *volume.Error.
func (c *Caller) Workload(ctx context.Context, kind, namespace, name, driver string) (*Workload, error) {
	for _, k := range workloadKinds() {
		if kind != "" && kind != k.name {
			continue
		}
		var object workloadObject
		err := into(c.api.rest.Get().AbsPath(k.path(namespace), name).Do(ctx), &object)
		switch {
		case apierrors.IsNotFound(err), kind == "" && apierrors.IsForbidden(err):
			continue
		case err != nil:
			return nil, refused(fmt.Sprintf("%s %s/%s", k.name, namespace, name), "get "+k.name+"s", err)
		}
		w := &Workload{Kind: k.name, Namespace: namespace, Name: name}
		template := &object.Spec.Template
		switch {
		case k.kind == "CronJob":
			template = &object.Spec.JobTemplate.Spec.Template
			w.Selector = c.podsOfJobs(ctx, namespace, name)
		case object.Spec.Selector != nil:
			w.Selector = metav1.FormatLabelSelector(object.Spec.Selector)
		}
		w.Template = template.mounting(driver)
		w.Template.Namespace, w.Template.Name = namespace, name
		return w, nil
	}
	if kind == "" {
		kind = "workload"
	}
	return nil, &volume.Error{Reason: volume.ReasonNotFound, Message: fmt.Sprintf(
		"%s %s/%s was not found: correct the name or --namespace, or check --context", kind, namespace, name)}
}

// mostJobs bounds the Jobs of a CronJob whose Pods are looked for.
const mostJobs = 20

// podsOfJobs selects the Pods of a CronJob's newest Jobs; empty where it has none, or where the caller may not list Jobs.
func (c *Caller) podsOfJobs(ctx context.Context, namespace, cronJob string) string {
	type job struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	var jobs []job
	err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().AbsPath("/apis/batch/v1/namespaces", namespace, "jobs") },
		metav1.ListOptions{}, func(page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []job           `json:"items"`
		}) string {
			for _, j := range page.Items {
				if owner := metav1.GetControllerOf(&j.Metadata); owner != nil && owner.Kind == "CronJob" && owner.Name == cronJob {
					jobs = append(jobs, j)
				}
			}
			return page.Metadata.Continue
		})
	if err != nil || len(jobs) == 0 {
		return ""
	}
	slices.SortFunc(jobs, func(a, b job) int { return b.Metadata.CreationTimestamp.Compare(a.Metadata.CreationTimestamp.Time) })
	var names []string
	for _, j := range jobs[:min(len(jobs), mostJobs)] {
		names = append(names, j.Metadata.Name)
	}
	return "batch.kubernetes.io/job-name in (" + strings.Join(names, ",") + ")"
}

// EachWorkload gives the Pods and the workloads of a namespace, of all where it is empty, that name the driver, as JSON with apiVersion and kind. What another
// known workload makes is left out, and so are Pods that have ended. Kinds that the caller may not list are returned. Other errors are of type *volume.Error.
func (c *Caller) EachWorkload(ctx context.Context, namespace, driver string, take func(object []byte) error) (denied []string, err error) {
	kinds := append(workloadKinds(), workloadKind{name: "pod", kind: "Pod", group: "/api/v1"})
	for _, k := range kinds {
		var stopped error
		err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().AbsPath(k.path(namespace)) },
			metav1.ListOptions{}, func(page struct {
				Metadata metav1.ListMeta   `json:"metadata"`
				Items    []json.RawMessage `json:"items"`
			}) string {
				for _, item := range page.Items {
					if !bytes.Contains(item, []byte(driver)) {
						continue
					}
					if object := k.manifest(item, kinds); object != nil {
						if stopped = take(object); stopped != nil {
							return ""
						}
					}
				}
				return page.Metadata.Continue
			})
		switch {
		case stopped != nil:
			return denied, stopped
		case apierrors.IsForbidden(err):
			denied = append(denied, k.name+"s")
		case err != nil:
			return denied, refused("the "+k.name+"s", "list "+k.name+"s", err)
		}
	}
	return denied, nil
}

// manifest is an object of a list as a person would write it; nil for one that is left out, or that cannot be read.
func (k workloadKind) manifest(item []byte, kinds []workloadKind) []byte {
	var object map[string]any
	var known struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Status   struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	if json.Unmarshal(item, &object) != nil || json.Unmarshal(item, &known) != nil {
		return nil
	}
	if owner := metav1.GetControllerOf(&known.Metadata); owner != nil {
		made := k.kind == "Pod" && slices.ContainsFunc(kinds, func(other workloadKind) bool { return other.kind == owner.Kind })
		if made || k.owner != "" && k.owner == owner.Kind {
			return nil
		}
	}
	if k.kind == "Pod" && (known.Status.Phase == "Succeeded" || known.Status.Phase == "Failed") {
		return nil
	}
	object["kind"], object["apiVersion"] = k.kind, strings.TrimPrefix(strings.TrimPrefix(k.group, "/apis/"), "/api/")
	delete(object, "status")
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
		delete(metadata, "annotations") // kubectl keeps a copy of the object there
	}
	text, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	return text
}
