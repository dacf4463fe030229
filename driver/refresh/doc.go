// Package refresh keeps the volumes of this node: it fills them, keeps their files fresh, and knows when they are due.
//
// # Volumes and the store
//
// Kubelet is the durable store of volumes: it names them in NodePublishVolume, again about every minute, with fresh tokens. In
// memory the store holds one immutable volumeState per target path. A change replaces the state and returns a change, the state
// before and after; everything else that wants to know what happened (log, metrics, audit, status objects, events) is derived
// from the snapshots of that pair. One lock guards the whole store, and only the methods of store, all in store.go, take it.
//
// # Groups
//
// Volumes with an equal binding key would get the same bundle. They form a refreshGroup, which asks the vault once and
// brings the bundle to each of its volumes. Values that were changed together in the vault so arrive together in every volume.
//
// # Sources
//
// A source is one thing that was asked as one identity. The store remembers for each source a hash of the newest answer and when it
// was asked. Where other groups just got, from every source of a group, what the group holds, the group is not asked again: it is
// confirmed. A changed source makes every group due that holds an older answer.
//
// # The schedule
//
// When a group is due is a pure function of the node, the group's schedule key and the time (internal/schedule). Groups of one identity and the
// same vaults have the same schedule key, so that they are due together and share requests. Nodes and keys are spread over the
// interval. Due times are distances from the present, by the monotonic clock: a step of the wall clock does not move them.
//
// # A refresh
//
// The scheduler runs each due group in a goroutine of its own. How many requests a vault gets at the same time is bounded by the provider
// alone, per vault: a vault that does not answer delays no group of another. The files of all volumes of a group are written before
// any of their Kubernetes Secrets is, so that files never wait for the API server.
package refresh
