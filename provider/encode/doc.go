// Package encode turns what Key Vault gives into the bytes that a pod reads: PFX into PEM, JSON Web Keys into public key
// PEM, certificates into PEM, text in base64 or hex into bytes, and the content of a mounted file into the parts of a
// kubernetes.io/tls Secret.
//
// Everything here is a pure function of its arguments and is bounded in time and memory, for every input.
// Errors are one line that names what is wrong and the fix; no error and no warning holds any part of the content.
package encode
