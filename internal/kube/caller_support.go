package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// ServerVersion is what the API server says of itself, such as v1.35.0. Errors are of type *volume.Error.
func (c *Caller) ServerVersion(ctx context.Context) (string, error) {
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := into(c.api.rest.Get().AbsPath("/version").Do(ctx), &version); err != nil {
		return "", refused("its version", "get /version", err)
	}
	return version.GitVersion, nil
}

// PodEvent is a warning about a Pod.
type PodEvent struct {
	Namespace string      `json:"namespace"`
	Pod       string      `json:"pod"`
	UID       types.UID   `json:"-"`
	Reason    string      `json:"reason"`
	Source    string      `json:"source"`
	Message   string      `json:"message"`
	Count     int         `json:"count,omitempty"`
	Last      metav1.Time `json:"last"`
}

// PodEvents gives the warnings about Pods of a namespace, of all where it is empty. Errors are of type *volume.Error.
func (c *Caller) PodEvents(ctx context.Context, namespace string, take func(PodEvent)) error {
	path := "/api/v1/events"
	if namespace != "" {
		path = fmt.Sprintf("/api/v1/namespaces/%s/events", namespace)
	}
	err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().AbsPath(path) },
		metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.kind=Pod"}, func(page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []struct {
				Object objectReference `json:"involvedObject"`
				Source struct {
					Component string `json:"component"`
				} `json:"source"`
				Reason  string      `json:"reason"`
				Message string      `json:"message"`
				Count   int         `json:"count"`
				Last    metav1.Time `json:"lastTimestamp"`
			} `json:"items"`
		}) string {
			for _, e := range page.Items {
				take(PodEvent{
					Namespace: e.Object.Namespace, Pod: e.Object.Name, UID: e.Object.UID, Reason: e.Reason, Source: e.Source.Component, Message: e.Message,
					Count: e.Count, Last: e.Last,
				})
			}
			return page.Metadata.Continue
		})
	if err != nil {
		return refused("the events", "list events", err)
	}
	return nil
}

// ProgramPod is a Pod of the driver or of the controller.
type ProgramPod struct {
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name"`
	Node       string            `json:"node"`
	Phase      string            `json:"phase"`
	Containers []ProgramInstance `json:"containers"`
}

// ProgramInstance is a container of a ProgramPod.
type ProgramInstance struct {
	Name     string   `json:"name"`
	Image    string   `json:"image"`
	Args     []string `json:"args"`
	Ready    bool     `json:"ready"`
	Restarts int      `json:"restarts"`
	// Last is why the container ended before, such as OOMKilled.
	Last string `json:"last,omitempty"`
}

// ProgramPods gives the Pods of a namespace with a label. Errors are of type *volume.Error.
func (c *Caller) ProgramPods(ctx context.Context, namespace, selector string, take func(ProgramPod)) error {
	type container struct {
		Name  string   `json:"name"`
		Image string   `json:"image"`
		Args  []string `json:"args"`
	}
	err := eachPageOf(ctx, func() *rest.Request { return core(c.api.rest.Get(), namespace, "pods") },
		metav1.ListOptions{LabelSelector: selector}, func(page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []struct {
				Metadata metav1.ObjectMeta `json:"metadata"`
				Spec     struct {
					NodeName   string      `json:"nodeName"`
					Containers []container `json:"containers"`
				} `json:"spec"`
				Status struct {
					Phase      string `json:"phase"`
					Containers []struct {
						Name     string `json:"name"`
						Ready    bool   `json:"ready"`
						Restarts int    `json:"restartCount"`
						Last     struct {
							Terminated *struct {
								Reason   string `json:"reason"`
								ExitCode int    `json:"exitCode"`
							} `json:"terminated"`
						} `json:"lastState"`
					} `json:"containerStatuses"`
				} `json:"status"`
			} `json:"items"`
		}) string {
			for _, p := range page.Items {
				pod := ProgramPod{Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, Node: p.Spec.NodeName, Phase: p.Status.Phase}
				for _, spec := range p.Spec.Containers {
					one := ProgramInstance{Name: spec.Name, Image: spec.Image, Args: spec.Args}
					for _, s := range p.Status.Containers {
						if s.Name == spec.Name {
							one.Ready, one.Restarts = s.Ready, s.Restarts
							if s.Last.Terminated != nil {
								one.Last = s.Last.Terminated.Reason + " " + strconv.Itoa(s.Last.Terminated.ExitCode)
							}
						}
					}
					pod.Containers = append(pod.Containers, one)
				}
				take(pod)
			}
			return page.Metadata.Continue
		})
	if err != nil {
		return refused("the Pods", "list pods", err)
	}
	return nil
}

// Log returns the end of a container's log, or of that of the container before it. Errors are of type *volume.Error.
func (c *Caller) Log(ctx context.Context, namespace, pod, container string, previous bool, lines int, most int64) ([]byte, error) {
	request := core(c.api.rest.Get(), namespace, "pods", pod, "log").Param("container", container).Param("tailLines", strconv.Itoa(lines)).
		Param("limitBytes", strconv.FormatInt(most, 10)).SetHeader("Accept", "*/*")
	if previous {
		request = request.Param("previous", "true")
	}
	text, err := request.DoRaw(ctx)
	if err != nil {
		return nil, refused(fmt.Sprintf("the log of %s/%s", namespace, pod), "get pods/log", err)
	}
	return text, nil
}

// CSIDriver returns the spec of a CSIDriver object as JSON, and the namespace of the Helm release that it belongs to, empty where it does not say. Errors
// are of type *volume.Error.
func (c *Caller) CSIDriver(ctx context.Context, name string) (spec json.RawMessage, namespace string, err error) {
	var object struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     json.RawMessage   `json:"spec"`
	}
	if err := into(c.api.rest.Get().AbsPath("/apis/storage.k8s.io/v1/csidrivers", name).Do(ctx), &object); err != nil {
		return nil, "", refused("the CSIDriver "+name, "get csidrivers", err)
	}
	return object.Spec, object.Metadata.Annotations["meta.helm.sh/release-namespace"], nil
}
