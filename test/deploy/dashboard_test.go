//go:build prometheus

package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	promclient "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

const monitoring = "../../deploy/monitoring"

const (
	// cycle is how long a round of play takes.
	cycle = 70 * time.Second
	// patience is how long a query may be without data: some need a thing that happens once in a cycle.
	patience = 5 * time.Minute
)

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// controllerMetrics serves the controller's metrics, and returns its address: a controller needs an API server, which is not here.
func controllerMetrics(t *testing.T) string {
	t.Helper()
	m, registry := metrics.NewController(clock.RealClock{}), promclient.NewRegistry()
	start := time.Now()
	m.SetStates(func() metrics.SyncStates { return metrics.SyncStates{Synced: 7, Failing: 1, Oldest: start} })
	queue := promclient.NewGauge(promclient.GaugeOpts{Name: "workqueue_depth", ConstLabels: promclient.Labels{"name": "secretsync"}})
	must(t, errors.Join(registry.Register(m), registry.Register(queue)))
	scrape := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.Synced(metrics.SyncUpdated, "", 20*time.Millisecond)
		m.PodSecretsFetched("")
		m.PodSecretWritten("written")
		m.Restarted("Deployment")
		m.RestartFailed()
		m.Event("refreshed")
		m.EventServed(time.Second)
		m.QueueFailed()
		scrape.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// prometheus runs a Prometheus that scrapes the addresses and has the alert rules, and returns its URL.
func prometheus(t *testing.T, addresses ...string) string {
	t.Helper()
	dir, address := t.TempDir(), freePort(t)
	rules, err := filepath.Abs(filepath.Join(monitoring, "alerts.yaml"))
	must(t, err)
	config := filepath.Join(dir, "prometheus.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
- job_name: keyvault-csi
  static_configs: [{targets: [%s]}]
`, rules, strings.Join(addresses, ", ")), 0o600))
	var log bytes.Buffer
	c := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address) //nolint:gosec,noctx // a test
	c.Stdout, c.Stderr = &log, &log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, c.Start())
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return "http://" + address
}

func fetch(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	must(t, err)
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(text)
}

// TestDashboardShowsADriverAtWork lets Pods come and go while vault, identity service and classes make trouble, and
// runs the dashboard's queries on what a Prometheus saw of it.
func TestDashboardShowsADriverAtWork(t *testing.T) {
	address := freePort(t)
	n := kubelet.Start(t, kubelet.Seed+"latency: 15ms\nmanagedIdentities: [{clientID: mi, objectID: o, system: true}]\ntokenLifetime: 20s\n",
		"--http-addr", address, "--rotation-interval", "3s", "--cache-ttl", "1s", "--v", "0")
	must(t, n.Emulator.Grant(kubelet.Vault, "mi", "secrets/get"))
	server := prometheus(t, address, controllerMetrics(t))
	n.Eventually("Prometheus", func() bool { return strings.Contains(fetch(t, server+"/api/v1/query?query=keyvault_csi_ready"), `"1"`) })
	start := time.Now()
	stop := play(t, n)
	defer stop()

	missing := map[string]string{} // title and letter of each query that had no data yet
	for name, expr := range dashboardQueries(t) {
		if name != "Kubernetes Secrets/B" { // no API server here to fail
			missing[name] = expr
		}
	}
	if len(missing) < 50 {
		t.Errorf("%d queries", len(missing))
	}
	problems := map[string]string{}
	for len(missing) > 0 && time.Since(start) < patience {
		time.Sleep(2 * time.Second)
		for name, expr := range missing {
			if problems[name] = query(t, server, expr, start); problems[name] == "" {
				delete(missing, name)
			}
		}
	}
	for name, expr := range missing {
		t.Errorf("%s: %s: %s", name, expr, problems[name])
	}

	// the alert rules were evaluated on real series
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	must(t, json.Unmarshal([]byte(fetch(t, server+"/api/v1/rules")), &rules))
	count := 0
	for _, group := range rules.Data.Groups {
		for _, rule := range group.Rules {
			count++
			if rule.Health != "ok" {
				t.Errorf("%s: %s %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if count < 10 {
		t.Errorf("%d rules", count)
	}
}

// dashboardQueries returns the expressions of the dashboard by the title of the panel and the letter of the query.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	type panel struct {
		Title   string
		Targets []struct{ RefID, Expr string }
		Panels  []panel // of a row that is collapsed
	}
	var dashboard panel
	data, err := os.ReadFile(filepath.Join(monitoring, "dashboard.json"))
	must(t, err)
	must(t, json.Unmarshal(data, &dashboard))
	queries := map[string]string{}
	var add func(panel)
	add = func(p panel) {
		for _, target := range p.Targets {
			if _, twice := queries[p.Title+"/"+target.RefID]; twice {
				t.Errorf("two panels have the title %q", p.Title)
			}
			queries[p.Title+"/"+target.RefID] = target.Expr
		}
		for _, below := range p.Panels {
			add(below)
		}
	}
	add(dashboard)
	return queries
}

// query runs one of the dashboard's expressions over the time that the driver was watched, and says what is wrong with
// the answer.
func query(t *testing.T, prometheus, expr string, start time.Time) string {
	t.Helper()
	form := url.Values{
		"query": {strings.NewReplacer("$__rate_interval", "30s", "$instance", ".*").Replace(expr)},
		"start": {strconv.FormatInt(start.Unix(), 10)},
		"end":   {strconv.FormatInt(time.Now().Unix(), 10)},
		"step":  {"1"},
	}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Values [][2]any }
		}
	}
	text := fetch(t, prometheus+"/api/v1/query_range?"+form.Encode())
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Sprintf("%v: %s", err, text)
	}
	if answer.Status != "success" {
		return answer.Error
	}
	for _, series := range answer.Data.Result {
		for _, point := range series.Values {
			if text, _ := point[1].(string); text != "NaN" && !strings.HasSuffix(text, "Inf") {
				return ""
			}
		}
	}
	return "no data"
}

// play makes the data, in cycles, until the function that it returns is called.
func play(t *testing.T, n *kubelet.Node) (stop func()) {
	t.Helper()
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		expires := time.Now().Add(time.Duration(i) * 5 * 24 * time.Hour).Add(time.Minute)
		_, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: name, Value: "value", Expires: expires})
		must(t, err)
		n.Class("class-"+name, map[string]string{"objects": kubelet.Objects(name)})
	}
	n.Class("all", map[string]string{"objects": kubelet.Objects("s0", "s1", "s2", "s3", "s4"), "staleIfError": "1h"})
	n.Class("managed", map[string]string{"objects": kubelet.Objects("s1"), "useVMManagedIdentity": "true"})
	n.Class("broken", map[string]string{"objects": kubelet.Objects("missing")})
	ended := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for i := 0; ; i++ {
			if !round(n, i, ended) {
				return
			}
		}
	})
	return func() {
		close(ended)
		work.Wait()
	}
}

// round is one cycle of play: Pods come and go, then the vault throttles, then it is down. It reports whether another
// may follow, and waits for its Pods.
func round(n *kubelet.Node, number int, ended <-chan struct{}) bool {
	classes := []string{"all", "class-s0", "class-s1", "class-s2", "managed", "class-s3", "all", "class-s4"}
	var work sync.WaitGroup
	defer work.Wait()
	defer n.Emulator.ClearFaults()
	var mu sync.Mutex
	var pods []string
	start, throttled, down := time.Now(), false, false
	for i := 0; time.Since(start) < cycle; i++ {
		at := time.Since(start)
		switch {
		case at > 30*time.Second && !throttled:
			throttled = true
			n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 1, Host: "contoso.vault.azure.net", Count: 8})
		case at > 50*time.Second && at < 62*time.Second && !down:
			down = true
			n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: "contoso.vault.azure.net"})
		case at > 62*time.Second:
			n.Emulator.ClearFaults()
		}
		if i%40 == 20 {
			work.Go(func() { _ = n.Publish(fmt.Sprintf("broken-%d-%d", number, i), "broken") }) // a Pod that cannot start
		}
		if i%25 == 0 {
			n.Secret("s2", fmt.Sprintf("value %d of %d", i, number))
		}
		work.Go(func() { // a Pod may have to wait
			pod := fmt.Sprintf("pod-%d-%d", number, i)
			if n.Publish(pod, classes[i%len(classes)]) == nil {
				mu.Lock()
				defer mu.Unlock()
				pods = append(pods, pod)
			}
		})
		mu.Lock()
		var oldest string
		if len(pods) > 30 {
			oldest, pods = pods[0], pods[1:]
		}
		mu.Unlock()
		if oldest != "" {
			n.Unpublish(oldest)
		}
		select {
		case <-ended:
			return false
		case <-time.After(150 * time.Millisecond):
		}
	}
	return true
}
