//go:build bench

// Package bench has the figures of the built driver against the emulator, and beside a program that asks as the Azure provider
// does (plain). No time is asserted; what is compared is measured in one run, in turns.
package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

const latency = "latency: 20ms\n"

// table prints rows when the test ends.
type table struct{ rows [][]string }

func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		if d, ok := c.(time.Duration); ok {
			c = d.Round(10 * time.Microsecond)
		}
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

func (t *table) print(title string) {
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	for _, row := range t.rows {
		_, _ = fmt.Fprintln(w, "  "+strings.Join(row, "\t"))
	}
	_ = w.Flush()
}

// counts returns the requests to the vault and to Entra ID since the last call.
func counts(n *kubelet.Node) (vault, entra int) {
	for operation, count := range n.Emulator.Counts() {
		if strings.HasPrefix(operation, "get ") || strings.HasPrefix(operation, "list ") {
			vault += count
		} else {
			entra += count
		}
	}
	n.Emulator.ResetRequests()
	return vault, entra
}

// publish returns how long NodePublishVolume took.
func publish(n *kubelet.Node, pod, class string, edit ...func(*csi.NodePublishVolumeRequest)) time.Duration {
	n.Helper()
	request := n.Request(pod, class, edit...)
	start := time.Now()
	if _, err := n.NodePublishVolume(context.Background(), request); err != nil {
		n.Fatal(err)
	}
	return time.Since(start)
}

// known waits until the driver has seen all classes.
func known(n *kubelet.Node, classes ...string) {
	n.Helper()
	for _, class := range classes {
		n.Eventually("class "+class, func() bool {
			err := n.Publish("probe", class, func(r *csi.NodePublishVolumeRequest) {
				r.Secrets = nil // found, and refused for its missing token
			})
			return err != nil && !strings.Contains(err.Error(), "failed to get secretproviderclass")
		})
	}
	n.Emulator.ResetRequests()
}

func numbered(prefix string, count int) []string {
	all := make([]string, count)
	for i := range all {
		all[i] = prefix + strconv.Itoa(i)
	}
	return all
}

func mebibytes(kibibytes int) string { return fmt.Sprintf("%.1f MiB", float64(kibibytes)/1024) }

// procStatus returns a value of /proc/PID/status in KiB.
func procStatus(n *kubelet.Node, key string) int {
	n.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		n.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kb
		}
	}
	return 0
}

// cpu returns the driver's processor time so far.
func cpu(n *kubelet.Node) time.Duration {
	n.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID()))
	if err != nil {
		n.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func percentile(all []time.Duration, p int) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)]
}

// TestFiguresOfAMount: wall time and requests of one NodePublishVolume of other objects than secrets (TestFiguresOfPublish), and of templates.
func TestFiguresOfAMount(t *testing.T) {
	out := &table{}
	out.row("class", "state", "median", "vault requests", "Entra requests", "x a round trip (20 ms)")
	mount(t, out, "3 secrets, 3 keys, 3 certificates", kubelet.Seed+`
  keys: [{name: k0, type: RSA}, {name: k1, type: EC}, {name: k2, type: EC, curve: P-384}]
  certificates: [{name: c0, chain: 1}, {name: c1, keyType: EC}, {name: c2, contentType: application/x-pem-file}]
`+latency, func(n *kubelet.Node) map[string]string {
		objects := kubelet.Objects("s0", "s1", "s2")
		for i := range 3 {
			n.Secret("s"+strconv.Itoa(i), "value")
			objects += fmt.Sprintf("- '{objectName: k%d, objectType: key}'\n- '{objectName: c%d, objectType: cert}'\n", i, i)
		}
		return map[string]string{"objects": objects}
	})
	for _, count := range []int{1, 50} {
		mount(t, out, "10 secrets, "+strconv.Itoa(count)+" templates", kubelet.Seed+latency, func(n *kubelet.Node) map[string]string {
			for _, s := range numbered("s", 10) {
				n.Secret(s, "value")
			}
			templates := "array:\n"
			for i := range count {
				templates += fmt.Sprintf("- '{path: t%d, template: \"{{ file `s%d` | b64enc }}\"}'\n", i, i%10)
			}
			return map[string]string{"objects": kubelet.Objects(numbered("s", 10)...), "templates": templates}
		})
	}
	out.print("NodePublishVolume, vault and Entra ID 20 ms away (cold: a new process; warm: token and connection there, no value cached)")
}

func mount(t *testing.T, out *table, title, seed string, class func(*kubelet.Node) map[string]string) {
	t.Helper()
	n := kubelet.Start(t, seed, "--cache-ttl", "0s", "--rotation=false")
	n.Class("c", class(n))
	known(n, "c")
	var cold, warm []time.Duration
	var coldVault, coldEntra, warmVault, warmEntra int
	for i := range 5 {
		n.Stop(15)
		n.Run()
		known(n, "c")
		cold = append(cold, publish(n, fmt.Sprintf("cold-%d", i), "c"))
		coldVault, coldEntra = counts(n)
		for j := range 3 {
			warm = append(warm, publish(n, fmt.Sprintf("warm-%d-%d", i, j), "c"))
			warmVault, warmEntra = counts(n)
		}
	}
	c, w := percentile(cold, 50), percentile(warm, 50)
	out.row(title, "cold", c, coldVault, coldEntra, fmt.Sprintf("%.1f", c.Seconds()/0.02))
	out.row(title, "warm", w, warmVault, warmEntra, fmt.Sprintf("%.1f", w.Seconds()/0.02))
}

// TestFiguresOfRotation: requests and processor time of unchanged cycles, memory per volume.
func TestFiguresOfRotation(t *testing.T) {
	out := &table{}
	out.row("100 volumes x 10 secrets", "requests per cycle", "CPU per cycle", "RSS idle", "RSS with 100 volumes", "per volume")
	for _, identities := range []int{1, 10} {
		n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "2s", "--cache-ttl", "1s", "--v", "0")
		for _, s := range numbered("s", 10) {
			n.Secret(s, "value")
		}
		app := emulator.Application{ClientID: kubelet.Client, ObjectID: "o"}
		for i := range identities {
			app.Federated = append(app.Federated, emulator.Federated{Issuer: n.Issuer.URL, Subject: fmt.Sprintf("system:serviceaccount:default:sa-%d", i)})
		}
		if err := n.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{app}}}}); err != nil {
			t.Fatal(err)
		}
		n.Class("c", map[string]string{"objects": kubelet.Objects(numbered("s", 10)...)})
		known(n, "c")
		idle := procStatus(n, "VmRSS")
		for i := range 100 {
			publish(n, fmt.Sprintf("pod-%d", i), "c", n.As("default", fmt.Sprintf("sa-%d", i%identities)))
		}
		time.Sleep(4 * time.Second) // the first tick may come late
		counts(n)
		before, start := cpu(n), time.Now()
		time.Sleep(20 * time.Second)
		cycles := time.Since(start).Seconds() / 2
		vault, _ := counts(n)
		used := cpu(n) - before
		rss := procStatus(n, "VmRSS")
		out.row(fmt.Sprintf("%d identities", identities), fmt.Sprintf("%.1f", float64(vault)/cycles),
			time.Duration(float64(used)/cycles), mebibytes(idle), mebibytes(rss), fmt.Sprintf("%d KiB", (rss-idle)/100))
	}
	out.print("Rotation of unchanged content (memory without the tmpfs, which the files themselves take)")
}

// TestFiguresOfMemory: the resident memory of a driver that has nothing to do, with a growing number of volumes of 10 secrets, and its processor
// time with them. FIGURES_VOLUMES takes another number than 2,000 for the last row.
func TestFiguresOfMemory(t *testing.T) {
	most := 2000
	if text := os.Getenv("FIGURES_VOLUMES"); text != "" {
		var err error
		if most, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	out := &table{}
	out.row("volumes", "RSS", "of its own", "pages of the program", "per volume", "CPU in a minute", "republish then, and the next")
	n := kubelet.Start(t, kubelet.Seed, "--v", "0")
	for _, s := range numbered("s", 10) {
		n.Secret(s, "value")
	}
	n.Class("c", map[string]string{"objects": kubelet.Objects(numbered("s", 10)...)})
	known(n, "c")
	out.row("0, just started", mebibytes(procStatus(n, "VmRSS")), mebibytes(procStatus(n, "RssAnon")), mebibytes(procStatus(n, "RssFile")), "-", "-", "-")
	idle, mounted := 0, 0
	for _, count := range []int{0, 50, 100, most} {
		for ; mounted < count; mounted++ {
			publish(n, fmt.Sprintf("pod-%d", mounted), "c")
		}
		time.Sleep(70 * time.Second) // garbage is collected once in a while
		before := cpu(n)
		time.Sleep(time.Minute)
		used, rss, own := cpu(n)-before, procStatus(n, "VmRSS"), procStatus(n, "RssAnon")
		pages, each, republished := procStatus(n, "RssFile"), "-", "-"
		if count == 0 {
			idle = rss
		} else {
			each = fmt.Sprintf("%d KiB", (rss-idle)/count)
			republished = fmt.Sprintf("%v, %v", publish(n, "pod-0", "c").Round(10*time.Microsecond), publish(n, "pod-0", "c").Round(10*time.Microsecond))
		}
		out.row(count, mebibytes(rss), mebibytes(own), mebibytes(pages), each, used, republished)
	}
	out.print("Memory at rest, without the tmpfs, which the files themselves take; rotation every 2 minutes")
}

// TestFiguresOfARepublish: the call that kubelet makes each minute, against an Identity Probe in the same run.
func TestFiguresOfARepublish(t *testing.T) {
	n := kubelet.Start(t, kubelet.Seed, "--v", "0")
	for _, s := range numbered("s", 10) {
		n.Secret(s, "value")
	}
	n.Class("c", map[string]string{"objects": kubelet.Objects(numbered("s", 10)...)})
	known(n, "c")
	publish(n, "a", "c")
	counts(n)
	request := n.Request("a", "c")
	const rounds = 2000
	next, gone := n.Request("b", "c"), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-b", TargetPath: n.Target("b")}
	var took, used [4][]time.Duration
	for range rounds / 10 {
		for kind, call := range []func() error{
			func() error { _, err := n.Probe(context.Background(), &csi.ProbeRequest{}); return err },
			func() error { _, err := n.NodePublishVolume(context.Background(), request); return err },
			func() error { _, err := n.NodePublishVolume(context.Background(), next); return err },
			func() error { _, err := n.NodeUnpublishVolume(context.Background(), gone); return err },
		} {
			repeat := 10
			if kind >= 2 {
				repeat = 1
			}
			before := processor(t, n.PID())
			for range repeat {
				start := time.Now()
				if err := call(); err != nil {
					t.Fatal(err)
				}
				took[kind] = append(took[kind], time.Since(start))
			}
			used[kind] = append(used[kind], (processor(t, n.PID())-before)/time.Duration(repeat))
		}
	}
	vault, entra := counts(n)
	out := &table{}
	out.row("call", "p50", "p99", "processor time", "of a Probe")
	for kind, name := range []string{"Probe", "republish", "publish of 10 known secrets", "unpublish"} {
		out.row(name, percentile(took[kind], 50), percentile(took[kind], 99), percentile(used[kind], 50),
			fmt.Sprintf("%.1f", percentile(used[kind], 50).Seconds()/percentile(used[0], 50).Seconds()))
	}
	out.print(fmt.Sprintf("Calls without a request to the vault (%d of the vault and Entra ID in all)", vault+entra))
}

// TestFiguresOfAChange: from the change in the vault to the last file on the node, at an interval of 2 s.
func TestFiguresOfAChange(t *testing.T) {
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "2s", "--cache-ttl", "1s", "--v", "0")
	n.Secret("s", "value-0")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	known(n, "c")
	for i := range 20 {
		publish(n, fmt.Sprintf("pod-%d", i), "c")
	}
	var times []time.Duration
	for round := 1; round <= 10; round++ {
		want := fmt.Sprintf("value-%d", round)
		n.Secret("s", want)
		start := time.Now()
		for i := range 20 {
			n.Eventually("the change", func() bool { return n.Read(fmt.Sprintf("pod-%d", i), "s") == want })
		}
		times = append(times, time.Since(start))
		time.Sleep(time.Duration(round*137) * time.Millisecond) // not in step with the rotation
	}
	out := &table{}
	out.row("from the vault to the last of 20 volumes", "p50", "p99")
	out.row("interval 2 s", percentile(times, 50), percentile(times, 99))
	out.print("Rotation of changed content")
}

// TestFiguresOfAStart: from the start of the process to the answer that kubelet's plugin watcher gets from it, and to the first volume.
func TestFiguresOfAStart(t *testing.T) {
	dir := t.TempDir()
	n := kubelet.Start(t, kubelet.Seed, "--v", "0", "--registration-dir", dir, "--kubelet-registration-path", "/var/lib/kubelet/plugins/x/csi.sock")
	n.Secret("s", "value")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	var registered, published []time.Duration
	for i := range 30 {
		n.Stop(syscall.SIGTERM)
		start := time.Now()
		n.Launch()
		conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "secrets-store.csi.k8s.io-reg.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := registerapi.NewRegistrationClient(conn).GetInfo(t.Context(), &registerapi.InfoRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		registered = append(registered, time.Since(start))
		_ = conn.Close()
		publish(n, "pod-"+strconv.Itoa(i), "c")
		published = append(published, time.Since(start))
	}
	out := &table{}
	out.row("from the start of the process", "median", "p90")
	out.row("registered", percentile(registered, 50), percentile(registered, 90))
	out.row("first volume of one secret", percentile(published, 50), percentile(published, 90))
	out.print("Start of the driver")
}
