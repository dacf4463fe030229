package logging

import (
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"

	"k8s.io/klog/v2"
)

// MostVerbose is the highest verbosity.
const MostVerbose = 10

// klogLimit bounds what client-go and others log through klog: from 8 on they print the bodies of requests, which may
// be Kubernetes Secrets.
const klogLimit = 7

// Verbosity is how much is logged, as people know it from --v: 0 is Info, 1 to MostVerbose are ever finer debug levels.
// It may change at any time. It implements slog.Leveler.
type Verbosity struct{ current atomic.Int32 }

// Level implements slog.Leveler.
func (v *Verbosity) Level() slog.Level { return Level(v.Get()) }

// Get returns the verbosity.
func (v *Verbosity) Get() int { return int(v.current.Load()) }

// Set changes the verbosity, of klog too.
func (v *Verbosity) Set(verbosity int) error {
	if verbosity < 0 || verbosity > MostVerbose {
		return fmt.Errorf("verbosity %d is not known: use 0 to %d", verbosity, MostVerbose)
	}
	var level klog.Level
	if err := level.Set(strconv.Itoa(min(verbosity, klogLimit))); err != nil {
		return fmt.Errorf("verbosity of klog: %w", err)
	}
	v.current.Store(int32(verbosity))
	return nil
}
