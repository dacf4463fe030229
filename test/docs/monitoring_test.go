package docs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

var (
	alertName = regexp.MustCompile(`(?m)^ +- alert: (\w+)$`)
	runbook   = regexp.MustCompile(`(?m)^ +runbook_url: https://github\.com/keyvault-csi/keyvault-csi-driver/blob/main/docs/operations\.md#(\w+)$`)
	ownMetric = regexp.MustCompile(`\b(?:keyvault_csi|node_publish|node_unpublish|rotation_reconcile|sync_k8s|k8s_secret)_[a-z0-9_]+`)
	suffixOf  = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// metricNames are those that exist.
func metricNames() []string {
	ch := make(chan *prometheus.Desc, 200)
	metrics.New(clock.RealClock{}).Describe(ch)
	metrics.NewController(clock.RealClock{}).Describe(ch)
	close(ch)
	var names []string
	for d := range ch {
		names = append(names, described.FindStringSubmatch(d.String())[1])
	}
	return names
}

func TestEveryAlertHasARunbook(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join(pages.Root, "deploy/monitoring/alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join(pages.Root, "deploy/monitoring/alerts_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := pages.All(t)[filepath.Join(pages.Root, "docs/operations.md")]
	alerts, runbooks := alertName.FindAllStringSubmatch(string(rules), -1), runbook.FindAllStringSubmatch(string(rules), -1)
	if len(alerts) < 10 || len(alerts) != len(runbooks) {
		t.Fatalf("%d alerts, %d runbooks", len(alerts), len(runbooks))
	}
	for i, alert := range alerts {
		if runbooks[i][1] != strings.ToLower(alert[1]) || !strings.Contains(text, "\n### "+alert[1]+"\n") {
			t.Errorf("%s has no paragraph in docs/operations.md, or does not lead there", alert[1])
		}
		if !strings.Contains(string(tests), "alertname: "+alert[1]+"\n") {
			t.Errorf("%s is not tested in deploy/monitoring/alerts_test.yaml", alert[1])
		}
	}
}

// What dashboard, alerts and pages speak of exists.
func TestMonitoringNamesMetricsThatExist(t *testing.T) {
	existing := metricNames()
	texts := map[string]string{}
	for _, name := range []string{"alerts.yaml", "alerts_test.yaml", "dashboard.json"} {
		data, err := os.ReadFile(filepath.Join(pages.Root, "deploy/monitoring", name))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(data)
	}
	for _, page := range []string{"docs/operations.md", "docs/troubleshooting.md"} {
		texts[page] = pages.All(t)[filepath.Join(pages.Root, page)]
	}
	for where, text := range texts {
		for _, name := range ownMetric.FindAllString(text, -1) {
			if !slices.Contains(existing, name) && !slices.Contains(existing, suffixOf.ReplaceAllString(name, "")) {
				t.Errorf("%s: there is no metric %s", where, name)
			}
		}
	}
	// and the dashboard shows most of what exists
	shown := 0
	for _, name := range existing {
		if strings.Contains(texts["dashboard.json"], name) {
			shown++
		}
	}
	if shown < 25 {
		t.Errorf("the dashboard shows %d of %d metrics", shown, len(existing))
	}
}

// TestTheDashboardStartsWithWhatIsWrong: numbers and tables of what fails now come first, each with a link to what to do; the panels below are in rows,
// say what they show, and do not lie over each other.
func TestTheDashboardStartsWithWhatIsWrong(t *testing.T) {
	type panel struct {
		ID                       int
		Type, Title, Description string
		Links                    []struct{ URL string }
		GridPos                  struct{ X, Y, W, H int }
		Panels                   []panel
	}
	var dashboard struct {
		Title, Description string
		Tags               []string
		Links              []struct{ URL string }
		Panels             []panel
	}
	data, err := os.ReadFile(filepath.Join(pages.Root, "deploy/monitoring/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"Key Vault", "expiry", "throttled", "stale", "rotation"} { // what people search for
		if !strings.Contains(dashboard.Title+" "+dashboard.Description, word) {
			t.Errorf("neither title nor description has %q", word)
		}
	}
	page := pages.All(t)[filepath.Join(pages.Root, "docs/operations.md")]
	var order []string // of the kinds
	ids, taken := map[int]string{}, map[[2]int]string{}
	var look func(panel)
	look = func(p panel) {
		if order = append(order, p.Type); len(order) > 1 && order[len(order)-2] == p.Type {
			order = order[:len(order)-1]
		}
		if other, twice := ids[p.ID]; twice {
			t.Errorf("%q and %q have one id", p.Title, other)
		}
		ids[p.ID] = p.Title
		if p.Type != "row" && p.Description == "" {
			t.Errorf("%q does not say what it shows", p.Title)
		}
		if (p.Type == "stat" || p.Type == "table") && len(p.Links) == 0 {
			t.Errorf("%q does not say what to do", p.Title)
		}
		for _, link := range p.Links {
			_, anchor, _ := strings.Cut(link.URL, "docs/operations.md#")
			if anchor == "" || !strings.Contains(strings.ToLower(page), "# "+anchor+"\n") {
				t.Errorf("%q links to %s, which does not exist", p.Title, link.URL)
			}
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[cell]; other != "" || cell[0] >= 24 {
					t.Fatalf("%q lies over %q, or outside", p.Title, other)
				}
				taken[cell] = p.Title
			}
		}
		for _, below := range p.Panels {
			look(below)
		}
	}
	for _, p := range dashboard.Panels {
		look(p)
	}
	if len(order) < 5 || !slices.Equal(order[:5], []string{"row", "stat", "table", "row", "timeseries"}) {
		t.Errorf("the order is %v", order)
	}
}
