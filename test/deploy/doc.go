// Package deploy tests what is in deploy/: what the chart renders from its values (tag integration;
// hack/test-integration), and the alert rules and the dashboard on what a real Prometheus scrapes from a real driver
// (tag prometheus; hack/test-monitoring).
package deploy
