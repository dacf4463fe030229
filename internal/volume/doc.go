// Package volume holds what the parts of the driver say to each other about one pod volume: who asks (Request), what
// answers (Binding), what comes back (Bundle) and what can go wrong (Error). It depends on nothing but the class type,
// so that the CSI services, the Key Vault provider and the API server's side need not know each other.
package volume
