// Package secretsync reconciles Kubernetes Secrets with values from a vault.
//
// A caller describes a Secret (Desired) and keeps what is known of it (Known) between calls. Reconciler compares both
// with the Secret in the API server and makes the fewest requests that bring it in step. The first try and every retry
// are the same call. The package knows neither volumes nor Pods of a node: the caller says who owns the Secret and
// which class it comes from.
//
// # Requests
//
// Secrets are never got, listed or watched. All requests are patches that ask for metadata alone:
//
//  1. A JSON patch that only tests the ownership label. It answers with the metadata, with 404, or with 422 where the Secret is
//     somebody else's, which ends it.
//  2. A server-side apply by a field manager per class, so that classes do not remove each other's keys. It carries the
//     resourceVersion of the last answer, or one that no object has where there is no Secret: a race is a conflict, and is compared
//     again. Owners that are missing are part of it.
//  3. A strategic merge patch that adds owners, where nothing else has to be written.
//
// # Order
//
// Many nodes write one Secret, each with values that it fetched at another time. Their clocks are not compared. Each
// class has an annotation on the Secret, the record: the class's UID and generation, a hash of the Pod's volume
// attributes, and for each source of the data when the vault answered by the vault's clock, and with which version. A
// write that would go back in any of these is not made. The record holds no value and no hash of one.
//
// # Drift
//
// The metadata shows whether the Secret holds what was applied: an edit by another manager takes fields away from the
// class's field manager. A Secret whose record says the same and whose fields are all the class's is right, and is not
// written.
package secretsync
