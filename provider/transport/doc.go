// Package transport is how requests leave the node: one HTTP transport for the life of the driver, with HTTP/2 where
// the service offers it and enough idle connections where it does not. No redirect is followed, and no answer is read
// beyond a bound: no server may make the driver run out of memory.
package transport
