// Package controller keeps Kubernetes Secrets in step with Key Vault without a Pod: it serves SecretSync objects.
//
// # A sync
//
// One leader serves all objects. For each it asks the API server for a token of the SecretSync's service account (accounts), binds the class
// as the driver does for a Pod of that account (package provider), fetches, makes the Secret's data from the files that a Pod would see
// (internal/secretsync/secretdata), and brings the Secret in step (internal/secretsync). Secrets are never got, listed or watched.
//
// # When
//
// An object is synced when it or its class is edited, when forceSynchronization changes, and at the ticks of its interval
// (timing), which are the same for all objects of one identity and the same vaults, so that they share requests. After a
// restart, an object whose status says that it was synced as it now is waits for its tick. What fails is tried again after ten seconds, and
// then ever more rarely up to the interval. Nothing else makes it try: a class that is edited a hundred times a second is fetched for at
// most once a second.
//
// # State
//
// What is kept of an object between two syncs is one record in syncState, which only the reconciler of that object touches: controller-runtime
// runs one at a time for a key. No value is kept.
package controller
