package refresh_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
)

func TestEditOfTheClassTakesEffectAtOnce(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.vault.Set("password", "p")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		n.classes.Put("db", map[string]string{"objects": "password"})
		n.pass(time.Second)
		n.wantFile("a", "password", "p")
		n.wantNoFile("a", "user")
		// an edit that is wrong changes nothing
		n.classes.Put("db", map[string]string{"objects": "user", "invalid": "x"})
		n.pass(time.Second)
		n.wantFile("a", "password", "p")
		if got := len(n.recorder.Of(report.KindRefreshFailed)); got != 1 || n.snapshot("a").Failure == nil {
			n.Errorf("%d failures, %+v", got, n.snapshot("a"))
		}
		// and one that is right again is no failure any more
		n.classes.Put("db", map[string]string{"objects": "password"})
		n.pass(time.Second)
		if got := len(n.recorder.Of(report.KindRecovered)); got != 1 || n.snapshot("a").Failure != nil {
			n.Errorf("recovered %d times, %+v", got, n.snapshot("a"))
		}
	})
}

// An older resolution of a class never replaces a newer one, however long it takes.
func TestLastEditOfTheClassCounts(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.vault.Set("old", "x")
		n.vault.Set("new", "y")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		slow := make(chan struct{})
		n.vault.Locked(func() { n.vault.Slow = map[string]chan struct{}{"user,old": slow} })
		n.classes.Put("db", map[string]string{"objects": "user,old"})
		<-slow
		n.classes.Put("db", map[string]string{"objects": "user,new"})
		synctest.Wait() // it could be resolved now, and must not be overtaken then
		<-slow
		n.pass(time.Second)
		n.wantFile("a", "new", "y")
		n.wantNoFile("a", "old")
	})
}

// An edit that is being resolved while its volume goes does not bring the volume back.
func TestEditDoesNotResurrectAVolume(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.vault.Set("new", "y")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		slow := make(chan struct{})
		n.vault.Locked(func() { n.vault.Slow = map[string]chan struct{}{"new": slow} })
		n.classes.Put("db", map[string]string{"objects": "new"})
		<-slow
		n.unpublish("a")
		<-slow
		n.pass(time.Hour)
		if s := n.snapshot("a"); s != nil {
			n.Errorf("the volume is back: %+v", s)
		}
	})
}

// A class that is deleted together with its Pods is no failure of Pods that are about to end. One that is missed is, at kubelet's next
// call.
func TestDeletedClass(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		n.classes.Delete("db")
		n.pass(10 * time.Second)
		if events := n.recorder.Of(report.KindRefreshFailed); len(events) != 0 {
			n.Errorf("events: %v", events)
		}
		n.mustPublish("a", "db")
		if events := n.recorder.Of(report.KindRefreshFailed); len(events) != 1 {
			n.Errorf("events: %v", events)
		}
		n.wantFile("a", "user", "alice")
	})
}

func TestEditOfSecretObjectsIsApplied(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		before := n.secrets.Applied()["a"]
		n.classes.Put("db", map[string]string{"objects": "user"}, func(c *v1.SecretProviderClass) {
			c.Spec.SecretObjects = []v1.SecretObject{{SecretName: "s"}}
		})
		n.pass(time.Second)
		if got := n.secrets.Applied()["a"]; got != before+1 {
			n.Errorf("applied %d times", got-before)
		}
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.pass(time.Second)
		if got := n.secrets.Applied()["a"]; got != before+2 {
			n.Errorf("Secret sync was not called when the class asked for no Secret any more: %d calls", got-before)
		}
	})
}

func TestRotateAt(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		class := map[string]string{"objects": "user", "rotationInterval": "24h"}
		at := func(text string) func(*v1.SecretProviderClass) {
			return func(c *v1.SecretProviderClass) { c.Annotations = map[string]string{v1.RotateAtAnnotation: text} }
		}
		n.classes.Put("db", class)
		n.mustPublish("a", "db")
		n.vault.Set("user", "bob")
		n.classes.Put("db", class, at(time.Now().Format(time.RFC3339)))
		n.pass(11 * time.Second)
		n.wantFile("a", "user", "bob")

		n.vault.Set("user", "carol")
		n.classes.Put("db", class, at(time.Now().Add(10*time.Minute).Format(time.RFC3339)))
		n.pass(9 * time.Minute)
		n.wantFile("a", "user", "bob")
		n.pass(2 * time.Minute)
		n.wantFile("a", "user", "carol")

		n.classes.Put("db", class, at("now"))
		n.pass(time.Second)
		if w := n.recorder.Of(report.KindWarning); len(w) != 1 || !strings.Contains(w[0].Message(), `"now"`) {
			n.Errorf("warnings %v", w)
		}
	})
}

// asks returns an edit that sets the refresh annotation.
func asks(text string) func(*v1.SecretProviderClass) {
	return func(c *v1.SecretProviderClass) { c.Annotations = map[string]string{v1.RefreshAnnotation: text} }
}

func TestRefreshAnnotation(t *testing.T) {
	onNode(t, func(n *node) {
		class := map[string]string{"objects": "user", "rotationInterval": "24h"}
		n.vault.Set("user", "alice")
		n.classes.Put("db", class, asks("first/0s"))
		n.mustPublish("a", "db")
		n.mustPublish("b", "db")
		n.vault.Set("user", "bob")
		n.pass(5 * time.Second)
		n.wantFile("a", "user", "alice") // what the annotation held at first sight asks for nothing

		n.classes.Put("db", class, asks("second/0s"))
		n.pass(100 * time.Millisecond)
		n.wantFile("a", "user", "bob") // although the cached value is seconds old
		n.wantFile("b", "user", "bob")
		before := n.vault.Total()
		n.mustPublish("a", "db") // kubelet's call sees the same annotation
		n.pass(10 * time.Second)
		if after := n.vault.Total(); after != before {
			t.Errorf("%d requests too many: two volumes of one group, one annotation", after-before)
		}

		n.vault.Set("user", "carol")
		n.classes.Put("db", class, asks("third/10m"))
		n.pass(10 * time.Minute)
		n.wantFile("a", "user", "carol")
		if after := n.vault.Total(); after != before+1 {
			t.Errorf("%d requests within the spread", after-before)
		}

		// an annotation that is removed, and one that cannot be read, ask for nothing
		n.classes.Put("db", class)
		n.classes.Put("db", class, asks("now"))
		n.pass(time.Minute)
		if after := n.vault.Total(); after != before+1 {
			t.Errorf("%d requests", after-before-1)
		}
		if w := n.recorder.Of(report.KindWarning); len(w) != 1 || !strings.Contains(w[0].Message(), `"now"`) {
			t.Errorf("warnings %v", w)
		}
	})
}

// A driver that starts knows nothing of requests before it: only what changes after that counts.
func TestRefreshAnnotationAfterARestart(t *testing.T) {
	onNode(t, func(n *node) {
		class := map[string]string{"objects": "user", "rotationInterval": "24h"}
		n.vault.Set("user", "alice")
		n.classes.Put("db", class, asks("first/0s"))
		n.mustPublish("a", "db")
		n.restart()
		n.mustPublish("a", "db")
		n.pass(6 * time.Second) // an adopted volume is refreshed
		before := n.vault.Total()
		n.mustPublish("a", "db")
		n.pass(time.Hour)
		if after := n.vault.Total(); after != before {
			t.Errorf("%d requests for an annotation that is old", after-before)
		}
		n.vault.Set("user", "bob")
		n.classes.Put("db", class, asks("second/1s"))
		n.pass(time.Second)
		n.wantFile("a", "user", "bob")
	})
}

// A request that comes shortly before a tick is not answered by what another group of the node asked before it.
func TestRefreshAnnotationBeforeATick(t *testing.T) {
	onNode(t, func(n *node) {
		one := map[string]string{"objects": "user", "rotationInterval": "30s"}
		n.vault.Set("user", "old")
		n.vault.Set("other", "x")
		n.classes.Put("one", one)
		n.classes.Put("two", map[string]string{"objects": "user,other", "rotationInterval": "10s"})
		n.mustPublish("a", "one")
		n.mustPublish("b", "two")
		for i := range 300 {
			value := podName(i)
			n.vault.Set("user", value)
			n.classes.Put("one", one, asks(value+"/3s"))
			n.pass(3 * time.Second)
			n.wantFile("a", "user", value)
			n.pass(10 * time.Second)
		}
	})
}

// An annotation that changes a hundred times a second asks for one refresh a second.
func TestRefreshAnnotationIsBounded(t *testing.T) {
	onNode(t, func(n *node) {
		class := map[string]string{"objects": "user", "rotationInterval": "24h"}
		n.vault.Set("user", "alice")
		n.classes.Put("db", class)
		n.mustPublish("a", "db")
		before := n.vault.Total()
		for i := range 1000 {
			n.classes.Put("db", class, asks(podName(i)+"/0s"))
			n.pass(10 * time.Millisecond)
		}
		n.vault.Set("user", "bob")
		n.classes.Put("db", class, asks("last/0s"))
		n.pass(time.Second)
		n.wantFile("a", "user", "bob")
		if got := n.vault.Total() - before; got > 13 {
			t.Errorf("%d requests in ten seconds", got)
		}
	})
}
