package cli

import (
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	r := d.run(nil, "explain", "ROTATIONINTERVAL", "objectAlias")
	for _, want := range []string{"rotationInterval (duration of parameters", "default: --rotation-interval of the driver, 2m", "objectAlias (text of objects", "objectAlias (text of jmesPath"} {
		if r.exit != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("%q is not in: %s", want, r)
		}
	}
	if r := d.run(nil, "explain"); r.exit != 0 || strings.Count(r.stdout, "\n") < 50 {
		t.Errorf("%s", r)
	}
	if r := d.run(nil, "explain", "objectNam"); r.exit != 1 || !strings.Contains(r.stderr, "did you mean objectName?") {
		t.Errorf("%s", r)
	}
	if r := d.run(nil, "__complete", "explain", "rota"); r.exit != 0 || !strings.Contains(r.stdout, "rotationInterval") {
		t.Errorf("%s", r)
	}
}
