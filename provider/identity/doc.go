// Package identity answers who asks: it turns a class and a Pod's request into an Identity, and keeps one credential
// and one token cache per Identity for the life of the driver.
//
// An Identity signs in by one method. There is one type for each:
//
//	federated  a service account token that Entra ID exchanges (workload identity), also through the AKS token proxy
//	           (identity binding)
//	principal  a service principal with a secret or a certificate, from nodePublishSecretRef
//	managed    a managed identity of the node, from the instance metadata service
//	person     the user who runs the process, for tools
//
// A Registry resolves them. Two Pods have the same Identity, by its Key, only if Entra ID cannot tell them apart; then
// they share its tokens. Kubelet hands over fresh service account tokens at each republish: the newest one is used.
//
// Tokens are renewed some minutes before they expire, and serve until they do while they cannot be renewed. Callers
// that want the same token share one request. A vault's refusal takes no token away (see Renew).
package identity
