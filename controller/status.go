package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/objectevents"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The types of conditions. Before the first success failures are in conditionCreated, after it in conditionUpdated.
const (
	conditionCreated = "SecretCreated"
	conditionUpdated = "SecretUpdated"
)

// The reasons of conditions, as the Secrets Store Sync Controller has them, and reasonConflict of our own.
const (
	reasonStarting   = "SyncStarting"
	reasonNoUpdate   = "NoUpdatesAttemptedYet"
	reasonCreated    = "CreateSuccessful"
	reasonUpToDate   = "SecretUpToDate"
	reasonClass      = "SecretProviderClassMisconfigured"
	reasonFetch      = "RemoteSecretStoreFetchFailed"
	reasonController = "ControllerSyncError"
	reasonPatch      = "ControllerPatchError"
	reasonConflict   = "SecretConflict"
)

// hashVersion begins each syncHash: what follows is what was asked for, a colon, and what it was made from.
const hashVersion = "v1:"

// reasonOf is the reason of a Secret that was not written.
func reasonOf(o secretsync.Outcome) string {
	switch {
	case o.Result == secretsync.Conflict:
		return reasonConflict
	case o.Reason == volume.ReasonInvalidClass && o.Err == nil:
		return reasonClass
	}
	return reasonPatch
}

// failing reports whether a condition says that the last sync failed.
func failing(conditions []metav1.Condition) bool {
	for _, c := range conditions {
		if c.Status == metav1.ConditionFalse {
			return true
		}
	}
	return false
}

// writeStatus brings the status in step with what came of the sync, where it changed. The time of the last success moves by itself only
// where half the repair interval has passed, so that a poll which finds nothing new is no write.
func (w *work) writeStatus(ctx context.Context, r result, asked string) error {
	status := w.before.DeepCopy()
	w.conditions(status, r)
	if r.err == nil {
		digest := hashVersion + asked + ":" + versionsOf(r.bundle)
		now := metav1.NewTime(w.options.Clock.Now())
		if status.SyncHash != digest || status.LastSuccessfulSyncTime == nil || now.Sub(status.LastSuccessfulSyncTime.Time) > timing.Repair/2 {
			status.LastSuccessfulSyncTime = &now
		}
		status.SyncHash = digest
	}
	if equality.Semantic.DeepEqual(status, w.before) {
		return nil
	}
	after := &syncv1alpha1.SecretSync{ObjectMeta: *w.sync.ObjectMeta.DeepCopy(), Status: *status}
	base := &syncv1alpha1.SecretSync{ObjectMeta: *w.sync.ObjectMeta.DeepCopy(), Status: *w.before}
	if err := w.client.Status().Patch(ctx, after, client.MergeFrom(base)); err != nil {
		return fmt.Errorf("status of secretsync: %w", err)
	}
	return nil
}

// conditions sets both conditions.
func (w *work) conditions(status *syncv1alpha1.SecretSyncStatus, r result) {
	set := func(kind string, value metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: value, Reason: reason, Message: objectevents.Clip(message), ObservedGeneration: w.sync.Generation,
		})
	}
	if meta.FindStatusCondition(status.Conditions, conditionCreated) == nil {
		set(conditionCreated, metav1.ConditionUnknown, reasonStarting, "the first sync has not ended yet")
	}
	if meta.FindStatusCondition(status.Conditions, conditionUpdated) == nil {
		set(conditionUpdated, metav1.ConditionUnknown, reasonNoUpdate, "no update was attempted yet")
	}
	created := meta.IsStatusConditionTrue(status.Conditions, conditionCreated)
	switch {
	case r.err == nil && !created:
		set(conditionCreated, metav1.ConditionTrue, reasonCreated, "Secret created successfully.")
		set(conditionUpdated, metav1.ConditionTrue, reasonUpToDate, "Secret contains last observed values.")
	case r.err == nil:
		set(conditionUpdated, metav1.ConditionTrue, reasonUpToDate, "Secret contains last observed values.")
	case !created:
		set(conditionCreated, metav1.ConditionFalse, r.reason, r.message)
	default:
		set(conditionUpdated, metav1.ConditionFalse, r.reason, r.message)
	}
}

// versionsOf is a digest of the versions that a bundle is made of. It depends on no value.
func versionsOf(bundle *volume.Bundle) string {
	plain := volume.Bundle{Sources: make([]volume.Source, 0, len(bundle.Sources))}
	for _, s := range bundle.Sources {
		key := s.Key
		key.Identity = ""
		plain.Sources = append(plain.Sources, volume.Source{Key: key, Hash: hash(s.Version)})
	}
	sum := hashOf("", &plain)
	return hex.EncodeToString(sum[:16])
}

func hash(text string) [32]byte { return sha256.Sum256([]byte(text)) }
