// Package e2e proves the driver as users will see it: the chart, installed by Helm from the built image on a real node, and Pods
// that read what the driver mounted. Azure's place is taken by the emulator, on the machine outside the cluster; it verifies real
// tokens of the cluster. Its tests have the build tag `e2e`; hack/e2e runs them.
package e2e
