package secretsync

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func newReconciler(a *apiServer) *Reconciler {
	return New(Options{Secrets: a, Classes: a, Clock: clock.RealClock{}})
}

func generation(n int64) func(*Desired) { return func(d *Desired) { d.Class.Generation = n } }

func uid(uid types.UID) func(*Desired) { return func(d *Desired) { d.Class.UID = uid } }

func undatedSource(d *Desired) { d.Sources[0].Date = time.Time{} }

func attributes(hash string, created int) func(*Desired) {
	return func(d *Desired) {
		d.Attributes = Attributes{Hash: hash, Created: noon.Add(time.Duration(created) * time.Second)}
	}
}

func alsoFrom(id, version string, second int) func(*Desired) {
	return func(d *Desired) {
		d.Sources = append(d.Sources, Source{ID: id, Version: version, Date: noon.Add(time.Duration(second) * time.Second)})
	}
}

// What is written over what. Each case first writes one desired Secret and then tries another, as another node would.
func TestOrderOfWrites(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second *Desired
		// written says whether the second is written; refetch whether newer values are asked for.
		written bool
		result  Result
		refetch time.Duration // -1 for none
	}{
		"newer":                        {want("1", 0), want("2", 1), true, Updated, -1},
		"older":                        {want("2", 1), want("1", 0), false, Held, 0},
		"a newest version disabled":    {want("2", 1), want("1", 2), true, Updated, -1},
		"gone from the vault":          {want("2", 1), want("", 2), true, Updated, -1},
		"the same, later":              {want("1", 0), want("1", 5), false, Unchanged, -1},
		"the same, earlier":            {want("1", 5), want("1", 0), false, Unchanged, -1},
		"the same second":              {want("1", 5), want("2", 5), false, Held, time.Second},
		"a source older, one newer":    {want("1", 5, alsoFrom("b", "1", 5)), want("2", 6, alsoFrom("b", "0", 4)), false, Held, 0},
		"a source older, the same":     {want("1", 5, alsoFrom("b", "1", 5)), want("2", 6, alsoFrom("b", "1", 4)), false, Held, 0},
		"no date":                      {want("1", 5), want("2", 6, undatedSource), false, Failed, -1},
		"no date, the same":            {want("1", 5), want("1", 6, undatedSource), false, Unchanged, -1},
		"over no date":                 {want("1", 5, undatedSource), want("2", 0), true, Updated, -1},
		"no date over no date":         {want("1", 5, undatedSource), want("2", 0, undatedSource), false, Failed, -1},
		"a newer class, newer":         {want("1", 0), want("2", 1, generation(2)), true, Updated, -1},
		"a newer class, same values":   {want("1", 0), want("1", 0, generation(2)), true, Updated, -1},
		"a newer class, older values":  {want("2", 1), want("1", 0, generation(2)), false, Held, 0},
		"an older class":               {want("1", 0, generation(2)), want("2", 1), false, Held, -1},
		"a class created again":        {want("1", 5, uid("class-0"), generation(7)), want("2", 0), true, Updated, -1},
		"a class that is gone":         {want("1", 5), want("2", 6, uid("class-0"), generation(7)), false, Held, -1},
		"attributes of a younger Pod":  {want("1", 5, attributes("a", 1)), want("2", 6, attributes("b", 2)), true, Updated, -1},
		"attributes of an older Pod":   {want("1", 5, attributes("a", 2)), want("2", 6, attributes("b", 1)), false, Conflict, -1},
		"attributes of one second":     {want("1", 5, attributes("b", 1)), want("2", 6, attributes("a", 1)), false, Conflict, -1},
		"an older Pod, same":           {want("1", 5, attributes("a", 2)), want("2", 6, attributes("a", 1)), true, Updated, -1},
		"attributes, younger, older":   {want("2", 6, attributes("a", 1)), want("1", 5, attributes("b", 2)), false, Held, 0},
		"another list, the same date":  {want("1", 5, alsoFrom("v1", "1", 5)), want("1", 5, alsoFrom("v2", "2", 5)), false, Held, time.Second},
		"another list, later":          {want("1", 5, alsoFrom("v1", "1", 5)), want("1", 6, alsoFrom("v2", "2", 6)), true, Updated, -1},
		"entirely other sources":       {want("1", 5), want("2", 0, func(d *Desired) { d.Sources[0].ID = "other" }), true, Updated, -1},
		"values of a fallback vault":   {want("1", 5), want("2", 6, func(d *Desired) { d.CreateOnly = true }), false, Unchanged, -1},
		"over those of a fallback":     {want("1", 5, func(d *Desired) { d.CreateOnly = true; d.Sources[0].ID = "fallback" }), want("2", 0), true, Updated, -1},
		"owners alone of stale values": {want("1", 5), want("2", 6, func(d *Desired) { d.Data = nil; d.Owners[0].UID = "b" }), false, Unchanged, -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAPIServer()
				a.classes["web"] = &classObject{uid: "class-1", secrets: []string{"db"}}
				if tc.first.Class.UID != "class-1" {
					a.classes["web"].uid = tc.first.Class.UID
				}
				r := newReconciler(a)
				if o := r.Reconcile(t.Context(), tc.first, &Known{}); o.Result != Created {
					t.Fatalf("first: %+v", o)
				}
				a.classes["web"].uid = "class-1"
				before := a.secrets["db"].value()
				o := r.Reconcile(t.Context(), tc.second, &Known{})
				if o.Result != tc.result {
					t.Errorf("result %d: %s", o.Result, o.Message)
				}
				after := string(tc.second.Data["k"])
				if !tc.written {
					after = before
				}
				if got := a.secrets["db"].value(); got != after {
					t.Errorf("the Secret holds %q, want %q", got, after)
				}
				if o.Refetch != (tc.refetch >= 0) || o.Refetch && o.RefetchAfter != tc.refetch {
					t.Errorf("refetch %v after %v", o.Refetch, o.RefetchAfter)
				}
				if !strings.Contains(fmt.Sprint(a.secrets["db"].owners), string(tc.second.Owners[0].UID)) {
					t.Errorf("owners %v", a.secrets["db"].owners)
				}
				for key, text := range a.secrets["db"].annotations {
					if strings.Contains(text, base64.StdEncoding.EncodeToString(tc.second.Data["k"])) && len(tc.second.Data["k"]) > 1 {
						t.Errorf("%s holds a value: %s", key, text)
					}
				}
			})
		})
	}
}

// What a Secret costs in requests, in the order of a Secret's life.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPIServer()
		r := newReconciler(a)
		k := &Known{}
		step := func(what string, d *Desired, k *Known, result Result, requests ...string) {
			t.Helper()
			a.requests = nil
			if o := r.Reconcile(t.Context(), d, k); o.Result != result {
				t.Errorf("%s: %d: %s", what, o.Result, o.Message)
			}
			if diff := cmp.Diff(requests, a.requests); diff != "" {
				t.Errorf("%s: requests: %s", what, diff)
			}
		}
		ownedBy := func(uid types.UID) func(*Desired) {
			return func(d *Desired) { d.Owners = []metav1.OwnerReference{{UID: uid}} }
		}
		step("no owner", want("1", 0, func(d *Desired) { d.Owners = nil }), k, Unchanged, "probe")
		if a.secrets["db"] != nil {
			t.Error("a Secret without an owner would stay for ever")
		}
		step("create", want("1", 0), k, Created, "apply")
		step("in place", want("1", 1), k, Unchanged)
		step("another owner", want("1", 1, ownedBy("b")), k, Unchanged, "owners")
		step("a new value, soon", want("2", 2), k, Updated, "apply")
		time.Sleep(time.Minute)
		step("in place, later", want("2", 3), k, Unchanged, "probe")
		step("a new value, later", want("3", 4), k, Updated, "apply")
		if len(a.secrets["db"].owners) != 2 {
			t.Errorf("owners %v", a.secrets["db"].owners)
		}
		step("after a restart", want("3", 5), &Known{}, Unchanged, "probe", "apply")
		other := &Known{}
		step("another node", want("4", 6, ownedBy("c")), other, Updated, "probe", "apply")
		step("this node's race", want("4", 7), k, Unchanged, "apply", "probe", "apply")
		if len(a.secrets["db"].owners) != 3 {
			t.Errorf("owners %v", a.secrets["db"].owners)
		}
		a.edit("db", "k", "bWluZQ==")
		time.Sleep(time.Minute)
		step("an edit", want("4", 8), k, Updated, "probe", "apply", "apply forced")
		delete(a.secrets, "db")
		step("deleted, a new value", want("5", 9), k, Created, "apply", "probe", "apply")
		a.secrets["db"].labels["managed"] = "no"
		a.store(a.secrets["db"])
		step("the label taken away", want("6", 10), k, Conflict, "apply", "probe")
		if a.secrets["db"].value() != "5" {
			t.Error("a Secret that a person took away was written")
		}
	})
}

func TestOwnersBeforeTheFirstWriteOfAnotherPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPIServer()
		r, k := newReconciler(a), &Known{}
		exact := func(d *Desired) { d.OwnerPolicy = ExactOwners }
		r.Reconcile(t.Context(), want("1", 0, exact), k)
		o := r.Reconcile(t.Context(), want("2", 1, exact, func(d *Desired) { d.Owners = []metav1.OwnerReference{{UID: "b"}} }), k)
		if got := a.secrets["db"].owners; o.Result != Updated || len(got) != 1 || got[0].UID != "b" {
			t.Errorf("%+v: owners %v", o, got)
		}
	})
}

// Two classes that set one key: the one that exists keeps it, one that is gone loses it.
func TestClassesOfOneSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPIServer()
		a.classes["web"] = &classObject{uid: "class-1", secrets: []string{"db"}}
		a.classes["blue"] = &classObject{uid: "blue-1", secrets: []string{"db"}}
		r := newReconciler(a)
		blue := func(d *Desired) { d.Class = Class{Name: "blue", UID: "blue-1", Generation: 1} }
		r.Reconcile(t.Context(), want("1", 0, blue), &Known{})
		o := r.Reconcile(t.Context(), want("2", 1), &Known{})
		if o.Result != Conflict || o.Retry != RetryWithFreshValues || !strings.Contains(o.Message, "data.k of class blue") {
			t.Errorf("%+v", o)
		}
		delete(a.classes, "blue")
		o = r.Reconcile(t.Context(), want("2", 1), &Known{})
		if o.Result != Updated || len(o.Notices) != 1 || !strings.Contains(o.Notices[0], `data.k of field manager "keyvault-csi/blue"`) {
			t.Errorf("%+v", o)
		}
		if len(a.secrets["db"].annotations) != 2 {
			t.Errorf("each class has a record of its own: %v", a.secrets["db"].annotations)
		}
	})
}

func conflict(causes ...string) error {
	status := metav1.Status{Status: metav1.StatusFailure, Code: 409, Reason: metav1.StatusReasonConflict, Details: &metav1.StatusDetails{}}
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
	bare := &apierrors.StatusError{ErrStatus: metav1.Status{Code: 409, Reason: metav1.StatusReasonConflict}}
	for _, other := range []error{nil, errors.New("x"), conflict(), bare, apierrors.NewNotFound(schema.GroupResource{}, "x")} {
		if got := claimsOf(other); got != nil {
			t.Errorf("%v: %v", other, got)
		}
	}
}

func TestManagersFit(t *testing.T) {
	w := testWriter()
	if got := w.manager("web"); got != "keyvault-csi/web" {
		t.Error(got)
	}
	a, b := w.manager(strings.Repeat("a", 250)), w.manager(strings.Repeat("a", 249)+"b")
	if len(a) > 128 || len(b) > 128 || a == b {
		t.Errorf("%s %s", a, b)
	}
}

func TestRules(t *testing.T) {
	rules := Rules{Types: []string{"example.com/x", "helm.sh/release.v1"}, Namespaces: []string{"kube-system"}, Excluded: []string{"kube-system"}}
	all := Rules{Excluded: []string{"kube-system"}}
	for name, tc := range map[string]struct {
		rules     Rules
		kind      string
		namespace string
		says      string
	}{
		"listed":               {rules, "example.com/x", "kube-system", ""},
		"not listed":           {rules, "example.com/y", "kube-system", "syncSecret.types"},
		"never":                {rules, "helm.sh/release.v1", "kube-system", "never written"},
		"never a token":        {rules, "kubernetes.io/service-account-token", "kube-system", "never written"},
		"another namespace":    {rules, "Opaque", "shop", "syncSecret.namespaces"},
		"any namespace":        {all, "kubernetes.io/tls", "shop", ""},
		"an excluded one":      {all, "Opaque", "kube-system", "syncSecret.namespaces"},
		"a type of Kubernetes": {all, "kubernetes.io/unheard-of", "shop", "syncSecret.types"},
	} {
		err := tc.rules.Check(&Desired{Namespace: tc.namespace, Type: tc.kind})
		if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := newAPIServer()
	if o := newReconciler(a).Reconcile(t.Context(), want("1", 0, func(d *Desired) { d.Type = "helm.sh/release.v1" }), &Known{}); o.Result != Failed || len(a.requests) > 0 {
		t.Errorf("%+v", o)
	}
}

func TestMessagesOfFailures(t *testing.T) {
	const canary = "canary-value"
	d := &Desired{Namespace: "shop", Name: "db", Type: "kubernetes.io/tls", Data: map[string][]byte{"k": []byte(canary + "\nx")}, Writer: testWriter()}
	gr := schema.GroupResource{Resource: "secrets"}
	answer := func(code int32, reason metav1.StatusReason, message string, fields ...string) error {
		status := metav1.Status{Code: code, Reason: reason, Message: message, Details: &metav1.StatusDetails{}}
		for _, field := range fields {
			status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{Field: field, Type: metav1.CauseType(field)})
		}
		return fmt.Errorf("patch: %w", &apierrors.StatusError{ErrStatus: status})
	}
	for name, tc := range map[string]struct {
		err    error
		retry  Retry
		reason volume.Reason
		want   string
	}{
		"class":     {&volume.Error{Reason: volume.ReasonInvalidClass, Message: "no name"}, NoRetry, volume.ReasonInvalidClass, "Secret shop/db cannot be created: no name"},
		"content":   {&volume.Error{Reason: volume.ReasonInvalidContent, Message: "no key"}, NoRetry, volume.ReasonInvalidContent, "Secret shop/db cannot be created: no key"},
		"type":      {answer(422, metav1.StatusReasonInvalid, canary, "type"), RetryWithFreshValues, "", "another type than the class asks for (kubernetes.io/tls)"},
		"immutable": {answer(422, metav1.StatusReasonInvalid, canary, "data"), RetryWithFreshValues, "", "is immutable and holds older values: delete"},
		"rights":    {apierrors.NewForbidden(gr, "db", errors.New("no right")), RetryWithSameValues, "", "because the driver may not: enable Secret sync"},
		"policy": {answer(422, metav1.StatusReasonInvalid, "ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no"), RetryWithSameValues, "",
			"because the driver may not"},
		"webhook that quotes": {answer(400, metav1.StatusReasonBadRequest, `admission webhook "w" denied the request: `+canary+"\nx"), RetryWithSameValues, "",
			"details redacted"},
		"webhook that quotes base64": {answer(500, metav1.StatusReasonInternalError, base64.StdEncoding.EncodeToString([]byte(canary+"\nx"))), RetryWithSameValues,
			volume.ReasonUnavailable, "details redacted"},
		"invalid":     {answer(422, metav1.StatusReasonInvalid, "bad", "metadata.labels"), NoRetry, volume.ReasonInvalidClass, "rejected it: bad"},
		"throttled":   {apierrors.NewTooManyRequests("slow down", 1), RetryWithSameValues, volume.ReasonUnavailable, "cannot take it now: it is tried again: slow down"},
		"time":        {fmt.Errorf("patch: %w", context.DeadlineExceeded), RetryWithSameValues, volume.ReasonUnavailable, "does not answer in time"},
		"network":     {errors.New("dial tcp: connection refused"), RetryWithSameValues, volume.ReasonUnavailable, "connection refused"},
		"token":       {apierrors.NewUnauthorized("expired"), RetryWithSameValues, volume.ReasonUnavailable, "does not accept the driver's token"},
		"terminating": {answer(403, metav1.StatusReasonForbidden, "x", string(namespaceTerminating)), RetryWithFreshValues, "", "namespace is being deleted"},
		"foreign":     {errForeign, RetryWithFreshValues, "", "exists and is not the driver's"},
		"raced":       {errRaced, RetryWithSameValues, volume.ReasonUnavailable, "others write it at the same time"},
		"owners": {&ownersForbiddenError{apierrors.NewForbidden(gr, "db", errors.New("cannot set an ownerRef"))}, RetryWithSameValues, "",
			"rbac.ownerReferences"},
	} {
		o := newReconciler(newAPIServer()).explain(d, tc.err)
		if o.Retry != tc.retry || o.Reason != tc.reason || !strings.Contains(o.Message, tc.want) {
			t.Errorf("%s: retry %v, reason %q: %s", name, o.Retry, o.Reason, o.Message)
		}
		if strings.Contains(o.Message, canary) || strings.Contains(o.Message, "Y2FuYXJ5") || strings.Contains(o.Message, "\n") {
			t.Errorf("%s: %q", name, o.Message)
		}
		if o.Result != Failed && o.Result != Conflict {
			t.Errorf("%s: result %d", name, o.Result)
		}
	}
}

// What the predecessor owned by update is the class's by apply, so that a key which the class drops goes; labels stay whose they were.
func TestHandOver(t *testing.T) {
	entry := func(manager string, operation metav1.ManagedFieldsOperationType, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Operation: operation, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
		}
	}
	const predecessor = "csi-secrets-store"
	theirs := entry(predecessor, metav1.ManagedFieldsOperationUpdate, `{"f:data":{".":{},"f:b":{},"f:a":{}},"f:metadata":{"f:ownerReferences":{}},"f:type":{}}`)
	person := entry("kubectl", metav1.ManagedFieldsOperationUpdate, `{"f:data":{"f:mine":{}}}`)
	seen := &observed{version: "7", managed: []metav1.ManagedFieldsEntry{person, theirs}}
	body, keys := handOver(seen, predecessor, "keyvault-csi/web")
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
	owners := entry(predecessor, metav1.ManagedFieldsOperationUpdate, `{"f:metadata":{"f:ownerReferences":{}}}`)
	behind := &observed{version: "7", managed: []metav1.ManagedFieldsEntry{owners, theirs}}
	if _, keys := handOver(behind, predecessor, "keyvault-csi/web"); !slices.Equal(keys, []string{"a", "b"}) {
		t.Errorf("behind an entry without data: %v", keys)
	}
	theirs.FieldsV1 = metav1.NewFieldsV1(`no JSON`)
	for name, managed := range map[string][]metav1.ManagedFieldsEntry{"somebody else": {person}, "what cannot be read": {theirs}} {
		if body, _ := handOver(&observed{managed: managed}, predecessor, "keyvault-csi/web"); body != nil {
			t.Errorf("%s: %s", name, body)
		}
	}
}

// A Secret of the predecessor is taken over with its keys at the first write, so that a key which the class drops goes. Later writes take
// nothing over, nor does a writer that follows no other.
func TestTakenOverOnce(t *testing.T) {
	const predecessor = "csi-secrets-store"
	for name, tc := range map[string]struct {
		follows  string
		fail     error
		requests []string
		notice   string
		left     string
	}{
		"taken over":       {predecessor, nil, []string{"probe", "inherit", "apply"}, "with its keys k, old", ""},
		"follows no other": {"", nil, []string{"probe", "apply", "apply forced"}, `data.k of field manager "csi-secrets-store"`, "b2xk"},
		"not possible": {
			predecessor, apierrors.NewForbidden(secretKind, "db", errors.New("no")),
			[]string{"probe", "inherit", "apply", "apply forced"}, `data.k of field manager "csi-secrets-store"`, "b2xk",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIServer()
			a.store(&storedSecret{
				name: "db", uid: "uid", kind: "Opaque", labels: map[string]string{"managed": "true"}, annotations: map[string]string{},
				data:     map[string]string{"k": "MA==", "old": "b2xk"},
				managers: map[string]*managed{predecessor: {data: map[string]bool{"k": true, "old": true}}},
			})
			a.failInherit = tc.fail
			r, k := newReconciler(a), &Known{}
			follows := func(d *Desired) { d.Writer.Predecessor = tc.follows }
			o := r.Reconcile(t.Context(), want("1", 0, follows), k)
			if o.Result != Updated || len(o.Notices) != 1 || !strings.Contains(o.Notices[0], tc.notice) {
				t.Errorf("%+v", o)
			}
			if diff := cmp.Diff(tc.requests, a.requests); diff != "" {
				t.Error(diff)
			}
			if s := a.secrets["db"]; s.value() != "1" || s.data["old"] != tc.left {
				t.Errorf("data %v", s.data)
			}
			a.requests = nil
			if o := r.Reconcile(t.Context(), want("2", 9, follows), k); o.Result != Updated || len(o.Notices) > 0 || slices.Contains(a.requests, "inherit") {
				t.Errorf("the second write: %+v, requests %v", o, a.requests)
			}
		})
	}
}

// Where the namespace is gone, nothing can be created in it.
func TestNamespaceThatIsGone(t *testing.T) {
	a := newAPIServer()
	a.fail = func(types.PatchType) error {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop")
	}
	o := newReconciler(a).Reconcile(t.Context(), want("1", 0), &Known{})
	if o.Result != Failed || o.Retry != RetryWithFreshValues || !strings.Contains(o.Message, "its namespace is being deleted") {
		t.Errorf("%+v", o)
	}
	if diff := cmp.Diff([]string{"probe"}, a.requests); diff != "" {
		t.Error(diff)
	}
}

// brokenClasses are classes that the API server does not give.
type brokenClasses struct{}

func (brokenClasses) ClassUID(context.Context, string, string) (types.UID, error) {
	return "", errors.New("the API server is away")
}

func (brokenClasses) SecretClasses(context.Context, string, string) ([]string, error) {
	return nil, errors.New("the API server is away")
}

// What decides between two writers is in the classes: without them nothing is written over what is there.
func TestClassesThatCannotBeRead(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*apiServer)
		want   func(*Desired)
	}{
		"another class of the name": {func(*apiServer) {}, uid("class-2")},
		"a claim of somebody":       {func(a *apiServer) { a.edit("db", "k", "eA==") }, func(*Desired) {}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIServer()
			newReconciler(a).Reconcile(t.Context(), want("1", 0), &Known{})
			tc.change(a)
			before := a.secrets["db"].data["k"]
			r := New(Options{Secrets: a, Classes: brokenClasses{}, Clock: clock.RealClock{}})
			o := r.Reconcile(t.Context(), want("2", 9, tc.want), &Known{})
			if o.Result != Failed || o.Retry != RetryWithSameValues || !strings.Contains(o.Message, "it is tried again") {
				t.Errorf("%+v", o)
			}
			if got := a.secrets["db"].data["k"]; got != before {
				t.Errorf("the Secret holds %q", got)
			}
		})
	}
}

// A Secret that is being deleted is made again when it is gone.
func TestSecretThatIsBeingDeleted(t *testing.T) {
	a := newAPIServer()
	r := newReconciler(a)
	r.Reconcile(t.Context(), want("1", 0), &Known{})
	a.secrets["db"].terminating = true
	o := r.Reconcile(t.Context(), want("2", 9), &Known{})
	if o.Result != Failed || o.Retry != RetryWithSameValues || !strings.Contains(o.Message, "it is created again once it is gone") {
		t.Errorf("%+v", o)
	}
	delete(a.secrets, "db")
	if o := r.Reconcile(t.Context(), want("2", 9), &Known{}); o.Result != Created {
		t.Errorf("%+v", o)
	}
}
