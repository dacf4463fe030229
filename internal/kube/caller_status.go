package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// eachPageOf lists objects page by page. A list of a version or a kind that the cluster does not have is empty.
func eachPageOf[T any](ctx context.Context, request func() *rest.Request, options metav1.ListOptions, next func(T) string) error {
	options.Limit = classPage
	for {
		var page T
		err := into(request().VersionedParams(&options, metav1.ParameterCodec).Do(ctx), &page)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if options.Continue = next(page); options.Continue == "" {
			return nil
		}
	}
}

// EachStatus gives the status objects of a namespace, of all where it is empty. Errors are of type *volume.Error.
func (c *Caller) EachStatus(ctx context.Context, namespace string, take func(*v1.SecretProviderClassPodStatus)) error {
	err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().Namespace(namespace).Resource(statusResource) },
		metav1.ListOptions{}, func(page v1.SecretProviderClassPodStatusList) string {
			for i := range page.Items {
				take(&page.Items[i])
			}
			return page.Continue
		})
	if err != nil {
		return refused("the status objects", "list secretproviderclasspodstatuses", err)
	}
	return nil
}

// EachSecretSync gives the SecretSyncs of a namespace, of all where it is empty; none where the cluster does not have the kind. Errors are of
// type *volume.Error.
func (c *Caller) EachSecretSync(ctx context.Context, namespace string, take func(*syncv1alpha1.SecretSync)) error {
	path := []string{"/apis", syncv1alpha1.GroupVersion().Group, syncv1alpha1.GroupVersion().Version}
	if namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	path = append(path, "secretsyncs")
	err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().AbsPath(path...) },
		metav1.ListOptions{}, func(page syncv1alpha1.SecretSyncList) string {
			for i := range page.Items {
				take(&page.Items[i])
			}
			return page.Continue
		})
	if err != nil {
		return refused("the SecretSyncs", "list secretsyncs", err)
	}
	return nil
}

// WaitingPod is a Pod that has not started, with a volume of the driver.
type WaitingPod struct {
	Namespace, Name, Node string
	UID                   types.UID
	// Class is that of the volume.
	Class   string
	Created metav1.Time
}

// pendingPod is the part of a Pod that is used.
type pendingPod struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		NodeName string `json:"nodeName"`
		Volumes  []struct {
			CSI *struct {
				Driver     string            `json:"driver"`
				Attributes map[string]string `json:"volumeAttributes"`
			} `json:"csi"`
		} `json:"volumes"`
	} `json:"spec"`
}

type pendingPods struct {
	Metadata metav1.ListMeta `json:"metadata"`
	Items    []pendingPod    `json:"items"`
}

// EachWaiting gives the Pods of a namespace, of all where it is empty, that are scheduled, have not started and have a volume of the driver.
// Errors are of type *volume.Error.
func (c *Caller) EachWaiting(ctx context.Context, namespace, driver string, take func(WaitingPod)) error {
	path := "/api/v1/pods"
	if namespace != "" {
		path = fmt.Sprintf("/api/v1/namespaces/%s/pods", namespace)
	}
	err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().AbsPath(path) },
		metav1.ListOptions{FieldSelector: "status.phase=Pending"}, func(page pendingPods) string {
			for _, pod := range page.Items {
				for _, v := range pod.Spec.Volumes {
					if v.CSI == nil || v.CSI.Driver != driver || pod.Spec.NodeName == "" {
						continue
					}
					take(WaitingPod{
						Namespace: pod.Metadata.Namespace, Name: pod.Metadata.Name, UID: pod.Metadata.UID, Node: pod.Spec.NodeName,
						Class: v.CSI.Attributes["secretProviderClass"], Created: pod.Metadata.CreationTimestamp,
					})
				}
			}
			return page.Metadata.Continue
		})
	if err != nil {
		return refused("the Pods", "list pods", err)
	}
	return nil
}

// LastEvents returns the newest warning of the kubelet or the driver for each Pod of a namespace, of all where it is empty, by the Pod's UID.
// Errors are of type *volume.Error.
func (c *Caller) LastEvents(ctx context.Context, namespace string) (map[types.UID]string, error) {
	type podEvent struct {
		InvolvedObject objectReference `json:"involvedObject"`
		Reason         string          `json:"reason"`
		Message        string          `json:"message"`
		Last           metav1.Time     `json:"lastTimestamp"`
	}
	type podEventList struct {
		Metadata metav1.ListMeta `json:"metadata"`
		Items    []podEvent      `json:"items"`
	}
	path := "/api/v1/events"
	if namespace != "" {
		path = fmt.Sprintf("/api/v1/namespaces/%s/events", namespace)
	}
	newest, texts := map[types.UID]metav1.Time{}, map[types.UID]string{}
	err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().AbsPath(path) },
		metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.kind=Pod"}, func(page podEventList) string {
			for _, e := range page.Items {
				if at, ok := newest[e.InvolvedObject.UID]; !ok || at.Before(&e.Last) {
					newest[e.InvolvedObject.UID], texts[e.InvolvedObject.UID] = e.Last, e.Message
				}
			}
			return page.Metadata.Continue
		})
	if err != nil {
		return nil, refused("the events", "list events", err)
	}
	return texts, nil
}

// MountingPod is a Pod with volumes of the driver.
type MountingPod struct {
	Namespace, Name, Node string
	UID                   types.UID
	// ServiceAccount is the Pod's, default where it names none.
	ServiceAccount string
	Phase          string
	Created        metav1.Time
	Volumes        []MountedVolume
}

// MountedVolume is a volume of the driver in a Pod.
type MountedVolume struct {
	Name, Class string
	// Attributes are the volumeAttributes without the class.
	Attributes map[string]string
	// SecretRef is the name of nodePublishSecretRef's Secret.
	SecretRef string
}

// podObject is the part of a Pod, or of a Pod template, that is used.
type podObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		NodeName       string `json:"nodeName"`
		ServiceAccount string `json:"serviceAccountName"`
		Volumes        []struct {
			Name string `json:"name"`
			CSI  *struct {
				Driver     string            `json:"driver"`
				Attributes map[string]string `json:"volumeAttributes"`
				SecretRef  *struct {
					Name string `json:"name"`
				} `json:"nodePublishSecretRef"`
			} `json:"csi"`
		} `json:"volumes"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

// mounting is the Pod with its volumes of the driver.
func (p *podObject) mounting(driver string) MountingPod {
	m := MountingPod{
		Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, Node: p.Spec.NodeName, UID: p.Metadata.UID, ServiceAccount: p.Spec.ServiceAccount,
		Phase: p.Status.Phase, Created: p.Metadata.CreationTimestamp,
	}
	if m.ServiceAccount == "" {
		m.ServiceAccount = "default"
	}
	for _, v := range p.Spec.Volumes {
		if v.CSI == nil || v.CSI.Driver != driver {
			continue
		}
		mounted := MountedVolume{Name: v.Name, Class: v.CSI.Attributes["secretProviderClass"], Attributes: map[string]string{}}
		for key, value := range v.CSI.Attributes {
			if key != "secretProviderClass" {
				mounted.Attributes[key] = value
			}
		}
		if v.CSI.SecretRef != nil {
			mounted.SecretRef = v.CSI.SecretRef.Name
		}
		m.Volumes = append(m.Volumes, mounted)
	}
	return m
}

// Pod returns a Pod with its volumes of the driver. Errors are of type *volume.Error.
func (c *Caller) Pod(ctx context.Context, namespace, name, driver string) (MountingPod, error) {
	var pod podObject
	err := into(core(c.api.rest.Get(), namespace, "pods", name).Do(ctx), &pod)
	if apierrors.IsNotFound(err) {
		return MountingPod{}, &volume.Error{Reason: volume.ReasonNotFound, Cause: err, Message: fmt.Sprintf(
			"pod %s/%s was not found: correct the name or --namespace, or check --context", namespace, name)}
	}
	if err != nil {
		return MountingPod{}, refused(fmt.Sprintf("pod %s/%s", namespace, name), "get pods", err)
	}
	return pod.mounting(driver), nil
}

// Pods gives the Pods of a namespace, of all where it is empty, that match a label selector and have a volume of the driver. Errors are of
// type *volume.Error.
func (c *Caller) Pods(ctx context.Context, namespace, selector, driver string, take func(MountingPod)) error {
	path := "/api/v1/pods"
	if namespace != "" {
		path = fmt.Sprintf("/api/v1/namespaces/%s/pods", namespace)
	}
	err := eachPageOf(ctx, func() *rest.Request { return c.api.rest.Get().AbsPath(path) },
		metav1.ListOptions{LabelSelector: selector}, func(page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []podObject     `json:"items"`
		}) string {
			for i := range page.Items {
				if m := page.Items[i].mounting(driver); len(m.Volumes) > 0 {
					take(m)
				}
			}
			return page.Metadata.Continue
		})
	if err != nil {
		return refused("the Pods", "list pods", err)
	}
	return nil
}

// Namespaces lists the names of the namespaces.
func (c *Caller) Namespaces(ctx context.Context) (names []string, err error) {
	err = eachPageOf(ctx, func() *rest.Request {
		return c.api.rest.Get().AbsPath("/api/v1/namespaces").SetHeader("Accept", metadataLists)
	}, metav1.ListOptions{}, func(page metav1.PartialObjectMetadataList) string {
		for i := range page.Items {
			names = append(names, page.Items[i].Name)
		}
		return page.Continue
	})
	if err != nil {
		return nil, refused("the namespaces", "list namespaces", err)
	}
	return names, nil
}

// metadataLists asks for the metadata of a list's objects alone.
const metadataLists = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
