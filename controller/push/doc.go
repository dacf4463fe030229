// Package push turns Key Vault's events into refreshes: a new version of an object reaches Pods and Secrets within a second or so, where polls
// take an interval.
//
// # The way of an event
//
// Event Grid puts it into a storage queue, which the leader reads (queue.go), or posts it to the web hook that every replica serves (hook.go).
// Parse reads it (event.go), and the index finds the classes that use the object (classes.go). Each of them gets a new value of the
// annotation keyvault-csi/refresh (asks.go). Nodes, and the controller itself for its SecretSyncs, see the annotation change and ask the vault.
// No value is ever in an event, and nothing that an event says is believed but that something is worth a look: whoever could send one could
// cause refreshes, at most one a second for each class that exists, and nothing else.
//
// # Spread
//
// The annotation says within which time nodes follow. It grows with the nodes that mount the class and the objects that each of them gets
// (budget.go), so that a vault gets a small part of the requests that it allows, however large the cluster is.
//
// # What is certain
//
// An event is done when the annotation is written: then its message is deleted, or the delivery answered with 200. Until then it comes again.
// What is known of events that are done is a memory of the process that only saves work: a repeated event refreshes once more at worst.
// Polls of the vault stay what is relied on, since Event Grid may be late or lose an event.
package push
