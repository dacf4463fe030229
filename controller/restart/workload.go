package restart

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The kinds of workloads that can be restarted.
const (
	deployment  = "Deployment"
	statefulSet = "StatefulSet"
	daemonSet   = "DaemonSet"
)

func kinds() []string { return []string{deployment, statefulSet, daemonSet} }

// Key names a workload.
type Key struct {
	Kind string
	types.NamespacedName
}

// String is the key for logs.
func (k Key) String() string { return k.Kind + " " + k.NamespacedName.String() }

// metadataOf is an empty object that the cache knows the kind by its metadata.
func metadataOf(kind string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind(kind))
	return o
}

// objectOf is an empty object of the kind.
func objectOf(kind string) client.Object {
	switch kind {
	case statefulSet:
		return &appsv1.StatefulSet{}
	case daemonSet:
		return &appsv1.DaemonSet{}
	}
	return &appsv1.Deployment{}
}

// workload is what the three kinds have in common.
type workload struct {
	object   client.Object
	kind     string
	template *corev1.PodTemplateSpec
	selector labels.Selector
	// paused workloads are not rolled out by anybody.
	paused bool
	// rolling is true while Pods are replaced by ones of the newest template.
	rolling bool
}

// newWorkload reads an object of one of the three kinds.
func newWorkload(object client.Object) (*workload, error) {
	w := &workload{object: object}
	var selector *metav1.LabelSelector
	var observed int64
	switch o := object.(type) {
	case *appsv1.Deployment:
		w.kind, w.template, selector, observed = deployment, &o.Spec.Template, o.Spec.Selector, o.Status.ObservedGeneration
		w.paused, w.rolling = o.Spec.Paused, deploymentRolls(o)
	case *appsv1.StatefulSet:
		w.kind, w.template, selector, observed = statefulSet, &o.Spec.Template, o.Spec.Selector, o.Status.ObservedGeneration
		w.rolling = statefulSetRolls(o)
	case *appsv1.DaemonSet:
		w.kind, w.template, selector, observed = daemonSet, &o.Spec.Template, o.Spec.Selector, o.Status.ObservedGeneration
		w.rolling = o.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType && o.Status.UpdatedNumberScheduled < o.Status.DesiredNumberScheduled
	default:
		return nil, fmt.Errorf("%T is no workload that can be restarted", object)
	}
	w.rolling = w.rolling || observed < object.GetGeneration()
	var err error
	if w.selector, err = metav1.LabelSelectorAsSelector(selector); err != nil {
		return nil, fmt.Errorf("selector of %s %s: %w", w.kind, object.GetName(), err)
	}
	return w, nil
}

// deploymentRolls reports whether old Pods are being replaced. Pods that are not available do not make it a rollout: they may be so because
// of the very value that changed. A rollout that did not get further in its time is none either.
func deploymentRolls(d *appsv1.Deployment) bool {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" {
			return false
		}
	}
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	return d.Status.UpdatedReplicas < wanted || d.Status.Replicas > d.Status.UpdatedReplicas
}

func statefulSetRolls(s *appsv1.StatefulSet) bool {
	if s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return false
	}
	wanted := int32(1)
	if s.Spec.Replicas != nil {
		wanted = *s.Spec.Replicas
	}
	if r := s.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		wanted -= *r.Partition
	}
	return s.Status.UpdateRevision != s.Status.CurrentRevision && s.Status.UpdatedReplicas < wanted
}

func (w *workload) key() Key { return Key{w.kind, client.ObjectKeyFromObject(w.object)} }

// restarted is what the template says of the last restart.
func (w *workload) restarted() string { return w.template.Annotations[TemplateAnnotation] }

// uses are what the Pods of a workload read.
type uses struct {
	uid        types.UID
	generation int64
	// classes are the names of SecretProviderClasses that they mount, and secrets those of Secrets that they read.
	classes, secrets []string
}

// usesOf reads a template: inline CSI volumes, and Secrets as environment variables or volumes.
func usesOf(w *workload) *uses {
	classes, secrets := map[string]bool{}, map[string]bool{}
	for _, v := range w.template.Spec.Volumes {
		switch {
		case v.CSI != nil:
			classes[v.CSI.VolumeAttributes["secretProviderClass"]] = true
		case v.Secret != nil:
			secrets[v.Secret.SecretName] = true
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.Secret != nil {
					secrets[s.Secret.Name] = true
				}
			}
		}
	}
	for _, c := range slices.Concat(w.template.Spec.InitContainers, w.template.Spec.Containers) {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				secrets[e.ValueFrom.SecretKeyRef.Name] = true
			}
		}
		for _, e := range c.EnvFrom {
			if e.SecretRef != nil {
				secrets[e.SecretRef.Name] = true
			}
		}
	}
	delete(classes, "")
	delete(secrets, "")
	return &uses{
		uid: w.object.GetUID(), generation: w.object.GetGeneration(),
		classes: slices.Sorted(maps.Keys(classes)), secrets: slices.Sorted(maps.Keys(secrets)),
	}
}
