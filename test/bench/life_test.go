//go:build bench

package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// Operation is what happens to volumes after their publish.
type Operation struct {
	Name      string `json:"name"`
	Program   string `json:"program"`
	Time      Spread `json:"milliseconds"`
	Processor Spread `json:"processorMilliseconds"`
	// Vault and Entra are the most of all runs.
	Vault int `json:"vaultRequests"`
	Entra int `json:"entraRequests"`
	// Memory is the resident memory after it, in KiB.
	Memory int `json:"residentKiB"`
}

const (
	lifePods    = 20
	lifeSecrets = 10
)

// life is the figures of one program under way.
type life struct {
	*comparison
	took, used map[string][]time.Duration
	operation  map[string]Operation
}

// measure runs one operation and notes what it took.
func (l *life) measure(name, program string, do func()) {
	l.Helper()
	key := name + "/" + program
	counts(l.Node)
	pid, before := l.sides[program].pid(), time.Duration(0)
	if name != opStart {
		before = processor(l.TB, pid)
	}
	start := time.Now()
	do()
	l.took[key] = append(l.took[key], time.Since(start))
	pid = l.sides[program].pid()
	l.used[key] = append(l.used[key], processor(l.TB, pid)-before)
	vault, entra := counts(l.Node)
	o := l.operation[key]
	l.operation[key] = Operation{
		Name: name, Program: program, Vault: max(vault, o.Vault), Entra: max(entra, o.Entra), Memory: max(resident(l.TB, pid), o.Memory),
	}
}

// resident is the resident memory of a process in KiB.
func resident(t testing.TB, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(string(bytes.Fields(data)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() / 1024
}

// The operations, in the order of the table.
const (
	opStart     = "start of the process, to the first volume"
	opPublish   = "20 Pods start, one after the other"
	opSame      = "refresh of 20 volumes, nothing has changed"
	opChanged   = "refresh of 20 volumes, one secret has changed"
	opRepublish = "kubelet's call for each of 20 volumes, between two refreshes"
	opUnpublish = "20 Pods end"
)

// TestFiguresOfLife compares what comes after the first publish: refreshes, kubelet's calls, the end of Pods; and the memory with them.
func TestFiguresOfLife(t *testing.T) {
	const rounds = 3
	names := numbered("s", lifeSecrets)
	l := &life{
		comparison: compare(t, map[string][]string{"c": names, "other": {"o"}}, 1),
		took:       map[string][]time.Duration{}, used: map[string][]time.Duration{}, operation: map[string]Operation{},
	}
	generation := 0
	for range rounds {
		for _, program := range inTurns() {
			l.Emulator.SetLatency(0)
			first := l.requests("other", 0)
			l.measure(opStart, program, func() {
				l.sides[program].restart()
				l.together(program, first)
			})
			l.remove(program, first)
			known(l.Node, l.classes...)
			l.Emulator.SetLatency(20 * time.Millisecond)
			pods := l.requests("c", make([]int, lifePods)...)
			one := func() {
				for _, r := range pods {
					l.together(program, []*csi.NodePublishVolumeRequest{r})
				}
			}
			l.measure(opPublish, program, one)
			l.measure(opSame, program, func() { l.refresh(program, pods, names, generation) })
			time.Sleep(1100 * time.Millisecond) // the driver answers a second annotation within a second later, by design
			generation++
			value := fmt.Sprintf("%064d", generation)
			l.Secret(names[0], value)
			l.measure(opChanged, program, func() {
				l.refresh(program, pods, names, generation)
				for _, r := range pods {
					path := filepath.Join(r.GetTargetPath(), names[0])
					l.Eventually(path, func() bool { data, err := os.ReadFile(path); return err == nil && string(data) == value })
				}
			})
			if program == "driver" {
				l.measure(opRepublish, program, one)
			} else {
				// The provider's way has nothing to do here: upstream's driver answers such a call itself.
				l.operation[opRepublish+"/plain"] = Operation{Name: opRepublish, Program: program, Memory: l.operation[opChanged+"/plain"].Memory}
			}
			l.measure(opUnpublish, program, func() { l.remove(program, pods) })
		}
	}
	var figures []Operation
	out := &table{}
	out.row("operation", "program", "ms", "processor, ms", "vault", "Entra ID", "memory after it")
	for _, name := range []string{opStart, opPublish, opSame, opChanged, opRepublish, opUnpublish} {
		for _, program := range []string{"plain", "driver"} {
			o := l.operation[name+"/"+program]
			if took := l.took[name+"/"+program]; len(took) > 0 {
				o.Time, o.Processor = spread(took), spread(l.used[name+"/"+program])
			}
			figures = append(figures, o)
			out.row(o.Name, o.Program, o.Time, o.Processor, o.Vault, o.Entra, mebibytes(o.Memory))
		}
	}
	out.print(fmt.Sprintf("After the first publish: %d Pods of a class with %d secrets, one identity, vault and Entra ID 20 ms away", lifePods, lifeSecrets))
	save(t, "life", figures)
}

// refresh makes a program ask for all again: the plain one by publishing each volume again, as upstream's driver has its provider do at
// each interval; the driver by the annotation of the class.
func (l *life) refresh(program string, pods []*csi.NodePublishVolumeRequest, names []string, generation int) {
	l.Helper()
	if program == "plain" {
		for _, r := range pods {
			l.together(program, []*csi.NodePublishVolumeRequest{r})
		}
		return
	}
	class := bytes.Replace(kubelet.ClassJSON("c", map[string]string{"objects": kubelet.Objects(names...)}), []byte(`"metadata":{`),
		fmt.Appendf(nil, `"metadata":{"annotations":{"keyvault-csi/refresh":"%d-%d/0s"},`, generation, time.Now().UnixNano()), 1)
	l.ClassFile("c.json", string(class))
	l.Eventually("the refresh's requests", func() bool {
		asked := 0
		for operation, count := range l.Emulator.Counts() {
			if operation == "get secret" {
				asked = count
			}
		}
		return asked >= len(names)
	})
}
