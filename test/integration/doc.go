// Package integration proves the driver against a real kube-apiserver and etcd, with credentials such as it has in a cluster: a
// token of its own ServiceAccount, bound to a Pod on a node. Its tests have the build tag `integration`; hack/test-integration
// runs them.
package integration
