//go:build e2e

package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestTemplatesInAPod: a Pod that is not root reads a file that a template made of a secret's fields; it follows the secret, stays as it
// is when the template fails, and the failure is an event on the Pod. The driver of the image, without the privilege to change users, runs
// the program beside it.
func TestTemplatesInAPod(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-db"
	s.Secret(db, `{"user":"alice","password":"p1"}`)
	s.Class("web", "array:\n- |\n  objectName: "+db+"\n  objectType: secret\n  objectAlias: db\n  jmesPath:\n"+
		"  - {path: user, objectAlias: db-user}\n  - {path: \"[user, password] | join('/', @)\", objectAlias: db-pair}\n",
		`    rotationInterval: 10s`, `    filePermission: "0400"`, `    fileOwner: "1000"`, `    templates: |`, `      array:`, `      - |`,
		`        path: conf/app.conf`, `        template: '{{ with json "db" }}{{ .user }}:{{ .password | upper }}{{ end }} {{ file "db-pair" }}'`)
	user := int64(1000)
	s.Pod("cart", "web", func(p *corev1.PodSpec) {
		yes := true
		p.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsNonRoot: &yes}
	})
	s.Ready("cart")
	read := func() string {
		out, err := s.Run("cart", "stat -L -c '%a %u' "+mount+"/conf/app.conf; cat "+mount+"/conf/app.conf "+mount+"/db-user")
		if err != nil {
			return err.Error()
		}
		return out
	}
	if got := read(); got != "400 1000\nalice:P1 alice/p1alice" {
		t.Errorf("the Pod sees %q", got)
	}
	s.Secret(db, `{"user":"bob","password":"p2"}`)
	s.Eventually("the new value", func() bool { return read() == "400 1000\nbob:P2 bob/p2bob" })
	s.Secret(db, `{"user":"hunter2","passwort":"hunter2"}`)
	s.Eventually("an event that says why", func() bool {
		return strings.Contains(s.Events("cart"), "jmesPath") || strings.Contains(s.Events("cart"), `there is no field "password"`)
	})
	if got := read(); got != "400 1000\nbob:P2 bob/p2bob" {
		t.Errorf("after a failure the Pod sees %q", got)
	}
	if strings.Contains(s.Events("cart"), "hunter2") || strings.Contains(s.DriverLog(200), "hunter2") {
		t.Error("a value is in an event or in the log")
	}
	s.Delete("cart")
}
