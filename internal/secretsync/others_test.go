package secretsync

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const manager = "keyvault-csi/web"

// What others change in a Secret whose values are current: what the class did not set costs no write, and what it set is set again.
func TestWhatOthersChange(t *testing.T) {
	labelled := func(d *Desired) {
		d.Labels, d.Annotations = map[string]string{"team": "a"}, map[string]string{"note": "b"}
	}
	untouched, written := []string{"probe"}, []string{"probe", "apply"}
	for name, tc := range map[string]struct {
		change   func(*storedSecret)
		requests []string
	}{
		"a label of their own":         {func(s *storedSecret) { s.labels["mine"] = "x" }, untouched},
		"a key of their own":           {func(s *storedSecret) { s.data["mine"] = "eA==" }, untouched},
		"the value of a label":         {func(s *storedSecret) { s.labels["team"] = "x"; delete(s.managers[manager].labels, "team") }, written},
		"an annotation goes":           {func(s *storedSecret) { delete(s.annotations, "note"); delete(s.managers[manager].annotations, "note") }, written},
		"the value of a key":           {func(s *storedSecret) { s.data["k"] = "eA=="; delete(s.managers[manager].data, "k") }, written},
		"the class's manager goes":     {func(s *storedSecret) { delete(s.managers, manager) }, written},
		"another label in one's place": {func(s *storedSecret) { renamed(s.managers[manager].labels, "team") }, written},
		"another key in one's place":   {func(s *storedSecret) { renamed(s.managers[manager].data, "k") }, written},
		"another note in one's place":  {func(s *storedSecret) { renamed(s.managers[manager].annotations, "note") }, written},
		"the record in one's place": {func(s *storedSecret) {
			renamed(s.managers[manager].annotations, testWriter().Annotation("web"))
		}, written},
		"stringData of a person": {func(s *storedSecret) {
			s.entries = fieldsOf("kubectl", metav1.ManagedFieldsOperationApply, `{"f:stringData":{"f:k":{}}}`)
		}, written},
		"an update in the class's name": {func(s *storedSecret) {
			s.entries = fieldsOf(manager, metav1.ManagedFieldsOperationUpdate, `{"f:data":{"f:mine":{}}}`)
		}, untouched},
		"another's apply": {func(s *storedSecret) {
			s.entries = fieldsOf("kubectl", metav1.ManagedFieldsOperationApply, `{"f:data":{"f:mine":{}}}`)
		}, untouched},
		"an entry without fields": {func(s *storedSecret) {
			s.entries = []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationApply}}
		}, untouched},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAPIServer()
				r, k := newReconciler(a), &Known{}
				if o := r.Reconcile(t.Context(), want("1", 0, labelled), k); o.Result != Created {
					t.Fatalf("%+v", o)
				}
				time.Sleep(time.Minute)
				tc.change(a.secrets["db"])
				a.store(a.secrets["db"])
				a.requests = nil
				o := r.Reconcile(t.Context(), want("1", 1, labelled), k)
				if diff := cmp.Diff(tc.requests, a.requests); diff != "" || !o.Done() {
					t.Errorf("%+v: requests: %s", o, diff)
				}
				s := a.secrets["db"]
				if s.value() != "1" || s.labels["team"] != "a" || s.annotations["note"] != "b" {
					t.Errorf("%q, labels %v, annotations %v", s.value(), s.labels, s.annotations)
				}
			})
		})
	}
}

func fieldsOf(manager string, operation metav1.ManagedFieldsOperationType, fields string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: operation, FieldsV1: metav1.NewFieldsV1(fields)}}
}

// renamed puts another name in the place of one, so that the number of fields is the same.
func renamed(fields map[string]bool, name string) {
	delete(fields, name)
	fields["other"] = true
}

// Where the API server refuses new owners (OwnerReferencesPermissionEnforcement), values are written all the same.
func TestValuesAreWrittenWhereOwnersAreForbidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPIServer()
		r, k := newReconciler(a), &Known{}
		second := func(d *Desired) { d.Owners = []metav1.OwnerReference{{UID: "b"}} }
		r.Reconcile(t.Context(), want("1", 0), k)
		forbidden := apierrors.NewForbidden(secretKind, "db", errors.New("cannot set an ownerRef on a resource you can't delete"))
		expect := func(what, value string, requests ...string) {
			t.Helper()
			a.requests = nil
			o := r.Reconcile(t.Context(), want(value, len(value), second), k)
			if o.Result != Failed || o.Retry != RetryWithSameValues || !strings.Contains(o.Message, "may not add an owner") {
				t.Errorf("%s: %+v", what, o)
			}
			if diff := cmp.Diff(requests, a.requests); diff != "" {
				t.Errorf("%s: requests: %s", what, diff)
			}
			if s := a.secrets["db"]; len(s.owners) != 1 || s.owners[0].UID != "a" {
				t.Errorf("%s: owners %v", what, s.owners)
			}
		}
		a.fail = first(1, types.StrategicMergePatchType, forbidden)
		expect("the same value", "1", "owners")
		a.fail = first(1, types.ApplyPatchType, forbidden)
		expect("a new value", "22", "probe", "apply", "apply")
		if got := a.secrets["db"].value(); got != "22" {
			t.Errorf("the Secret holds %q", got)
		}
	})
}

// first fails so many requests of the kind.
func first(times int, kind types.PatchType, err error) func(types.PatchType) error {
	return func(of types.PatchType) error {
		if of != kind || times == 0 {
			return nil
		}
		times--
		return err
	}
}
