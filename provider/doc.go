// Package provider gets Azure Key Vault objects for Pods: class parameters in, files out. It is the only door; its
// subpackages know what is asked for (class, cloud), who asks (identity), how (vault, transport), how often (limiter)
// and which bytes come of it (encode).
//
// Bind makes a binding from a class and a Pod, without a request. Fetch of a binding asks for each source of the class,
// and makes the files from the answers:
//
//	Fetch ─► for each object: its source, or the list of versions and then their sources
//	            table       one request per source, however many ask; keeps answers for a moment
//	            vault       the request, with the identity's token, when the limiter allows it
//	      ─► the files, in the class's order
//
// A source is named by a volume.SourceKey: an identity, a vault, and a version of an object or its list of versions.
// The identity is part of it: two Pods share a value only if the vault would have answered both with the same identity.
package provider
