// Package scale simulates fleets of nodes in fake time: each node has the driver's own scheduler (driver/refresh), limiters, cache and
// token code (provider); only the network, the tmpfs and kubelet are models. The network's model counts requests as Key Vault and Entra ID
// do, and throttles as they do.
//
// What a fleet must keep to is asserted on counts and fake time. The tests of small fleets are part of `make test`; `make scale` runs the
// large ones (build tag scale) and prints their figures, which docs/scale.md shows.
//
// Pods of a node that have the same class and identity make one refresh group, which asks once however many Pods it has
// (TestReplicasAskOnce). So the large fleets have one volume for each group, in place of 110 for each node.
package scale
