// Package keystore writes PKCS#12 files and Java key stores (JKS). The same inputs give the same bytes, on every node
// and after a restart, so that a file and a shared Secret change only where an input does: salts and initialization
// vectors are derived from private key, certificates and password (HKDF), and dates are those of the certificates.
//
// Passwords protect these files only as far as the formats do it: JKS uses SHA-1, and PKCS#12 here 2,048 iterations of
// PBKDF2, which is what OpenSSL and Java read by default. The volume protects them.
package keystore
