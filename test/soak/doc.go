// Package soak runs the built driver for long against the emulator (`make soak`, build tag soak): Pods come and go, values are rotated, faults come and
// pass, and readers check at all times that files are whole and never older than they were. At the end memory, descriptors, goroutines,
// mounts and limiters must be what they were at the start.
//
// What counts as returned is in returned, which has tests of its own: a leak must be noticed.
package soak
