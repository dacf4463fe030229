package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// lastSuccessAnnotation is when the vault was asked with success last, as known when the object was written.
	lastSuccessAnnotation = "keyvault-csi/last-success"
	// staleSinceAnnotation is how old the content is, where it is a last known good one.
	staleSinceAnnotation = "keyvault-csi/stale-since"
	// failingSinceAnnotation, failureReasonAnnotation and failureAnnotation tell of refreshes that fail now.
	failingSinceAnnotation  = "keyvault-csi/failing-since"
	failureReasonAnnotation = "keyvault-csi/failure-reason"
	failureAnnotation       = "keyvault-csi/failure"

	// maxName and maxLabel are Kubernetes' limits, in bytes.
	maxName  = 253
	maxLabel = 63
)

// volumeStatus is what is known of one volume.
type volumeStatus struct {
	ref         volume.Ref
	objects     map[string]string // version by id
	lastSuccess time.Time
	staleSince  time.Time

	failing      volume.Reason
	failingSince time.Time
	failure      string
}

func mountedStatus(e report.Event) *volumeStatus {
	s := &volumeStatus{ref: e.Volume, objects: make(map[string]string, len(e.Bundle.Objects)), lastSuccess: e.Bundle.FetchedAt}
	for _, o := range e.Bundle.Objects {
		s.objects[o.ID] = o.Version
	}
	if e.Bundle.Stale {
		s.staleSince = e.Bundle.FetchedAt
	}
	return s
}

// failed notes a refresh that failed. Only another reason changes what is told: messages may hold times.
func (s *volumeStatus) failed(e report.Event) {
	if s.failingSince.IsZero() {
		s.failingSince = e.Time
	}
	if s.failing != e.Reason {
		s.failing, s.failure = e.Reason, clip(e.Message)
	}
}

// merge makes one object of the volumes: one pod may mount one class twice. The first by path gives the path, all give
// objects, and the worst gives the annotations.
func (o *statusObject) merge(driverName, nodeID string, name types.NamespacedName) *v1.SecretProviderClassPodStatus {
	targets := slices.Sorted(maps.Keys(o.volumes))
	first := o.volumes[targets[0]]
	status := &v1.SecretProviderClassPodStatus{
		TypeMeta: metav1.TypeMeta{APIVersion: groupVersion.String(), Kind: "SecretProviderClassPodStatus"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name.Name, Namespace: name.Namespace, Annotations: map[string]string{},
			Labels: map[string]string{"internal." + driverName + "/node-name": shorten(nodeID, maxLabel)},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: first.ref.Pod.Name, UID: types.UID(first.ref.Pod.UID),
			}},
		},
		Status: v1.SecretProviderClassPodStatusStatus{
			PodName: first.ref.Pod.Name, SecretProviderClassName: first.ref.Class, Mounted: true,
			TargetPath: first.ref.TargetPath,
		},
	}
	objects := map[string]string{}
	oldest := first
	for _, target := range slices.Backward(targets) {
		s := o.volumes[target]
		maps.Copy(objects, s.objects)
		if s.lastSuccess.Before(oldest.lastSuccess) {
			oldest = s
		}
		annotate(status.Annotations, s)
	}
	status.Annotations[lastSuccessAnnotation] = stamp(oldest.lastSuccess)
	for _, id := range slices.Sorted(maps.Keys(objects)) {
		status.Status.Objects = append(status.Status.Objects, v1.SecretProviderClassObject{ID: id, Version: objects[id]})
	}
	return status
}

func annotate(annotations map[string]string, s *volumeStatus) {
	if !s.staleSince.IsZero() {
		annotations[staleSinceAnnotation] = stamp(s.staleSince)
	}
	if s.failing != "" {
		annotations[failingSinceAnnotation] = stamp(s.failingSince)
		annotations[failureReasonAnnotation] = string(s.failing)
		annotations[failureAnnotation] = s.failure
	}
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// statusName is the name that existing tools look for.
func statusName(ref volume.Ref) string {
	return shorten(ref.Pod.Name+"-"+ref.Pod.Namespace+"-"+ref.Class, maxName)
}

// shorten keeps a name within the limit: a longer one ends in a digest of the whole.
func shorten(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	digest := sha256.Sum256([]byte(name))
	tail := "-" + hex.EncodeToString(digest[:6])
	return strings.TrimRight(name[:limit-len(tail)], "-.") + tail
}
