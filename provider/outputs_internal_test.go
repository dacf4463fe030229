package provider

import (
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// What a template made is forgotten when it is not asked for, at the end, and is never more than the bound.
func TestOutputsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutputs(clock.RealClock{})
		used, unused := o.hash("used", "x").sum(), o.hash("unused", "x").sum()
		o.put(used, render.Result{Data: []byte("1")})
		o.put(unused, render.Result{Null: true})
		for range 10 {
			time.Sleep(outputLife / 5)
			if _, ok := o.get(used); !ok {
				t.Fatal("what is in use was forgotten")
			}
		}
		synctest.Wait()
		if len(o.kept) != 1 || o.size != (output{Result: render.Result{Data: []byte("1")}}).size() {
			t.Errorf("%d outputs of %d bytes are kept", len(o.kept), o.size)
		}
		for i := range byte(40) {
			o.put([32]byte{i}, render.Result{Data: make([]byte, 1<<20)})
		}
		if o.size > mostOutputs {
			t.Errorf("%d bytes are kept", o.size)
		}
		o.close()
		if o.put(unused, render.Result{}); len(o.kept) != 0 {
			t.Error("outputs are kept after the end")
		}
	})
}

// Paths, contents and absence are distinguished.
func TestInputHash(t *testing.T) {
	o := newOutputs(clock.RealClock{})
	a, empty := o.digest([]byte("a")), o.digest(nil)
	seen := map[[32]byte]string{}
	for name, hash := range map[string]func() inputHash{
		"none":     func() inputHash { return o.hash("p", "t") },
		"text":     func() inputHash { return o.hash("p", "u") },
		"boundary": func() inputHash { return o.hash("pt", "") },
		"file":     func() inputHash { return o.hash("p", "t").add("a", a) },
		"content":  func() inputHash { return o.hash("p", "t").add("a", empty) },
		"path":     func() inputHash { return o.hash("p", "t").add("ab", a) },
		"two":      func() inputHash { return o.hash("p", "t").add("a", a).add("b", a) },
		"absent":   func() inputHash { h := o.hash("p", "t"); h.addAbsent("a"); return h },
	} {
		sum := hash().sum()
		if sum != hash().sum() {
			t.Errorf("%s has another hash the second time", name)
		}
		if other, ok := seen[sum]; ok {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[sum] = name
	}
	if newOutputs(clock.RealClock{}).digest(nil) == empty {
		t.Error("another process has the same hashes")
	}
}
