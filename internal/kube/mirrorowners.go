package kube

import (
	"context"
	"fmt"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// podReads lets a pod's Secrets share the one read of the pod.
type podReads = singleflight.Group

// podOwners are the owners that a pod gives its Secrets: its own owners, or itself where it has none.
type podOwners struct {
	volumes int
	refs    []metav1.OwnerReference // nil until they are read
}

// hold and release count a pod's volumes: its owners are known as long as it has one. The caller holds the lock.
func (m *Mirror) hold(ref volume.Ref) {
	uid := types.UID(ref.Pod.UID)
	if m.owners[uid] == nil {
		m.owners[uid] = &podOwners{}
	}
	m.owners[uid].volumes++
}

func (m *Mirror) release(ref volume.Ref) {
	uid := types.UID(ref.Pod.UID)
	if held := m.owners[uid]; held != nil {
		if held.volumes--; held.volumes == 0 {
			delete(m.owners, uid)
		}
	}
}

// ownersOf returns the owners for a pod's Secrets. It asks the API server once per pod; gone is true where the pod is no
// more.
func (m *Mirror) ownersOf(ctx context.Context, pod volume.Pod) (owners []metav1.OwnerReference, gone bool, err error) {
	uid := types.UID(pod.UID)
	known := func() []metav1.OwnerReference {
		m.mu.Lock()
		defer m.mu.Unlock()
		if held := m.owners[uid]; held != nil {
			return held.refs
		}
		return nil
	}
	if owners = known(); owners != nil {
		return owners, false, nil
	}
	answer := m.podReads.DoChan(pod.UID, func() (any, error) {
		if owners := known(); owners != nil {
			return owners, nil
		}
		return m.readOwners(context.WithoutCancel(ctx), pod)
	})
	select {
	case <-ctx.Done():
		return nil, false, fmt.Errorf("read Pod %s: %w", pod, context.Cause(ctx))
	case result := <-answer:
		owners, _ = result.Val.([]metav1.OwnerReference)
		return owners, result.Err == nil && owners == nil, result.Err
	}
}

// readOwners returns nil where the pod is gone, or another one has its name.
func (m *Mirror) readOwners(ctx context.Context, pod volume.Pod) ([]metav1.OwnerReference, error) {
	ctx, cancel := context.WithTimeout(ctx, m.requestTimeout)
	defer cancel()
	got, err := m.pods.Namespace(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && got.UID != types.UID(pod.UID) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Pod %s: %w", pod, err)
	}
	owners := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: got.Name, UID: got.UID}}
	if len(got.OwnerReferences) > 0 {
		owners = nil
		for _, o := range got.OwnerReferences {
			// neither controller nor blockOwnerDeletion: the Secret is controlled by none of them and holds none up
			owners = append(owners, metav1.OwnerReference{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: o.UID})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if held := m.owners[types.UID(pod.UID)]; held != nil {
		held.refs = owners
	}
	return owners, nil
}
