package driver

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
)

func TestEditOfTheClassTakesEffectAtOnce(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.vault.set("password", "p")
	n.classes.put("db", map[string]string{"objects": "user"})
	n.mustPublish("a", "db")
	n.classes.put("db", map[string]string{"objects": "password"})
	n.settle()
	n.wantFile("a", "password", "p")
	n.wantNoFile("a", "user")
	// an edit that is wrong changes nothing
	n.classes.put("db", map[string]string{"objects": "user", "invalid": "x"})
	n.settle()
	n.wantFile("a", "password", "p")
	n.eventually("the event", func() bool { return len(n.recorder.of(report.RefreshFailed)) == 1 })
}

func TestLastEditOfTheClassCounts(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.vault.set("old", "x")
	n.vault.set("new", "y")
	n.classes.put("db", map[string]string{"objects": "user"})
	n.mustPublish("a", "db")
	slow := make(chan struct{})
	n.vault.locked(func() { n.vault.slow = map[string]chan struct{}{"user,old": slow} })
	n.classes.put("db", map[string]string{"objects": "user,old"})
	<-slow
	n.classes.put("db", map[string]string{"objects": "user,new"})
	time.Sleep(50 * time.Millisecond) // in which it may be resolved, and must not be overtaken then
	<-slow
	n.settle()
	n.wantFile("a", "new", "y")
	n.wantNoFile("a", "old")
}

func TestEditOfSecretObjectsIsMirrored(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.classes.put("db", map[string]string{"objects": "user"})
	n.mustPublish("a", "db")
	mirrored := func() int {
		n.mirror.mu.Lock()
		defer n.mirror.mu.Unlock()
		return len(n.mirror.applied)
	}
	before := mirrored()
	n.classes.put("db", map[string]string{"objects": "user"}, func(c *v1.SecretProviderClass) {
		c.Spec.SecretObjects = []v1.SecretObject{{SecretName: "s"}}
	})
	n.eventually("the mirror", func() bool { return mirrored() == before+1 })
	n.classes.put("db", map[string]string{"objects": "user"})
	n.eventually("the mirror to hear that nothing is asked of it any more", func() bool { return mirrored() == before+2 })
}

func TestRotateAt(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	class := map[string]string{"objects": "user", "rotationInterval": "24h"}
	n.classes.put("db", class)
	n.mustPublish("a", "db")
	n.vault.set("user", "bob")
	n.classes.put("db", class, func(c *v1.SecretProviderClass) {
		c.Annotations = map[string]string{RotateAtAnnotation: epoch.Format(time.RFC3339)}
	})
	n.settle()
	n.advance(11*time.Second, time.Second)
	n.wantFile("a", "user", "bob")

	n.vault.set("user", "carol")
	n.classes.put("db", class, func(c *v1.SecretProviderClass) {
		c.Annotations = map[string]string{RotateAtAnnotation: epoch.Add(10 * time.Minute).Format(time.RFC3339)}
	})
	n.settle()
	n.advance(9*time.Minute, 10*time.Second)
	n.wantFile("a", "user", "bob")
	n.advance(2*time.Minute, 10*time.Second)
	n.wantFile("a", "user", "carol")

	n.classes.put("db", class, func(c *v1.SecretProviderClass) {
		c.Annotations = map[string]string{RotateAtAnnotation: "now"}
	})
	n.eventually("the warning", func() bool {
		w := n.recorder.of(report.Warning)
		return len(w) == 1 && strings.Contains(w[0].Message, `"now"`)
	})
}
