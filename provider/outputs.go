package provider

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

const (
	// outputLife is how long an output is kept that is not asked for. A refresh asks for those of its class, so that only
	// classes that are refreshed less often run their templates again without a change.
	outputLife = time.Hour
	// mostOutputs bounds all outputs that are kept, in bytes. What a class has above that is made again at each refresh.
	mostOutputs = 16 << 20
)

// outputs remembers what templates and expressions made of which inputs, so that a refresh that finds nothing new runs none. It is
// safe for concurrent use.
type outputs struct {
	clock clock.WithDelayedExecution
	key   []byte

	mu     sync.Mutex
	kept   map[[sha256.Size]byte]output
	size   int
	timer  clock.Timer
	closed bool
}

type output struct {
	render.Result

	used time.Time
}

// size is about what it takes in memory.
func (o output) size() int { return len(o.Data) + 128 }

func newOutputs(c clock.WithDelayedExecution) *outputs {
	o := &outputs{clock: c, key: make([]byte, sha256.Size), kept: map[[sha256.Size]byte]output{}}
	_, _ = rand.Read(o.key) // never fails (crypto/rand)
	return o
}

// digest is the hash of a file's content, keyed per process: it cannot be tested against guesses. A file that many templates read is
// hashed once.
func (o *outputs) digest(data []byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, o.key)
	_, _ = h.Write(data) // never fails
	return [sha256.Size]byte(h.Sum(nil))
}

// inputHash is the hash of a template and its inputs, keyed like digest.
type inputHash struct{ hash.Hash }

func (o *outputs) hash(path, text string) inputHash {
	h := inputHash{hmac.New(sha256.New, o.key)}
	h.write([]byte(path))
	h.write([]byte(text))
	return h
}

// add adds a file by its digest.
func (h inputHash) add(path string, digest [sha256.Size]byte) inputHash {
	h.write([]byte(path))
	h.write(digest[:])
	return h
}

// addAbsent adds a file that does not exist now.
func (h inputHash) addAbsent(path string) {
	h.write([]byte(path))
	h.write(nil)
}

// write adds bytes with their number.
func (h inputHash) write(data []byte) {
	_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(data)))) // never fails
	_, _ = h.Write(data)
}

func (h inputHash) sum() [sha256.Size]byte { return [sha256.Size]byte(h.Sum(nil)) }

// get returns what was made of the inputs.
func (o *outputs) get(key [sha256.Size]byte) (made render.Result, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	had, ok := o.kept[key]
	if ok {
		had.used = o.clock.Now()
		o.kept[key] = had
	}
	return had.Result, ok
}

// put remembers what was made of the inputs, where there is room.
func (o *outputs) put(key [sha256.Size]byte, made render.Result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.kept[key]; ok || o.closed || o.size+(output{Result: made}).size() > mostOutputs {
		return
	}
	had := output{Result: made, used: o.clock.Now()}
	o.kept[key] = had
	o.size += had.size()
	if o.timer == nil {
		o.timer = o.clock.AfterFunc(outputLife, o.sweep)
	}
}

// sweep forgets what was not asked for.
func (o *outputs) sweep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	now, next := o.clock.Now(), outputLife
	for key, had := range o.kept {
		if left := outputLife - now.Sub(had.used); left > 0 {
			next = min(next, left)
			continue
		}
		delete(o.kept, key)
		o.size -= had.size()
	}
	o.timer = nil
	if len(o.kept) > 0 {
		o.timer = o.clock.AfterFunc(next, o.sweep)
	}
}

func (o *outputs) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.size = true, 0
	clear(o.kept)
	if o.timer != nil {
		o.timer.Stop()
	}
}
