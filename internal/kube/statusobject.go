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
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// LastSuccessAnnotation is when the vault was asked with success last, as known when the object was written.
	LastSuccessAnnotation = "keyvault-csi/last-success"
	// StaleSinceAnnotation is how old the content is, where it is a last known good one.
	StaleSinceAnnotation = "keyvault-csi/stale-since"
	// FailingSinceAnnotation is since when refreshes fail.
	FailingSinceAnnotation = "keyvault-csi/failing-since"
	// FailureReasonAnnotation is why they fail, as a word.
	FailureReasonAnnotation = "keyvault-csi/failure-reason"
	// FailureAnnotation is why they fail, as a sentence.
	FailureAnnotation = "keyvault-csi/failure"

	// maxName and maxLabel are Kubernetes' limits, in bytes.
	maxName  = 253
	maxLabel = 63
)

// statusOf makes one object of the volumes: one Pod may mount one class twice. The first by path gives the path, all
// give objects, and the worst gives the annotations.
func statusOf(
	volumes []*volume.Snapshot, driverName, nodeID string, name types.NamespacedName,
) *v1.SecretProviderClassPodStatus {
	slices.SortFunc(
		volumes,
		func(a, b *volume.Snapshot) int { return strings.Compare(a.Ref.TargetPath, b.Ref.TargetPath) },
	)
	first := volumes[0].Ref
	status := &v1.SecretProviderClassPodStatus{
		TypeMeta: metav1.TypeMeta{APIVersion: groupVersion().String(), Kind: "SecretProviderClassPodStatus"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        name.Name,
			Namespace:   name.Namespace,
			Annotations: map[string]string{},
			Labels:      map[string]string{NodeLabel(driverName): NodeLabelValue(nodeID)},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1",
				Kind:       "Pod",
				Name:       first.Pod.Name,
				UID:        types.UID(first.Pod.UID),
			}},
		},
		Status: v1.SecretProviderClassPodStatusStatus{
			PodName:                 first.Pod.Name,
			SecretProviderClassName: first.Class,
			Mounted:                 true,
			TargetPath:              first.TargetPath,
		},
	}
	objects := map[string]v1.SecretProviderClassObject{}
	oldest := volumes[0].FetchedAt
	for _, s := range slices.Backward(volumes) {
		for _, o := range s.Objects {
			object := v1.SecretProviderClassObject{ID: o.ID, Version: o.Version, StartedVersion: s.Started[o.ID]}
			if !o.Expires.IsZero() {
				object.Expires = new(metav1.NewTime(o.Expires.UTC().Truncate(time.Second)))
			}
			objects[o.ID] = object
		}
		if s.FetchedAt.Before(oldest) {
			oldest = s.FetchedAt
		}
		annotate(status.Annotations, s)
	}
	status.Annotations[LastSuccessAnnotation] = stamp(oldest)
	for _, id := range slices.Sorted(maps.Keys(objects)) {
		status.Status.Objects = append(status.Status.Objects, objects[id])
	}
	return status
}

func annotate(annotations map[string]string, s *volume.Snapshot) {
	if s.Stale {
		annotations[StaleSinceAnnotation] = stamp(s.FetchedAt)
	}
	if s.Failure != nil {
		annotations[FailingSinceAnnotation] = stamp(s.Failure.Since)
		annotations[FailureReasonAnnotation] = string(s.Failure.Reason)
		annotations[FailureAnnotation] = clip("the files stay as they are: " + s.Failure.Message)
	}
}

// NodeLabel is the key of the label that names the node whose driver wrote a status object.
func NodeLabel(driverName string) string { return "internal." + driverName + "/node-name" }

// NodeLabelValue is the label's value for a node. A name that is too long for a label ends in a hash of the whole.
func NodeLabelValue(node string) string { return shorten(node, maxLabel) }

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
