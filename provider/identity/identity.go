// Package identity answers who asks: it turns a class and a pod's request into an identity, and keeps one credential and
// one token cache per identity for the life of the driver.
package identity
