// Package podsecrets writes the Kubernetes Secrets of classes that Pods mount, in place of the nodes: with it no node needs a right on
// Secrets.
//
// # Which Pods
//
// The driver of a node writes a status object for each Pod and class that it mounted. Nodes are not trusted: a status object counts only
// where the API server has a Pod of that name and UID, that Pod runs on the node that the status object's label names, and one of its
// volumes names the class. Everything else is taken from the Pod: service account, volumeAttributes, owners. So whoever has the token of a
// node's driver can make the controller act for Pods of that node alone, and for them in no other way than their specs ask for.
//
// Pods are got by name, once each, and again where none of those that share a group was seen for ten minutes: a Pod that has ended keeps its
// status object until it is deleted.
//
// # Groups
//
// Pods with the same class, service account and volumeAttributes form a group, which is fetched for as one, with a token of the service
// account (package accounts), at the ticks of its interval (package timing). Groups of one identity and the same vaults are due at the same
// moments and share requests. A group is due at once when its class is edited, when a Pod of it starts, and when a Pod brings a new owner.
// After a restart, groups whose Pods all run wait for a moment of their own.
//
// # Secrets
//
// What a fetch returns goes to package nodesync, which is what a node's driver uses: the same field managers, records, owners, order and
// retries. A cluster can change from one to the other at any time, and both may write for a while.
package podsecrets
