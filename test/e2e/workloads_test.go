//go:build e2e

package e2e

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// template is a Pod template with the label app.
func template(app, class string, edit ...func(*corev1.PodSpec)) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	labels := map[string]string{"app": app}
	return &metav1.LabelSelector{MatchLabels: labels}, corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec(class, edit...)}
}

// await waits for a rollout of a workload, such as deployment/web.
func (s *suite) await(workload string) {
	s.Helper()
	if _, err := s.Kubectl("", "-n", s.Namespace, "rollout", "status", workload, "--timeout=120s"); err != nil {
		s.Fatalf("%v\n%s", err, s.MustKubectl("", "-n", s.Namespace, "describe", "pods"))
	}
}

// TestDeploymentAndItsSecret goes through a Deployment's life: the Secret of its Pods stays through rollouts and scaling, and goes
// when the Deployment goes.
func TestDeploymentAndItsSecret(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-db"
	s.Secret(db, "s3cret")
	s.Class("web", kubelet.Objects(db), secretObject("web-db", "Opaque", "password", db))
	two, none := int32(2), int32(0)
	selector, pods := template("web", "web", withPassword)
	_, err := s.Client().AppsV1().Deployments(s.Namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: &two, RevisionHistoryLimit: &none, Selector: selector, Template: pods},
	}, metav1.CreateOptions{})
	s.must(err)
	s.await("deployment/web")
	first := s.Synced("web-db")
	if !strings.HasPrefix(owners(first), "ReplicaSet/web-") || len(first.OwnerReferences) != 1 {
		t.Errorf("owners: %s", owners(first))
	}

	s.MustKubectl("", "-n", s.Namespace, "rollout", "restart", "deployment/web")
	s.await("deployment/web")
	s.Eventually("the old ReplicaSet to go", func() bool {
		secret := s.Synced("web-db")
		if secret == nil || secret.UID != first.UID {
			t.Fatal("the Secret went with the old ReplicaSet")
		}
		return len(secret.OwnerReferences) == 1 && owners(secret) != owners(first)
	})

	s.MustKubectl("", "-n", s.Namespace, "scale", "deployment/web", "--replicas=0")
	s.Eventually("all Pods to go", func() bool {
		return s.MustKubectl("", "-n", s.Namespace, "get", "pods", "-o", "name") == ""
	})
	s.MustKubectl("", "-n", s.Namespace, "scale", "deployment/web", "--replicas=1")
	s.await("deployment/web")
	if got := s.Synced("web-db"); got == nil || got.UID != first.UID {
		t.Errorf("after scaling to 0 and back: %v", got)
	}

	s.MustKubectl("", "-n", s.Namespace, "delete", "deployment/web", "--wait=false")
	s.Eventually("the garbage collection of the Secret", func() bool { return s.Synced("web-db") == nil })
}

// TestStatefulSetSharesASecret has Pods with stable names, which come and go one by one.
func TestStatefulSetSharesASecret(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-db"
	s.Secret(db, "s3cret")
	s.Class("web", kubelet.Objects(db), secretObject("web-db", "Opaque", "password", db))
	two := int32(2)
	selector, pods := template("web", "web", withPassword)
	_, err := s.Client().AppsV1().StatefulSets(s.Namespace).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.StatefulSetSpec{Replicas: &two, Selector: selector, Template: pods},
	}, metav1.CreateOptions{})
	s.must(err)
	s.await("statefulset/web")
	if got := owners(s.Synced("web-db")); got != "StatefulSet/web" {
		t.Errorf("owners: %s", got)
	}
	s.Delete("web-1")
	s.Eventually("web-1 to come back", func() bool {
		out, err := s.Run("web-1", "cat "+mount+"/"+db)
		return err == nil && out == "s3cret"
	})
	if got := s.Read("web-0", db); got != "s3cret" {
		t.Errorf("web-0 reads %q", got)
	}
}

// TestCronJobAndItsSecret runs a job of a CronJob: its Secret outlives the Pod, and goes with the job.
func TestCronJobAndItsSecret(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-db"
	s.Secret(db, "s3cret")
	s.Class("web", kubelet.Objects(db), secretObject("web-db", "Opaque", "password", db))
	_, pods := template("nightly", "web", withPassword, func(p *corev1.PodSpec) {
		p.RestartPolicy = corev1.RestartPolicyNever
		p.Containers[0].Args = []string{`printf '%s %s' "$PASSWORD" "$(cat ` + mount + `/` + db + `)"`}
	})
	_, err := s.Client().BatchV1().CronJobs(s.Namespace).Create(t.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "nightly"},
		Spec:       batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pods}}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.MustKubectl("", "-n", s.Namespace, "create", "job", "tonight", "--from=cronjob/nightly")
	s.MustKubectl("", "-n", s.Namespace, "wait", "--for=condition=Complete", "job/tonight", "--timeout=120s")
	if got := s.MustKubectl("", "-n", s.Namespace, "logs", "job/tonight"); got != "s3cret s3cret" {
		t.Errorf("the job read %q", got)
	}
	s.MustKubectl("", "-n", s.Namespace, "delete", "pods", "-l", "app=nightly", "--wait")
	if secret := s.Synced("web-db"); secret == nil || owners(secret) != "Job/tonight" {
		t.Fatalf("after the Pod is gone: %v", secret)
	}
	s.MustKubectl("", "-n", s.Namespace, "delete", "job/tonight")
	s.Eventually("the garbage collection of the Secret", func() bool { return s.Synced("web-db") == nil })
}
