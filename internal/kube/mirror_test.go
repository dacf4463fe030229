package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func TestWhenAnApplyIsDue(t *testing.T) {
	build := func() (*secretdata.Secret, error) { return &secretdata.Secret{}, nil }
	now := noon.Add(time.Hour)
	one, two := [32]byte{1}, [32]byte{2}
	for name, tc := range map[string]struct {
		target target
		job    job
		want   bool
	}{
		"first":                         {target{}, job{build: build, print: one, fetched: now}, true},
		"changed":                       {target{print: one, fetched: noon, applied: now}, job{build: build, print: two, fetched: now}, true},
		"unchanged":                     {target{print: one, fetched: noon, applied: now.Add(-time.Minute)}, job{build: build, print: one, fetched: now}, false},
		"unchanged for ten minutes":     {target{print: one, fetched: noon, applied: now.Add(-11 * time.Minute)}, job{build: build, print: one, fetched: now}, true},
		"a new volume":                  {target{print: one, fetched: noon, applied: now.Add(-time.Minute)}, job{build: build, print: one, fetched: now, fresh: true}, true},
		"a new volume of the same poll": {target{print: one, fetched: noon, applied: now}, job{build: build, print: one, fetched: now.Add(-time.Second), fresh: true}, false},
		"older than what stands":        {target{print: one, fetched: now, applied: now}, job{build: build, print: two, fetched: noon}, false},
		"last known good":               {target{}, job{build: build, print: one, fetched: now, stale: true}, false},
		"owners alone":                  {target{}, job{again: true}, false},
	} {
		if got := tc.target.due(&tc.job, now); got != tc.want {
			t.Errorf("%s: due is %v", name, got)
		}
	}
}

func conflict(causes ...string) error {
	status := metav1.Status{Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Details: &metav1.StatusDetails{}}
	for i := 0; i+1 < len(causes); i += 2 {
		status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{
			Type: metav1.CauseTypeFieldManagerConflict, Field: causes[i], Message: "conflict with " + causes[i+1],
		})
	}
	return fmt.Errorf("patch: %w", &apierrors.StatusError{ErrStatus: status})
}

func TestClaims(t *testing.T) {
	err := conflict(".data.b", `"kubectl-edit" using v1 at 2026-03-01T12:00:00Z`, ".data.a", `"kubectl-edit" using v1`,
		".type", `"keyvault-csi/blue" using v1`, ".data.c", "nonsense")
	claims := claimsOf(err)
	want := `data.a, data.b of field manager "kubectl-edit"; type of field manager "keyvault-csi/blue"; data.c of field manager "unknown"`
	if diff := cmp.Diff(want, list(claims)); diff != "" {
		t.Error(diff)
	}
	for _, other := range []error{nil, errors.New("x"), conflict(), apierrors.NewNotFound(schema.GroupResource{}, "x")} {
		if got := claimsOf(other); got != nil {
			t.Errorf("%v: %v", other, got)
		}
	}
}

func TestLivingClasses(t *testing.T) {
	store := cache.NewSharedIndexInformer(nil, &v1.SecretProviderClass{}, 0, cache.Indexers{})
	add := func(namespace, name, secret string) {
		class := &v1.SecretProviderClass{}
		class.Namespace, class.Name = namespace, name
		class.Spec.SecretObjects = []v1.SecretObject{{SecretName: secret}}
		if err := store.GetStore().Add(class); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("l", 200)
	add("shop", "blue", "db")
	add("shop", "red", "other")
	add("shop", long, "db")
	add("shop", "mine", "db")
	add("elsewhere", "green", "db")
	m := &Mirror{classes: &Cluster{informer: store}}
	var claims []claim
	for _, class := range []string{"blue", "red", "green", "gone", "mine", long} {
		claims = append(claims, claim{manager: managerOf(class), field: "data.k"})
	}
	var got []string
	for _, c := range m.living(secretKey{"shop", "mine", "db"}, claims) {
		got = append(got, c.class)
	}
	if diff := cmp.Diff([]string{"blue", long}, got); diff != "" {
		t.Error(diff)
	}
}

func TestManagersFit(t *testing.T) {
	if got := managerOf("web"); got != "keyvault-csi/web" {
		t.Error(got)
	}
	a, b := managerOf(strings.Repeat("a", 250)), managerOf(strings.Repeat("a", 249)+"b")
	if len(a) > 128 || len(b) > 128 || a == b {
		t.Errorf("%s %s", a, b)
	}
}

func TestWordsOfFailures(t *testing.T) {
	const canary = "canary-value"
	key := secretKey{"shop", "web", "db"}
	secret := &secretdata.Secret{Name: "db", Type: corev1.SecretTypeTLS, Data: map[string][]byte{"k": []byte(canary + "\nx")}}
	gr := schema.GroupResource{Resource: "secrets"}
	answer := func(code int32, reason metav1.StatusReason, message string, fields ...string) error {
		status := metav1.Status{Code: code, Reason: reason, Message: message, Details: &metav1.StatusDetails{}}
		for _, field := range fields {
			status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{Field: field})
		}
		return fmt.Errorf("patch: %w", &apierrors.StatusError{ErrStatus: status})
	}
	for name, tc := range map[string]struct {
		err     error
		passing bool
		reason  volume.Reason
		want    string
	}{
		"class":     {&volume.Error{Reason: volume.ReasonInvalidClass, Message: "no name"}, false, volume.ReasonInvalidClass, "Secret shop/db cannot be made: no name"},
		"content":   {&volume.Error{Reason: volume.ReasonInvalidContent, Message: "no key"}, false, volume.ReasonInvalidContent, "Secret shop/db cannot be made: no key"},
		"type":      {answer(422, metav1.StatusReasonInvalid, canary, "type"), false, "", "another type than the class asks for (kubernetes.io/tls)"},
		"immutable": {answer(422, metav1.StatusReasonInvalid, canary, "data"), false, "", "is immutable and holds older values: delete"},
		"rights":    {apierrors.NewForbidden(gr, "db", errors.New("no right")), true, "", "because the driver may not: switch Secret sync on"},
		"policy": {answer(422, metav1.StatusReasonInvalid, "ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no"), true, "",
			"because the driver may not"},
		"webhook that quotes": {answer(400, metav1.StatusReasonBadRequest, `admission webhook "w" denied the request: `+canary+"\nx"), true, "",
			"words are withheld"},
		"webhook that quotes base64": {answer(500, metav1.StatusReasonInternalError, base64.StdEncoding.EncodeToString([]byte(canary+"\nx"))), true,
			volume.ReasonUnavailable, "words are withheld"},
		"invalid":   {answer(422, metav1.StatusReasonInvalid, "bad", "metadata.labels"), false, volume.ReasonInvalidClass, "takes it for wrong: bad"},
		"throttled": {apierrors.NewTooManyRequests("slow down", 1), true, volume.ReasonUnavailable, "does not take it now: it is tried again: slow down"},
		"time":      {fmt.Errorf("patch: %w", context.DeadlineExceeded), true, volume.ReasonUnavailable, "does not answer in time"},
		"network":   {errors.New("dial tcp: connection refused"), true, volume.ReasonUnavailable, "connection refused"},
		"foreign":   {foreign(key), false, "", "exists and is not the driver's"},
		"owners":    {errors.Join(ownersForbidden(key, apierrors.NewForbidden(gr, "db", errors.New("x"))), nil), true, "", "rbac.ownerReferences"},
	} {
		f := explain(key, tc.err, secret)
		if f.passing != tc.passing || f.reason != tc.reason || !strings.Contains(f.message, tc.want) {
			t.Errorf("%s: passing %v, reason %q: %s", name, f.passing, f.reason, f.message)
		}
		if strings.Contains(f.message, canary) || strings.Contains(f.message, "Y2FuYXJ5") || strings.Contains(f.message, "\n") {
			t.Errorf("%s: %q", name, f.message)
		}
		if f.kind != report.KindSyncFailed && f.kind != report.KindSyncConflict {
			t.Errorf("%s: kind %q", name, f.kind)
		}
	}
}

// What the Secrets Store CSI Driver owned by update is the class's by apply, so that a key which the class drops goes; labels stay with
// whom they were, and owners that are there stay.
func TestHandOver(t *testing.T) {
	entry := func(manager string, operation metav1.ManagedFieldsOperationType, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: operation, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
		}
	}
	theirs := entry(upstreamManager, metav1.ManagedFieldsOperationUpdate, `{"f:data":{".":{},"f:b":{},"f:a":{}},"f:metadata":{"f:ownerReferences":{}},"f:type":{}}`)
	person := entry("kubectl", metav1.ManagedFieldsOperationUpdate, `{"f:data":{"f:mine":{}}}`)
	got := &metav1.PartialObjectMetadata{}
	got.ResourceVersion = "7"
	got.ManagedFields = []metav1.ManagedFieldsEntry{person, theirs}
	body, keys := handOver(got, "keyvault-csi/web", nil)
	want := `[{"op":"replace","path":"/metadata/managedFields","value":[` +
		`{"manager":"kubectl","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:mine":{}}}},` +
		`{"manager":"csi-secrets-store","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:ownerReferences":{}},"f:type":{}}},` +
		`{"manager":"keyvault-csi/web","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{},"f:b":{}}}}]},` +
		`{"op":"replace","path":"/metadata/resourceVersion","value":"7"}]`
	if diff := cmp.Diff(want, string(body)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, keys); diff != "" {
		t.Error(diff)
	}
	got.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "a", UID: "1"}}
	body, _ = handOver(got, "keyvault-csi/web", []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "b", UID: "2"}})
	want = strings.TrimSuffix(want, "]") + `,{"op":"add","path":"/metadata/ownerReferences","value":[` +
		`{"apiVersion":"v1","kind":"Pod","name":"a","uid":"1"},{"apiVersion":"v1","kind":"Pod","name":"b","uid":"2"}]}]`
	if diff := cmp.Diff(want, string(body)); diff != "" {
		t.Error(diff)
	}
	got.ManagedFields = append(got.ManagedFields, entry("keyvault-csi/web", metav1.ManagedFieldsOperationApply, `{}`))
	if body, _ := handOver(got, "keyvault-csi/web", nil); body != nil {
		t.Errorf("of a Secret that is the class's already: %s", body)
	}
	got.ManagedFields = []metav1.ManagedFieldsEntry{person}
	if body, _ := handOver(got, "keyvault-csi/web", nil); body != nil {
		t.Errorf("of somebody else: %s", body)
	}
	theirs.FieldsV1 = metav1.NewFieldsV1(`no JSON`)
	got.ManagedFields = []metav1.ManagedFieldsEntry{theirs}
	if body, _ := handOver(got, "keyvault-csi/web", nil); body != nil {
		t.Errorf("of what cannot be read: %s", body)
	}
}
