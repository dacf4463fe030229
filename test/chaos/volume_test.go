//go:build chaos

package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// files are those of the class: one object under several names, so that all of them are of one generation whenever the vault is asked.
var files = []string{"one", "two", "dir/three"}

const objects = `array:
- '{objectName: s, objectType: secret, objectAlias: one}'
- '{objectName: s, objectType: secret, objectAlias: two}'
- '{objectName: s, objectType: secret, objectAlias: dir/three}'
`

// node is a node with a driver, whose volumes have generations.
type node struct {
	*kubelet.Node
	// newest is the generation that the vault has.
	newest *atomic.Int64
}

// start runs a driver. Values are not shared between Pods, so that each publish has the newest.
func start(t testing.TB, seed string, flags ...string) *node {
	t.Helper()
	n := &node{kubelet.Start(t, kubelet.Seed+seed, append([]string{"--cache-ttl", "0s"}, flags...)...), &atomic.Int64{}}
	n.advance()
	n.Class("c", map[string]string{"objects": objects})
	return n
}

// advance makes the next generation.
func (n *node) advance() int64 {
	n.Helper()
	next := n.newest.Add(1) // before the vault has it, or a reader could see it too early
	n.Secret("s", content(next))
	return next
}

// large divides the generations whose values are long.
const large = 1_000_000

// content is a value that says its generation and proves that it is whole.
func content(generation int64) string {
	size := 2000 + int(generation*997%6000)
	if generation%large == 0 {
		size = 25000 // a vault's values are not much longer
	}
	text := fmt.Sprintf("%d:%s:", generation, strings.Repeat(string(rune('a'+generation%26)), size))
	sum := sha256.Sum256([]byte(text))
	return text + hex.EncodeToString(sum[:])
}

// generationOf is the generation of a file's content.
func generationOf(text string) (int64, error) {
	number, _, _ := strings.Cut(text, ":")
	generation, err := strconv.ParseInt(number, 10, 64)
	if err != nil || text != content(generation) {
		return 0, fmt.Errorf("%d bytes that are not whole", len(text))
	}
	return generation, nil
}

// whole reads all files of a volume through its current directory and returns their generation. Files that are not whole, not of one
// generation, missing or too many are an error.
func whole(target string) (int64, error) {
	for {
		before, err := os.Readlink(filepath.Join(target, "..data"))
		if err != nil {
			return 0, err
		}
		generation, err := wholeIn(filepath.Join(target, before))
		if !errors.Is(err, fs.ErrNotExist) {
			return generation, err
		}
		// A generation that was replaced may be removed under a slow reader.
		if after, again := os.Readlink(filepath.Join(target, "..data")); again != nil || after == before {
			return 0, err
		}
	}
}

func wholeIn(path string) (int64, error) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	var generation int64
	for i, name := range files {
		data, err := dir.ReadFile(name)
		if err != nil {
			return 0, err
		}
		of, err := generationOf(string(data))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		if i > 0 && of != generation {
			return 0, fmt.Errorf("%s is of generation %d, %s of %d", name, of, files[0], generation)
		}
		generation = of
	}
	count := 0
	err = fs.WalkDir(dir.FS(), ".", func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			count++
		}
		return err
	})
	if err == nil && count != len(files) {
		err = fmt.Errorf("%d files", count)
	}
	return generation, err
}

// watcher reads a volume until it is stopped.
type watcher struct {
	n    *node
	pod  string
	seen atomic.Int64
	// reads is how often it read all files.
	reads atomic.Int64
	stop  func()
}

// watch reads the volume of the Pod steady, which has been published, again and again: as a whole, and each file by the name that its
// containers use. No generation may be torn, empty, newer than the vault's or older than what was read before.
func (n *node) watch() *watcher {
	n.Helper()
	w := &watcher{n: n, pod: "steady"}
	stop := make(chan struct{})
	var work sync.WaitGroup
	w.stop = sync.OnceFunc(func() { close(stop); work.Wait() })
	n.Cleanup(w.stop)
	work.Go(func() {
		for {
			if err := w.look(); err != nil {
				n.Errorf("the reader, which has seen generation %d of %d: %v", w.seen.Load(), n.newest.Load(), err)
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	return w
}

func (w *watcher) look() error {
	target := w.n.Target(w.pod)
	generation, err := whole(target)
	if err != nil {
		return err
	}
	if err := w.next(generation); err != nil {
		return err
	}
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(target, name))
		if errors.Is(err, fs.ErrNotExist) { // of a generation that was replaced in between: then it is there now
			data, err = os.ReadFile(filepath.Join(target, name))
		}
		if err != nil {
			return err
		}
		generation, err := generationOf(string(data))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := w.next(generation); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	w.reads.Add(1)
	return nil
}

// next notes the generation that was read.
func (w *watcher) next(generation int64) error {
	newest := w.n.newest.Load()
	if generation < w.seen.Load() || generation > newest {
		return fmt.Errorf("generation %d", generation)
	}
	w.seen.Store(generation)
	return nil
}

// sees waits until the reader has read the generation.
func (w *watcher) sees(generation int64) {
	w.n.Helper()
	w.n.Eventually(fmt.Sprintf("%s to read generation %d", w.pod, generation), func() bool {
		if w.n.Failed() {
			w.n.FailNow()
		}
		return w.seen.Load() >= generation
	})
}

// whole fails unless the Pod's volume is whole.
func (n *node) whole(pod string) int64 {
	n.Helper()
	generation, err := whole(n.Target(pod))
	if err != nil {
		n.Fatalf("%s: %v", pod, err)
	}
	return generation
}

// Kubelet's deadline is two minutes. The driver keeps ten seconds of that of a publish for its answer.
const (
	publishTime   = 15 * time.Second
	unpublishTime = 5 * time.Second
)

// call calls the driver as kubelet does: over a connection of its own, and with a deadline.
func (n *node) call(timeout time.Duration, do func(context.Context, csi.NodeClient) error) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.Dir, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return do(ctx, csi.NewNodeClient(conn))
}

// publish calls NodePublishVolume once. The tokens hold for two days.
func (n *node) publish(pod string) error {
	n.Helper()
	request := n.Request(pod, "c", func(r *csi.NodePublishVolumeRequest) {
		r.Secrets["csi.storage.k8s.io/serviceAccount.tokens"] = n.Tokens("default", "app", 48*time.Hour)
	})
	return n.call(publishTime, func(ctx context.Context, client csi.NodeClient) error {
		_, err := client.NodePublishVolume(ctx, request)
		return err
	})
}

// unpublish calls NodeUnpublishVolume once.
func (n *node) unpublish(pod string) error {
	return n.call(unpublishTime, func(ctx context.Context, client csi.NodeClient) error {
		_, err := client.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-" + pod, TargetPath: n.Target(pod)})
		return err
	})
}

// again publishes as kubelet does, until it succeeds.
func (n *node) again(pod string) {
	n.Helper()
	n.until(pod+" to be published", func() error { return n.publish(pod) })
}

// gone unpublishes as kubelet does, until it succeeds; then nothing of the volume is left.
func (n *node) gone(pod string) {
	n.Helper()
	n.until(pod+" to be unpublished", func() error { return n.unpublish(pod) })
	if _, err := os.Lstat(n.Target(pod)); !os.IsNotExist(err) {
		n.Errorf("%s is left: %v", pod, err)
	}
}

// until waits for a call that succeeds.
func (n *node) until(what string, call func() error) {
	n.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for err := call(); err != nil; err = call() {
		if time.Now().After(deadline) {
			n.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
