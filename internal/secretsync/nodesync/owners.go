package nodesync

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// podOwners is what is known of a Pod, as long as it has a volume here.
type podOwners struct {
	volumes int
	// reading is not nil while somebody reads the Pod.
	reading *podRead
	// refs are the owners that the Pod gives its Secrets: its own owners, or itself where it has none. Nil until they
	// are read.
	refs    []metav1.OwnerReference
	created time.Time
	// gone is true where the API server said last that there is no such Pod.
	gone bool
}

// podRead is one read of a Pod that several requests wait for.
type podRead struct {
	done  chan struct{}
	found *podOwners // nil where the Pod is gone
	err   error
}

// holdOwners and releaseOwners count a Pod's volumes. The caller holds mu.
func (s *Syncer) holdOwners(ref volume.Ref) {
	uid := types.UID(ref.Pod.UID)
	if s.owners[uid] == nil {
		s.owners[uid] = &podOwners{}
	}
	s.owners[uid].volumes++
}

func (s *Syncer) releaseOwners(ref volume.Ref) {
	uid := types.UID(ref.Pod.UID)
	if held := s.owners[uid]; held != nil {
		if held.volumes--; held.volumes == 0 {
			delete(s.owners, uid)
		}
	}
}

// ownersOf returns what a Pod gives its Secrets; nil where the Pod is gone. The API server is asked once per Pod.
func (s *Syncer) ownersOf(ctx context.Context, pod volume.Pod, slots chan struct{}) (*podOwners, error) {
	uid := types.UID(pod.UID)
	s.mu.Lock()
	held := s.owners[uid]
	if held == nil { // its last volume is gone
		s.mu.Unlock()
		return nil, nil
	}
	if held.refs != nil {
		s.mu.Unlock()
		return held, nil
	}
	read := held.reading
	if read == nil {
		read = &podRead{done: make(chan struct{})}
		held.reading = read
		s.mu.Unlock()
		s.goes(func(ctx context.Context) { s.readPod(ctx, pod, held, read, slots) })
	} else {
		s.mu.Unlock()
	}
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("read Pod %s: %w", pod, context.Cause(ctx))
	case <-s.ctx.Done():
		return nil, fmt.Errorf("read Pod %s: %w", pod, context.Canceled)
	case <-read.done:
		return read.found, read.err
	}
}

// readPod asks the API server. A Pod of the same name and another uid is another Pod.
func (s *Syncer) readPod(ctx context.Context, pod volume.Pod, held *podOwners, read *podRead, slots chan struct{}) {
	defer close(read.done)
	read.err = fmt.Errorf("read Pod %s: not finished", pod)
	defer s.recovered(ctx, "read a Pod")
	found, err := s.podMetadata(ctx, pod, slots)
	s.mu.Lock()
	defer s.mu.Unlock()
	held.reading = nil
	if read.err = err; err != nil {
		return
	}
	if held.gone = found == nil; held.gone {
		return
	}
	held.created = found.CreationTimestamp.Time
	held.refs = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: found.Name, UID: found.UID}}
	if len(found.OwnerReferences) > 0 {
		held.refs = nil
		for _, o := range found.OwnerReferences {
			// neither controller nor blockOwnerDeletion: the Secret is controlled by none of them and holds none up
			held.refs = append(
				held.refs,
				metav1.OwnerReference{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: o.UID},
			)
		}
	}
	read.found = held
}

func (s *Syncer) podMetadata(
	ctx context.Context,
	pod volume.Pod,
	slots chan struct{},
) (*metav1.PartialObjectMetadata, error) {
	release, err := acquire(ctx, slots)
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found, err := s.pods.PodMetadata(ctx, pod.Namespace, pod.Name)
	if err != nil {
		return nil, fmt.Errorf("read Pod %s: %w", pod, err)
	}
	if found == nil || found.UID != types.UID(pod.UID) {
		return nil, nil
	}
	return found, nil
}
