//go:build soak

package soak

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func TestMain(m *testing.M) { os.Exit(kubelet.Main(m)) }

const (
	classes = 4
	slots   = 24
	// recovery is how long before the end the last fault that throttles comes: a learned limit is lifted after some minutes of answers.
	recovery = 6 * time.Minute
)

// faults are what the vault and the identity services do now and then; those that throttle are in a run that has the time to recover.
func faults(throttling bool) []emulator.Fault {
	all := []emulator.Fault{
		{Kind: emulator.FaultStatus, Status: 503, Code: "ServiceUnavailable", Count: 10},
		{Kind: emulator.FaultReset, Count: 5},
		{Kind: emulator.FaultTruncated, Count: 5},
		{Kind: emulator.FaultHTML, Status: 502, Count: 5},
		{Kind: emulator.FaultLatency, Delay: emulator.Duration(3 * time.Second), Count: 20},
		{Kind: emulator.FaultHang, Count: 4},
		{Kind: emulator.FaultChallenge, Host: "contoso.vault.azure.net", Count: 4},
		{Kind: emulator.FaultStatus, Status: 503, Host: "login.microsoftonline.com", Count: 5},
	}
	if throttling {
		all = append(all,
			emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 5, Count: 3},
			emulator.Fault{Kind: emulator.FaultThrottle, Count: 10})
	}
	return all
}

// TestSoak runs for the time of the variable SOAK, an hour where it is empty.
func TestSoak(t *testing.T) {
	length := time.Hour
	if text := os.Getenv("SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	n := kubelet.Start(t, kubelet.Seed+"tokenLifetime: 30s\n", "--v", "0", "--rotation-interval", "2s", "--cache-ttl", "1s",
		"--admin-addr", kubelet.AnyPort, "--debug-addr", kubelet.AnyPort)
	r := &run{Node: n, random: rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano()))), slots: make([]slot, slots)}
	r.admin, r.debug = n.Address("admin"), n.Address("pprof")
	r.rotate()
	for class := range classes {
		var objects strings.Builder
		objects.WriteString("array:\n")
		for _, alias := range []string{"one", "two"} {
			_, _ = fmt.Fprintf(&objects, "- '{objectName: s, objectType: secret, objectAlias: %s}'\n", alias)
		}
		for i := range class { // classes differ
			_, _ = fmt.Fprintf(&objects, "- '{objectName: s, objectType: secret, objectAlias: more-%d}'\n", i)
		}
		n.Class("c"+strconv.Itoa(class), map[string]string{"objects": objects.String()})
	}
	// A warm start: what the driver makes once is there.
	r.work(min(length/6, 5*time.Minute), false)
	r.drain()
	start := r.settled(sample{memory: 1 << 30, goroutines: 1 << 20, descriptors: 1 << 20, threads: 1 << 20})
	t.Logf("start: %s", start)
	r.work(length, true)
	r.drain()
	end := r.settled(start)
	t.Logf("end:   %s", end)
	t.Logf("%d starts of Pods, %d of them failed during faults; %d repeated calls, %d ends; %d generations, %d read; %d faults",
		r.starts, r.refused, r.repeated, r.ends, r.newest.Load(), r.reads.Load(), r.faults)
	if r.starts == 0 || r.repeated == 0 || r.ends == 0 || r.reads.Load() == 0 || r.newest.Load() < 10 {
		t.Error("the run did nothing")
	}
}

// run is one run. Its main goroutine is kubelet; another one reads.
type run struct {
	*kubelet.Node

	random       *rand.Rand
	admin, debug string
	// newest is the generation that the vault has.
	newest atomic.Int64
	reads  atomic.Int64

	mu    sync.Mutex // guards slots
	slots []slot

	pods, starts, refused, repeated, ends, faults int
	// faulty is until when calls may fail because of a fault.
	faulty time.Time
}

// slot is where a Pod may run.
type slot struct {
	pod   string
	class string
	*history
}

func (r *run) rotate() {
	next := r.newest.Add(1) // before it is set: a reader may see it at once
	r.Secret("s", strconv.FormatInt(next, 10)+strings.Repeat(" ", int(next%500)))
}

// work lets Pods come and go.
func (r *run) work(length time.Duration, broken bool) {
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { r.readAll(stop) })
	defer reader.Wait()
	defer close(stop)
	begin, printed := time.Now(), time.Now()
	for i := 0; time.Since(begin) < length && !r.Failed(); i++ {
		r.step()
		if i%25 == 0 {
			r.rotate()
			r.Emulator.ResetRequests()
		}
		if broken && i%100 == 50 {
			left := length - time.Since(begin)
			all := faults(left > recovery)
			r.Emulator.ClearFaults()
			if left > length/10 {
				r.Emulator.AddFault(all[r.random.IntN(len(all))])
				r.faults++
				r.faulty = time.Now().Add(2 * time.Minute)
			}
		}
		if time.Since(printed) > time.Minute {
			printed = time.Now()
			r.Logf("%s: %s", time.Since(begin).Round(time.Second), r.sample())
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.Emulator.ClearFaults()
}

// step starts a Pod, ends one, or repeats a call as kubelet does.
func (r *run) step() {
	i := r.random.IntN(len(r.slots))
	r.mu.Lock()
	s := r.slots[i]
	r.mu.Unlock()
	switch {
	case s.pod == "":
		r.pods++
		s = slot{pod: "pod-" + strconv.Itoa(r.pods), class: "c" + strconv.Itoa(r.random.IntN(classes)), history: &history{}}
		r.starts++
		if err := r.Publish(s.pod, s.class); err != nil {
			r.refused++
			if time.Now().After(r.faulty) {
				r.Errorf("%s does not start, and nothing is broken: %v", s.pod, err)
			}
			r.Unpublish(s.pod)
			return
		}
		r.set(i, s)
	case r.random.IntN(3) == 0:
		r.set(i, slot{}) // it has no reader any more
		r.Unpublish(s.pod)
		r.ends++
	default:
		r.repeated++
		if err := r.Publish(s.pod, s.class); err != nil {
			r.Errorf("a repeated call for %s fails: kubelet would remove the volume: %v", s.pod, err)
		}
	}
}

func (r *run) set(i int, s slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots[i] = s
}

// readAll reads the files of all Pods until it is stopped.
func (r *run) readAll(stop <-chan struct{}) {
	for {
		for i := range r.slots {
			select {
			case <-stop:
				return
			default:
			}
			r.mu.Lock() // the Pod does not end while it is read
			if s := r.slots[i]; s.pod != "" {
				one, two, err := r.generations(s.pod)
				if err == nil {
					err = s.check(one, two, int(r.newest.Load()))
				}
				if err != nil {
					r.Errorf("%s: %v", s.pod, err)
				}
				r.reads.Add(1)
			}
			r.mu.Unlock()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// generations reads both files of a Pod through one directory.
func (r *run) generations(pod string) (one, two int, err error) {
	dir, err := os.OpenRoot(filepath.Join(r.Target(pod), "..data"))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = dir.Close() }()
	var found [2]int
	for i, name := range []string{"one", "two"} {
		data, err := dir.ReadFile(name)
		if err != nil {
			return 0, 0, err
		}
		if found[i], err = strconv.Atoi(strings.TrimRight(string(data), " ")); err != nil {
			return 0, 0, err
		}
	}
	return found[0], found[1], nil
}

// drain waits until all Pods have the newest generation, reads them once more, and ends all.
func (r *run) drain() {
	r.rotate()
	newest := int(r.newest.Load())
	for i, s := range r.slots {
		if s.pod == "" {
			continue
		}
		r.Eventually("the newest generation of "+s.pod, func() bool {
			one, two, err := r.generations(s.pod)
			if err == nil {
				err = s.check(one, two, newest)
			}
			if err != nil {
				r.Fatalf("%s: %v", s.pod, err)
			}
			return one == newest
		})
		if i < len(r.slots)/2 {
			continue // these let the limiters learn that all is well, until settled
		}
		r.set(i, slot{})
		r.Unpublish(s.pod)
	}
}

// settled waits for what the driver needs to return to the start, and returns what it holds then.
func (r *run) settled(start sample) (last sample) {
	begin := time.Now()
	for {
		last = r.sample()
		if last.limited == 0 && last.waiting == 0 || time.Since(begin) > 2*recovery {
			break
		}
		time.Sleep(time.Second)
	}
	for i, s := range r.slots {
		if s.pod != "" {
			r.set(i, slot{})
			r.Unpublish(s.pod)
		}
	}
	var problems []string
	for begin := time.Now(); time.Since(begin) < 3*time.Minute; time.Sleep(time.Second) {
		last = r.sample()
		if problems = returned(start, last); len(problems) == 0 && last.mounts == 0 && last.volumes == 0 {
			return last
		}
	}
	r.Errorf("not returned to the start: %s", strings.Join(problems, "; "))
	r.Logf("%s", r.get("http://"+r.debug+"/debug/pprof/goroutine?debug=1"))
	return last
}

func (r *run) get(url string) string {
	resp, err := http.Get(url) //nolint:gosec,noctx // the driver's own listener
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return string(data)
}

// sample looks at the driver.
func (r *run) sample() (s sample) {
	text := r.get("http://" + r.debug + "/debug/pprof/goroutine?debug=1&gc=1")
	if _, err := fmt.Sscanf(text, "goroutine profile: total %d", &s.goroutines); err != nil {
		r.Fatalf("goroutines: %v: %.100s", err, text)
	}
	r.get("http://" + r.debug + "/debug/pprof/heap?gc=1&debug=1") // collects
	proc := "/proc/" + strconv.Itoa(r.PID())
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		r.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		key, value, _ := strings.Cut(string(line), ":")
		number, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch key {
		case "RssAnon":
			s.memory = number
		case "Threads":
			s.threads = number
		}
	}
	descriptors, err := os.ReadDir(proc + "/fd")
	if err != nil {
		r.Fatal(err)
	}
	s.descriptors = len(descriptors)
	mounts, err := os.ReadFile(proc + "/mountinfo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Fatal(err)
	}
	s.mounts = bytes.Count(mounts, []byte(" "+r.Dir+"/"))
	var known struct {
		Volumes []struct{}
		Hosts   []struct {
			Rate              float64
			InFlight, Waiting int
			Open              bool
		}
	}
	if err := json.Unmarshal([]byte(r.get("http://"+r.admin+"/status")), &known); err != nil {
		r.Fatal(err)
	}
	s.volumes = len(known.Volumes)
	for _, host := range known.Hosts {
		s.waiting += host.Waiting + host.InFlight
		if host.Open {
			s.open++
		}
		if host.Rate > 0 {
			s.limited++
		}
	}
	return s
}
