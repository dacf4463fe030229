package podsecrets

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// groupKey names the Pods that get the same bundle: of one class, one service account, and equal volumeAttributes.
type groupKey struct {
	namespace, class, account string
	// attributes is volume.HashAttributes of the volumeAttributes.
	attributes string
}

func (k groupKey) String() string { return k.namespace + "/" + k.class + " of " + k.account }

// podInfo is what is known of a Pod that runs. What decides about its Secrets cannot change in a Pod.
type podInfo struct {
	metadata *metav1.PartialObjectMetadata
	account  string
	// node is the name of its node.
	node    string
	volumes []podVolume
	// starting is true where its containers did not run yet when it was read first: one may wait for a Secret.
	starting bool
	// seenAt is when the API server last said that the Pod has not ended. It and mounts are guarded by store.mu.
	seenAt time.Time
	// mounts counts the status objects that count.
	mounts int
}

func (i *podInfo) name() types.NamespacedName {
	return types.NamespacedName{Namespace: i.metadata.Namespace, Name: i.metadata.Name}
}

// owners are the UIDs that own the Pod's Secrets.
func (i *podInfo) owners() (uids []types.UID) {
	for _, o := range i.metadata.OwnerReferences {
		uids = append(uids, o.UID)
	}
	if uids == nil {
		uids = []types.UID{i.metadata.UID}
	}
	return uids
}

// podVolume is one volume of this driver in a Pod.
type podVolume struct {
	name, class string
	attributes  map[string]string
	// principal is true where the volume names a Secret with a service principal (nodePublishSecretRef).
	principal bool
}

// mount is a status object that counts.
type mount struct {
	claim claim
	pod   *podInfo
	refs  map[groupKey][]volume.Ref
}

// group is what is known of the Pods that share a bundle.
type group struct {
	key groupKey

	// What follows belongs to the reconciler, which works on a group once at a time.

	timing timing.Timing
	// failure is why the last fetch failed; empty where it did not.
	failure volume.Reason

	// What follows is guarded by store.mu.

	attributes map[string]string
	refs       map[string]*member // by target path
	owners     map[types.UID]int  // how many members they have
	// revision grows when the group is due for the sake of a Pod. At 0, all of its Pods ran before this process began.
	revision int
	// waiting is true where a Pod started since the last good sync.
	waiting bool
	synced  bool
	failing bool
	// delivered is what each Secret is made from, for the audit log.
	delivered map[string]audit.Synced
	// notBefore is how old an answer of the vault may be, where an older one was of no use.
	notBefore time.Time
}

type member struct {
	ref volume.Ref
	pod *podInfo
	// uses counts the status objects that name it.
	uses int
}

// store is the only owner of what is known of status objects, Pods and groups.
type store struct {
	mu     sync.Mutex
	mounts map[types.NamespacedName]*mount // by status object
	pods   map[types.NamespacedName]*podInfo
	groups map[groupKey]*group
	// classes are the groups of each class.
	classes map[types.NamespacedName]map[groupKey]bool
	// refused are claims of status objects that do not count: only another claim is looked at again.
	refused map[types.NamespacedName]claim
	// initial are status objects that there were when this process began, and that it has not looked at yet.
	initial map[types.NamespacedName]bool
}

func newStore() *store {
	return &store{
		mounts: map[types.NamespacedName]*mount{}, pods: map[types.NamespacedName]*podInfo{}, groups: map[groupKey]*group{},
		classes: map[types.NamespacedName]map[groupKey]bool{}, refused: map[types.NamespacedName]claim{},
		initial: map[types.NamespacedName]bool{},
	}
}

// noteInitial notes a status object that is older than this process.
func (s *store) noteInitial(status types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.initial[status] = true
}

// takeInitial reports whether a status object is older than this process and is looked at for the first time.
func (s *store) takeInitial(status types.NamespacedName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.initial[status]
	delete(s.initial, status)
	return was
}

// knows reports whether a status object counts.
func (s *store) knows(status types.NamespacedName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mounts[status] != nil
}

// decided reports whether a status object was looked at with this claim.
func (s *store) decided(status types.NamespacedName, c claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.mounts[status]; m != nil {
		return m.claim == c
	}
	refused, ok := s.refused[status]
	return ok && refused == c
}

// refuse notes that a status object does not count.
func (s *store) refuse(status types.NamespacedName, c claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[status] = c
}

// forget drops all that is known of a status object. It returns the volumes that no other status object names, and the groups that have one
// less.
func (s *store) forget(status types.NamespacedName) (gone []volume.Ref, groups []groupKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refused, status)
	delete(s.initial, status)
	return s.remove(status)
}

// remove takes a mount out. The caller holds mu.
func (s *store) remove(status types.NamespacedName) (gone []volume.Ref, groups []groupKey) {
	m := s.mounts[status]
	if m == nil {
		return nil, nil
	}
	delete(s.mounts, status)
	for key, refs := range m.refs {
		g := s.groups[key]
		for _, ref := range refs {
			one := g.refs[ref.TargetPath]
			if one.uses--; one.uses > 0 {
				continue
			}
			delete(g.refs, ref.TargetPath)
			for _, uid := range one.pod.owners() {
				if g.owners[uid]--; g.owners[uid] == 0 {
					delete(g.owners, uid)
				}
			}
			gone = append(gone, ref)
		}
		groups = append(groups, key)
	}
	if m.pod.mounts--; m.pod.mounts == 0 && s.pods[m.pod.name()] == m.pod {
		delete(s.pods, m.pod.name())
	}
	return gone, groups
}

// add makes a status object count. Initial is true where it is older than this process. It returns what forget does of what the status object
// said before, and all groups that it is in now or was.
func (s *store) add(status types.NamespacedName, c claim, pod *podInfo, volumes []podVolume, initial bool) (gone []volume.Ref, groups []groupKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone, groups = s.remove(status)
	delete(s.refused, status)
	m := &mount{claim: c, pod: pod, refs: map[groupKey][]volume.Ref{}}
	s.mounts[status] = m
	pod.mounts++
	s.pods[pod.name()] = pod
	for _, v := range volumes {
		ref := refOf(pod, v)
		key := groupKey{namespace: c.pod.Namespace, class: v.class, account: pod.account, attributes: ref.Attributes}
		m.refs[key] = append(m.refs[key], ref)
		s.join(key, v.attributes, ref, pod, initial)
		groups = append(groups, key)
	}
	return gone, groups
}

// refOf names one volume. There is no target path here: the Pod's UID and the volume's name say the same.
func refOf(pod *podInfo, v podVolume) volume.Ref {
	return volume.Ref{
		ID:         string(pod.metadata.UID) + "/" + v.name,
		TargetPath: string(pod.metadata.UID) + "/" + v.name,
		Pod: volume.Pod{
			Namespace: pod.metadata.Namespace, Name: pod.metadata.Name, UID: string(pod.metadata.UID), ServiceAccount: pod.account,
		},
		Class:      v.class,
		Attributes: volume.HashAttributes(v.attributes),
	}
}

// join adds a volume to its group, and makes the group due where the Pod may wait for it. The caller holds mu.
func (s *store) join(key groupKey, attributes map[string]string, ref volume.Ref, pod *podInfo, initial bool) {
	g := s.groups[key]
	if g == nil {
		g = &group{key: key, attributes: attributes, refs: map[string]*member{}, owners: map[types.UID]int{}}
		s.groups[key] = g
		class := types.NamespacedName{Namespace: key.namespace, Name: key.class}
		if s.classes[class] == nil {
			s.classes[class] = map[groupKey]bool{}
		}
		s.classes[class][key] = true
	}
	if one := g.refs[ref.TargetPath]; one != nil {
		one.uses++
		return
	}
	newOwner := false
	for _, uid := range pod.owners() {
		newOwner = newOwner || g.owners[uid] == 0
		g.owners[uid]++
	}
	g.refs[ref.TargetPath] = &member{ref: ref, pod: pod, uses: 1}
	if pod.starting || !g.synced && !initial || g.synced && newOwner {
		g.revision++
	}
	g.waiting = g.waiting || pod.starting
}

// dropIfEmpty forgets a group without Pods, and reports whether it has none.
func (s *store) dropIfEmpty(key groupKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[key]
	if g == nil {
		return true
	}
	if len(g.refs) > 0 {
		return false
	}
	class := types.NamespacedName{Namespace: key.namespace, Name: key.class}
	delete(s.groups, key)
	if delete(s.classes[class], key); len(s.classes[class]) == 0 {
		delete(s.classes, class)
	}
	return true
}

// snapshot is what the store knows of a group at one moment.
type snapshot struct {
	group *group // of which only what belongs to the reconciler may be used without the store

	attributes map[string]string
	refs       []volume.Ref // by target path
	revision   int
	waiting    bool
	notBefore  time.Time
	seenAt     time.Time // when one of its Pods was last seen
}

// look returns a group; nil where there is none.
func (s *store) look(key groupKey) *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[key]
	if g == nil {
		return nil
	}
	l := &snapshot{group: g, attributes: g.attributes, revision: g.revision, waiting: g.waiting, notBefore: g.notBefore}
	for _, path := range slices.Sorted(maps.Keys(g.refs)) {
		one := g.refs[path]
		l.refs = append(l.refs, one.ref)
		if one.pod.seenAt.After(l.seenAt) {
			l.seenAt = one.pod.seenAt
		}
	}
	return l
}

// done notes a good sync of what was looked at.
func (s *store) done(l *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.group.synced, l.group.failing = true, false
	if l.group.revision == l.revision {
		l.group.waiting, l.group.notBefore = false, time.Time{}
	}
}

// failed notes a fetch that failed.
func (s *store) failed(l *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.group.failing = true
}

// state is what the metrics say.
func (s *store) state() (n metrics.PodSecretsState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.Counted, n.Refused = len(s.mounts), len(s.refused)
	for _, g := range s.groups {
		switch {
		case g.failing:
			n.Failing++
		case g.synced:
			n.Synced++
		default:
			n.Waiting++
		}
	}
	return n
}

// deliver notes what the Secrets of a group are made from.
func (s *store) deliver(l *snapshot, delivered map[string]audit.Synced) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.group.delivered = delivered
}

// deliveredTo returns what a Secret is made from, of the group that a volume is in.
func (s *store) deliveredTo(ref volume.Ref, secret string) (found audit.Synced, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[groupKey{namespace: ref.Pod.Namespace, class: ref.Class, account: ref.Pod.ServiceAccount, attributes: ref.Attributes}]
	if g == nil {
		return found, false
	}
	found, ok = g.delivered[secret]
	return found, ok
}

// has reports whether a volume is in a group.
func (s *store) has(key groupKey, ref volume.Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[key]
	return g != nil && g.refs[ref.TargetPath] != nil
}

// again makes the groups of a volume due, with answers that are not older than now.
func (s *store) again(ref volume.Ref, now time.Time) (groups []groupKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.classes[types.NamespacedName{Namespace: ref.Pod.Namespace, Name: ref.Class}] {
		if g := s.groups[key]; g.refs[ref.TargetPath] != nil {
			g.revision++
			g.notBefore = now
			groups = append(groups, key)
		}
	}
	return groups
}

// groupsOf returns the groups of a class.
func (s *store) groupsOf(class types.NamespacedName) []groupKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.classes[class]))
}

// podOf returns a Pod that is known to run; nil where it is not known.
func (s *store) podOf(name types.NamespacedName, uid types.UID) *podInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.pods[name]; found != nil && found.metadata.UID == uid {
		return found
	}
	return nil
}

// seen notes that a Pod has not ended.
func (s *store) seen(name types.NamespacedName, uid types.UID, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.pods[name]; found != nil && found.metadata.UID == uid {
		found.seenAt = now
	}
}

// end refuses all status objects of a Pod that has ended.
func (s *store) end(name types.NamespacedName, uid types.UID) (gone []volume.Ref, groups []groupKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for status, m := range s.mounts {
		if m.claim.pod == name && m.claim.uid == uid {
			refs, of := s.remove(status)
			gone, groups = append(gone, refs...), append(groups, of...)
			s.refused[status] = m.claim
		}
	}
	return gone, groups
}

// PodMetadata implements nodesync.Pods: what the API server said when the status object was looked at.
func (s *store) PodMetadata(_ context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.pods[types.NamespacedName{Namespace: namespace, Name: name}]; found != nil {
		return found.metadata, nil
	}
	return nil, nil
}
