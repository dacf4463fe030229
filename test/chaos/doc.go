// Package chaos breaks things while the built driver works: system calls that fail or at which it is killed, kills at random
// moments, two drivers on one node, too little memory, a full disk, a wall clock that is stepped, and faults of the vault and of the
// identity services. Readers look at the volumes all the time and know which generation they may see.
//
// The tests have the build tag chaos; `make chaos` runs them. What came of each fault is a row of docs/reliability.md.
package chaos
