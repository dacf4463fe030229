package secretsync

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// apiServer is as much of an API server as the order of writes needs: Secrets with resource versions, server-side apply with field
// managers of data, and owners. The tests in test/integration run against a real one.
type apiServer struct {
	mu      sync.Mutex
	version int
	secrets map[string]*storedSecret
	classes map[string]*classObject
	// delay is called before a request takes effect, outside of any lock; nil for none.
	delay func()
	// written is called after each change, inside the lock.
	written func(*storedSecret)
	fail    func(kind types.PatchType) error
	// failInherit is the answer to a change of managedFields; nil makes it.
	failInherit error

	requests []string
}

type classObject struct {
	uid     types.UID
	secrets []string
}

type storedSecret struct {
	name        string
	uid         types.UID
	version     string
	kind        string
	labels      map[string]string
	annotations map[string]string
	data        map[string]string
	owners      []metav1.OwnerReference
	// managers are the data keys of each field manager.
	managers map[string]*managed
	// terminating is true while finalizers hold it.
	terminating bool
	// entries are more of managedFields.
	entries []metav1.ManagedFieldsEntry
}

type managed struct {
	data, labels, annotations map[string]bool
	owners                    map[types.UID]bool
}

func newAPIServer() *apiServer {
	return &apiServer{version: 10, secrets: map[string]*storedSecret{}, classes: map[string]*classObject{}}
}

func (a *apiServer) ClassUID(_ context.Context, _, name string) (types.UID, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.classes[name]; c != nil {
		return c.uid, nil
	}
	return "", nil
}

func (a *apiServer) SecretClasses(_ context.Context, _, secret string) (names []string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, c := range a.classes {
		if slices.Contains(c.secrets, secret) {
			names = append(names, name)
		}
	}
	return names, nil
}

var secretKind = schema.GroupResource{Resource: "secrets"} //nolint:gochecknoglobals // a name

type applied struct {
	Metadata struct {
		UID             types.UID
		ResourceVersion string
		Labels          map[string]string
		Annotations     map[string]string
		OwnerReferences []metav1.OwnerReference
	}
	Type string
	Data map[string]string
}

func (a *apiServer) Patch(ctx context.Context, name types.NamespacedName, kind types.PatchType, body []byte, o metav1.PatchOptions) (
	*metav1.PartialObjectMetadata, error,
) {
	if a.delay != nil {
		a.delay()
		defer a.delay()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	what := map[types.PatchType]string{
		types.JSONPatchType: "probe", types.ApplyPatchType: "apply", types.StrategicMergePatchType: "owners",
	}[kind]
	inherits := kind == types.JSONPatchType && strings.Contains(string(body), "/metadata/managedFields")
	if inherits {
		what = "inherit"
	}
	if o.Force != nil && *o.Force {
		what += " forced"
	}
	a.requests = append(a.requests, what)
	if a.fail != nil {
		if err := a.fail(kind); err != nil {
			return nil, err
		}
	}
	s := a.secrets[name.Name]
	if kind == types.JSONPatchType {
		switch {
		case s == nil:
			return nil, apierrors.NewNotFound(secretKind, name.Name)
		case s.labels["managed"] != "true":
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid}}
		case inherits && a.failInherit != nil:
			return nil, a.failInherit
		case inherits:
			if err := s.setManagers(body); err != nil {
				return nil, err
			}
			return a.store(s), nil
		}
		return s.answer(), nil
	}
	var in applied
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	if s == nil {
		if kind != types.ApplyPatchType || in.Metadata.UID != "" {
			return nil, apierrors.NewNotFound(secretKind, name.Name)
		}
		s = &storedSecret{name: name.Name, uid: types.UID("uid-" + strconv.Itoa(a.version)), managers: map[string]*managed{}}
	} else if in.Metadata.ResourceVersion != s.version {
		return nil, apierrors.NewConflict(secretKind, name.Name, fmt.Errorf("the object has been modified"))
	}
	if kind == types.StrategicMergePatchType {
		s.addOwners(in.Metadata.OwnerReferences)
		return a.store(s), nil
	}
	if s.kind != "" && s.kind != in.Type {
		status := metav1.Status{Code: 422, Reason: metav1.StatusReasonInvalid, Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Field: "type"}}}}
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	if causes := s.conflicts(o.FieldManager, in.Data); len(causes) > 0 && !*o.Force {
		status := metav1.Status{Code: 409, Reason: metav1.StatusReasonConflict, Details: &metav1.StatusDetails{Causes: causes}}
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	before := string(mustMarshal(s.answer())) + fmt.Sprint(s.data)
	s.apply(o.FieldManager, in)
	if s.version != "" && string(mustMarshal(s.answer()))+fmt.Sprint(s.data) == before {
		return s.answer(), nil // nothing changes
	}
	return a.store(s), nil
}

func (a *apiServer) store(s *storedSecret) *metav1.PartialObjectMetadata {
	a.version++
	s.version = strconv.Itoa(a.version)
	a.secrets[s.name] = s
	if a.written != nil {
		a.written(s)
	}
	return s.answer()
}

func (s *storedSecret) conflicts(manager string, data map[string]string) (causes []metav1.StatusCause) {
	for other, m := range s.managers {
		for key := range m.data {
			if value, ok := data[key]; ok && other != manager && value != s.data[key] {
				causes = append(causes, metav1.StatusCause{
					Type: metav1.CauseTypeFieldManagerConflict, Field: ".data." + key, Message: fmt.Sprintf("conflict with %q using v1", other),
				})
			}
		}
	}
	return causes
}

// setManagers replaces the field managers by those of a patch.
func (s *storedSecret) setManagers(body []byte) error {
	var patch []struct {
		Path  string
		Value json.RawMessage
	}
	if err := json.Unmarshal(body, &patch); err != nil {
		return err
	}
	s.managers = map[string]*managed{}
	for _, change := range patch {
		var entries []metav1.ManagedFieldsEntry
		if change.Path != "/metadata/managedFields" {
			continue
		}
		if err := json.Unmarshal(change.Value, &entries); err != nil {
			return err
		}
		for _, entry := range entries {
			var fields struct {
				Data map[string]any `json:"f:data"`
			}
			if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
				return err
			}
			m := &managed{data: map[string]bool{}}
			for key := range fields.Data {
				m.data[strings.TrimPrefix(key, "f:")] = true
			}
			s.managers[entry.Manager] = m
		}
	}
	return nil
}

func keysOf[V any](m map[string]V) map[string]bool {
	set := map[string]bool{}
	for key := range m {
		set[key] = true
	}
	return set
}

func (s *storedSecret) apply(manager string, in applied) {
	old := s.managers[manager]
	if s.data == nil {
		s.data, s.labels, s.annotations = map[string]string{}, map[string]string{}, map[string]string{}
	}
	if old != nil {
		for key := range old.data {
			delete(s.data, key)
		}
		for key := range old.annotations {
			delete(s.annotations, key)
		}
		s.owners = slices.DeleteFunc(slices.Clone(s.owners), func(o metav1.OwnerReference) bool { return old.owners[o.UID] })
	}
	for _, other := range s.managers {
		for key, value := range in.Data {
			if s.data[key] != value {
				delete(other.data, key)
			}
		}
	}
	m := &managed{data: keysOf(in.Data), labels: keysOf(in.Metadata.Labels), annotations: keysOf(in.Metadata.Annotations), owners: map[types.UID]bool{}}
	for _, o := range in.Metadata.OwnerReferences {
		m.owners[o.UID] = true
	}
	s.managers[manager] = m
	maps.Copy(s.data, in.Data)
	maps.Copy(s.labels, in.Metadata.Labels)
	maps.Copy(s.annotations, in.Metadata.Annotations)
	s.addOwners(in.Metadata.OwnerReferences)
	s.kind = in.Type
}

// edit is a write by update of a person.
func (a *apiServer) edit(name, key, value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.secrets[name]
	s.data[key] = value
	for _, m := range s.managers {
		delete(m.data, key)
	}
	s.managers["kubectl-edit"] = &managed{data: map[string]bool{key: true}}
	a.store(s)
}

func (s *storedSecret) addOwners(owners []metav1.OwnerReference) {
	for _, o := range owners {
		if !slices.ContainsFunc(s.owners, func(have metav1.OwnerReference) bool { return have.UID == o.UID }) {
			s.owners = append(slices.Clone(s.owners), o)
		}
	}
}

func (s *storedSecret) answer() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.UID, o.ResourceVersion, o.OwnerReferences = s.uid, s.version, slices.Clone(s.owners)
	o.Labels, o.Annotations = maps.Clone(s.labels), maps.Clone(s.annotations)
	for _, manager := range slices.Sorted(maps.Keys(s.managers)) {
		m := s.managers[manager]
		fields := func(prefix string, set map[string]bool) map[string]any {
			out := map[string]any{}
			for key := range set {
				out[prefix+key] = map[string]any{}
			}
			return out
		}
		owners := map[string]any{}
		for uid := range m.owners {
			owners[fmt.Sprintf(`k:{"uid":%q}`, uid)] = map[string]any{}
		}
		operation := metav1.ManagedFieldsOperationApply
		if manager == "kubectl-edit" || manager == "csi-secrets-store" {
			operation = metav1.ManagedFieldsOperationUpdate
		}
		o.ManagedFields = append(o.ManagedFields, metav1.ManagedFieldsEntry{
			Manager: manager, Operation: operation, FieldsV1: metav1.NewFieldsV1(string(mustMarshal(map[string]any{
				"f:data": fields("f:", m.data), "f:type": map[string]any{},
				"f:metadata": map[string]any{
					"f:labels": fields("f:", m.labels), "f:annotations": fields("f:", m.annotations), "f:ownerReferences": owners,
				},
			}))),
		})
	}
	o.ManagedFields = append(o.ManagedFields, s.entries...)
	if s.terminating {
		o.DeletionTimestamp = &metav1.Time{Time: noon}
	}
	return o
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a time

func testWriter() Writer {
	return Writer{FieldManager: "keyvault-csi", Label: "managed", LabelValue: "true", Record: "keyvault-csi/written-", Predecessor: "csi-secrets-store"}
}

// want makes a desired Secret of one source with a version and the vault's time in seconds past noon.
func want(version string, second int, edits ...func(*Desired)) *Desired {
	d := &Desired{
		Namespace: "shop", Name: "db", Type: "Opaque", Data: map[string][]byte{"k": []byte(version)}, Writer: testWriter(),
		Class:   Class{Name: "web", UID: "class-1", Generation: 1},
		Sources: []Source{{ID: "kv/secret/db", Date: noon.Add(time.Duration(second) * time.Second), Version: version}},
		Owners:  []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "a", UID: "a"}},
	}
	for _, edit := range edits {
		edit(d)
	}
	d.Hash = [32]byte([]byte(fmt.Sprintf("%-32.32s", fmt.Sprint(version, d.Class.Generation, d.Attributes.Hash))))
	return d
}

func (s *storedSecret) value() string {
	if s == nil {
		return "(none)"
	}
	var value []byte
	_ = json.Unmarshal([]byte(strconv.Quote(s.data["k"])), &value)
	return string(value)
}
