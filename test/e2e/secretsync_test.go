//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// report is a SecretSync, and the CronJob whose Pods read its Secret without a volume.
const report = `apiVersion: secret-sync.x-k8s.io/v1alpha1
kind: SecretSync
metadata: {name: report-db, namespace: %[1]s}
spec:
  secretProviderClassName: report
  serviceAccountName: app
  secretObject: {type: Opaque, data: [{sourcePath: %[2]s, targetKey: password}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: %[1]s}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: report
              image: %[3]s
              imagePullPolicy: Never
              args: ['echo "the password is $PASSWORD"']
              env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: report-db, key: password}}}]
`

// TestSecretWithoutAPod: a Job's Pod, which mounts nothing, reads what the controller has written, and the next one what it has written since.
func TestSecretWithoutAPod(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-report"
	s.Secret(db, "first")
	s.controllerSync(t)
	s.Class("report", kubelet.Objects(db))
	s.MustKubectl(fmt.Sprintf(report, s.Namespace, db, cluster.Busybox), "apply", "-f", "-")
	run := func(job, want string) {
		t.Helper()
		s.Eventually("the Secret", func() bool {
			made := s.Synced("report-db")
			return made != nil && string(made.Data["password"]) == want
		})
		s.MustKubectl("", "-n", s.Namespace, "create", "job", job, "--from=cronjob/report")
		s.Eventually("the Job", func() bool {
			return s.MustKubectl("", "-n", s.Namespace, "get", "job", job, "-o", "jsonpath={.status.succeeded}") == "1"
		})
		if out := s.MustKubectl("", "-n", s.Namespace, "logs", "job/"+job); strings.TrimSpace(out) != "the password is "+want {
			t.Errorf("%s printed %q", job, out)
		}
	}
	run("report-1", "first")
	s.Secret(db, "second")
	run("report-2", "second")
	s.MustKubectl("", "-n", s.Namespace, "delete", "secretsync", "report-db")
	s.Eventually("the Secret to go with its SecretSync", func() bool { return s.Synced("report-db") == nil })
}
