//go:build bench

package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// side is one of the two programs that are compared.
type side interface {
	// node is where to call it.
	node() csi.NodeClient
	// restart makes it forget everything.
	restart()
	// pid is its process.
	pid() int
}

type driverSide struct{ n *kubelet.Node }

func (d driverSide) node() csi.NodeClient { return d.n.NodeClient }
func (d driverSide) pid() int             { return d.n.PID() }
func (d driverSide) restart() {
	d.n.Stop(syscall.SIGTERM)
	d.n.Run()
}

// plainSide runs the program of test/bench/plain against the same emulator and classes.
type plainSide struct {
	n       *kubelet.Node
	env     []string
	process *exec.Cmd
	conn    *grpc.ClientConn
}

func startPlain(n *kubelet.Node) *plainSide {
	n.Helper()
	p := &plainSide{n: n, env: emulatortest.Environment(n.TB, n.Emulator)}
	p.run()
	n.Cleanup(p.stop)
	return p
}

func (p *plainSide) run() {
	p.n.Helper()
	socket := filepath.Join(p.n.Dir, "plain.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.n.Fatal(err)
	}
	p.process = exec.Command(binaries.Plain(p.n.TB), socket, filepath.Join(p.n.Dir, "classes")) //nolint:gosec,noctx // the test's own
	p.process.Env = append(os.Environ(), p.env...)
	p.process.Stderr = os.Stderr
	p.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.process.Start(); err != nil {
		p.n.Fatal(err)
	}
	p.n.Eventually("the plain program's socket", func() bool {
		conn, err := net.Dial("unix", socket) //nolint:noctx // a test helper
		return err == nil && conn.Close() == nil
	})
	var err error
	if p.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		p.n.Fatal(err)
	}
	if _, err := csi.NewIdentityClient(p.conn).Probe(context.Background(), &csi.ProbeRequest{}); err != nil {
		p.n.Fatal(err)
	}
}

func (p *plainSide) stop() {
	_ = p.conn.Close()
	_ = p.process.Process.Signal(syscall.SIGTERM)
	_ = p.process.Wait()
}

func (p *plainSide) node() csi.NodeClient { return csi.NewNodeClient(p.conn) }
func (p *plainSide) pid() int             { return p.process.Process.Pid }
func (p *plainSide) restart() {
	p.stop()
	p.run()
}

// comparison is both programs before one emulator.
type comparison struct {
	*kubelet.Node
	sides   map[string]side
	classes []string
	next    int
}

func compare(t *testing.T, classes map[string][]string, identities int) *comparison {
	t.Helper()
	// No refresh comes between what is compared.
	n := kubelet.Start(t, kubelet.Seed, "--v", "0", "--rotation=false")
	app := emulator.Application{ClientID: kubelet.Client, ObjectID: "22222222-0000-0000-0000-000000000000"}
	for i := range identities {
		app.Federated = append(app.Federated, emulator.Federated{Issuer: n.Issuer.URL, Subject: "system:serviceaccount:default:sa-" + strconv.Itoa(i)})
	}
	if err := n.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{app}}}}); err != nil {
		t.Fatal(err)
	}
	c := &comparison{Node: n, sides: map[string]side{"driver": driverSide{n}, "plain": startPlain(n)}}
	for name, secrets := range classes {
		for _, s := range secrets {
			n.Secret(s, strings.Repeat("v", 64))
		}
		n.Class(name, map[string]string{"objects": kubelet.Objects(secrets...)})
		c.classes = append(c.classes, name)
	}
	return c
}

// fresh starts one side again, so that it has no token, connection or value.
func (c *comparison) fresh(name string) {
	c.Helper()
	c.sides[name].restart()
	if name == "driver" {
		known(c.Node, c.classes...)
	}
	runtime.GC() // the emulator's and the caller's; its pauses would be part of what is measured
}

// requests are those of new Pods, one for each service account.
func (c *comparison) requests(class string, accounts ...int) []*csi.NodePublishVolumeRequest {
	c.Helper()
	all := make([]*csi.NodePublishVolumeRequest, len(accounts))
	for i, account := range accounts {
		c.next++
		all[i] = c.Request("pod-"+strconv.Itoa(c.next), class, c.As("default", "sa-"+strconv.Itoa(account)))
	}
	return all
}

// together publishes all at once and returns how long each took, and how long all did.
func (c *comparison) together(name string, requests []*csi.NodePublishVolumeRequest) (each []time.Duration, all time.Duration) {
	c.Helper()
	node := c.sides[name].node()
	each = make([]time.Duration, len(requests))
	var work sync.WaitGroup
	start := time.Now()
	for i, r := range requests {
		work.Go(func() {
			start := time.Now()
			if _, err := node.NodePublishVolume(context.Background(), r); err != nil {
				c.Errorf("%s: %v", name, err)
			}
			each[i] = time.Since(start)
		})
	}
	work.Wait()
	all = time.Since(start)
	if c.Failed() {
		c.FailNow()
	}
	return each, all
}

func (c *comparison) remove(name string, requests []*csi.NodePublishVolumeRequest) {
	c.Helper()
	for _, r := range requests {
		request := &csi.NodeUnpublishVolumeRequest{VolumeId: r.GetVolumeId(), TargetPath: r.GetTargetPath()}
		if _, err := c.sides[name].node().NodeUnpublishVolume(context.Background(), request); err != nil {
			c.Fatal(err)
		}
	}
}

// processor is the processor time of all threads of a process so far, exact while none of them ends.
func processor(c testing.TB, pid int) time.Duration {
	c.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		c.Fatalf("no threads: %v", err)
	}
	var sum time.Duration
	for _, thread := range threads {
		data, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		ns, _ := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		sum += time.Duration(ns)
	}
	return sum
}

// inTurns returns the programs in a random order, so that neither is always the one that meets a busy machine.
func inTurns() []string {
	names := []string{"plain", "driver"}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

// Spread is of all runs, in milliseconds: the median, and the quartiles, between which half of the runs are.
type Spread struct {
	Runs   int     `json:"runs"`
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func spread(all []time.Duration) Spread {
	ms := func(p int) float64 { return float64(percentile(all, p).Microseconds()) / 1000 }
	return Spread{Runs: len(all), Median: ms(50), Low: ms(25), High: ms(75)}
}

func (s Spread) String() string { return fmt.Sprintf("%.1f (%.1f-%.1f)", s.Median, s.Low, s.High) }

// Publish is one volume at a time.
type Publish struct {
	Program string `json:"program"`
	// State is cold (a new process), warm (token and connection may be there, the values are not) or again (another Pod
	// of the same class and identity).
	State   string `json:"state"`
	Secrets int    `json:"secrets"`
	Latency int    `json:"latencyMilliseconds"`
	Time    Spread `json:"milliseconds"`
	Vault   int    `json:"vaultRequests"`
	Entra   int    `json:"entraRequests"`
}

// Storm is many Pods at once, before a new process.
type Storm struct {
	Program    string `json:"program"`
	Pods       int    `json:"pods"`
	Identities int    `json:"identities"`
	Secrets    int    `json:"secrets"`
	Latency    int    `json:"latencyMilliseconds"`
	// Half and Last are until half of the Pods, and all, had their files.
	Half      Spread `json:"halfMilliseconds"`
	Last      Spread `json:"lastMilliseconds"`
	Processor Spread `json:"processorMilliseconds"`
	// Vault and Entra are the most of all runs.
	Vault int `json:"vaultRequests"`
	Entra int `json:"entraRequests"`
}

// save puts a part into the file that FIGURES_JSON names, which hack/plot reads; without it there is none.
func save(t *testing.T, key string, part any) {
	t.Helper()
	path := os.Getenv("FIGURES_JSON")
	if path == "" {
		return
	}
	all := map[string]any{}
	if data, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(data, &all); err != nil {
			t.Fatal(err)
		}
	}
	all["go"], all["cpus"], all[key] = runtime.Version(), runtime.NumCPU(), part
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFiguresOfPublish compares the publish of 1, 10 and 50 secrets with vault and Entra ID 0, 5 and 20 ms away.
func TestFiguresOfPublish(t *testing.T) {
	const colds, warms = 9, 3
	var figures []Publish
	for _, secrets := range []int{1, 10, 50} {
		classes := map[string][]string{}
		for i := range warms + 1 {
			classes["c"+strconv.Itoa(i)] = numbered(fmt.Sprintf("s%d-", i), secrets)
		}
		c := compare(t, classes, 1)
		for _, latency := range []int{0, 5, 20} {
			type key struct{ program, state string }
			times := map[key][]time.Duration{}
			most := map[key]Publish{}
			for range colds {
				for _, name := range inTurns() {
					c.Emulator.SetLatency(0)
					c.fresh(name)
					c.Emulator.SetLatency(time.Duration(latency) * time.Millisecond)
					once := func(state, class string) {
						counts(c.Node)
						requests := c.requests(class, 0)
						_, took := c.together(name, requests)
						vault, entra := counts(c.Node)
						k := key{name, state}
						times[k] = append(times[k], took)
						most[k] = Publish{
							Program: name,
							State:   state,
							Secrets: secrets,
							Latency: latency,
							Vault:   max(vault, most[k].Vault),
							Entra:   max(entra, most[k].Entra),
						}
						c.remove(name, requests)
					}
					once("cold", "c0")
					for i := range warms {
						once("warm", "c"+strconv.Itoa(i+1))
					}
					for range warms {
						once("again", "c0")
					}
				}
			}
			for _, state := range []string{"cold", "warm", "again"} {
				for _, name := range []string{"plain", "driver"} {
					p := most[key{name, state}]
					p.Time = spread(times[key{name, state}])
					figures = append(figures, p)
				}
			}
		}
	}
	slices.SortStableFunc(figures, func(a, b Publish) int {
		return cmp.Or(cmp.Compare(a.Latency, b.Latency), cmp.Compare(a.Secrets, b.Secrets))
	})
	out := &table{}
	out.row("away", "secrets", "state", "plain, ms", "driver, ms", "ratio", "plain requests", "driver requests")
	for i := 0; i < len(figures); i += 2 {
		p, d := figures[i], figures[i+1]
		out.row(fmt.Sprintf("%d ms", p.Latency), p.Secrets, p.State, p.Time, d.Time, fmt.Sprintf("%.1f", p.Time.Median/d.Time.Median),
			p.Vault+p.Entra, d.Vault+d.Entra)
	}
	out.print("Publish, medians and quartiles (cold: a new process; warm: other values of the same vault and identity; again: another Pod)")
	save(t, "publish", figures)
}

// TestFiguresOfStorms compares Pods that start together, after the start of the program: of one identity, and each of its own.
func TestFiguresOfStorms(t *testing.T) {
	const latency, secrets = 20, 10
	var figures []Storm
	c := compare(t, map[string][]string{"c": numbered("s", secrets)}, 500)
	for _, many := range []bool{false, true} {
		for _, pods := range []int{1, 10, 100, 500} {
			if many && pods == 1 {
				continue // the same as without
			}
			accounts, identities := make([]int, pods), 1
			if many {
				identities = pods
				for i := range accounts {
					accounts[i] = i
				}
			}
			runs := 5
			if pods == 500 {
				runs = 3
			}
			half, last, used := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string][]time.Duration{}
			vault, entra := map[string]int{}, map[string]int{}
			for range runs {
				for _, name := range inTurns() {
					c.Emulator.SetLatency(0)
					c.fresh(name)
					c.Emulator.SetLatency(latency * time.Millisecond)
					requests := c.requests("c", accounts...)
					counts(c.Node)
					before := processor(c.TB, c.sides[name].pid())
					each, all := c.together(name, requests)
					used[name] = append(used[name], processor(c.TB, c.sides[name].pid())-before)
					half[name], last[name] = append(half[name], percentile(each, 50)), append(last[name], all)
					v, e := counts(c.Node)
					vault[name], entra[name] = max(vault[name], v), max(entra[name], e)
					c.remove(name, requests)
				}
			}
			for _, name := range []string{"plain", "driver"} {
				figures = append(figures, Storm{
					Program:    name,
					Pods:       pods,
					Identities: identities,
					Secrets:    secrets,
					Latency:    latency,
					Half:       spread(half[name]),
					Last:       spread(last[name]),
					Processor:  spread(used[name]),
					Vault:      vault[name],
					Entra:      entra[name],
				})
			}
		}
	}
	out := &table{}
	out.row("Pods", "identities", "program", "half, ms", "last, ms", "processor, ms", "vault", "Entra ID", "requests per Pod", "ratio of last")
	for i, s := range figures {
		ratio := ""
		if i%2 == 1 {
			ratio = fmt.Sprintf("%.1f", figures[i-1].Last.Median/s.Last.Median)
		}
		out.row(s.Pods, s.Identities, s.Program, s.Half, s.Last, s.Processor, s.Vault, s.Entra,
			fmt.Sprintf("%.1f", float64(s.Vault+s.Entra)/float64(s.Pods)), ratio)
	}
	out.print(fmt.Sprintf("Pods that start at once, %d secrets, vault and Entra ID %d ms away, new processes", secrets, latency))
	save(t, "storms", figures)
}
