// Package restart restarts workloads when what they read has changed.
//
// A Deployment, StatefulSet or DaemonSet with the annotation keyvault-csi/restart: on-change is rolled, as `kubectl rollout restart` does it,
// by an annotation of its Pod template that names the reason (keyvault-csi/restarted-for).
//
// # When a workload is due
//
// What the Pods started with is recorded by others, so that this package keeps no memory of its own:
//
//   - Objects that a Pod mounts: the driver's status object of the Pod has, for each object, the version at the start and the current one. The
//     Pod is behind where they differ. Where the workload reads a Secret of the same class too, it waits until the Secret's record has the
//     current version: the environment of a Pod that starts earlier would be the old one.
//   - Secrets that a Pod reads and whose class it does not mount, such as those of a SecretSync: the Secret's record has when a version took
//     the place of another. A Pod that was created before that, or within clockSlack after it, is behind, unless the annotation that it has
//     from its template names just these versions.
//
// So nothing is lost while the controller is down, nothing happens at first sight, and nothing for a change that the Pods started with.
//
// # When it is restarted
//
// A workload that is due waits for delay, in which what changes together comes together and the nodes' caches grow older than the change;
// for the end of a rollout that is under way; for its interval since the last restart, whose time is in the template's annotation; and for a
// slot: restarts at the same time are bounded for each namespace and for the cluster. A restart whose reason the template has already is not
// made again, so that a rollout that does not end is not begun again and again.
//
// # Requests
//
// Workloads are watched as metadata. Only one with the annotation is read, once for each generation and when it may be due. Its Pods are
// listed only where a status object or a Secret's record says that something changed. However often anything is edited, a workload is looked
// at at most once in lookPause.
package restart
