// Package neterr explains errors of an HTTP transport: a name without an address, a proxy that refuses, a certificate
// that is not trusted, a way to the host that is broken. An explanation is a volume.Error with the cause and the fix.
// It never holds a URL, which may quote what it should not, or the words of a proxy.
package neterr
