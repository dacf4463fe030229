package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

const (
	// watchInterval is how often the seed's file is read.
	watchInterval = 500 * time.Millisecond
	// mostSeed bounds a seed, in bytes.
	mostSeed = 16 << 20
)

// readSeed reads the file of a seed. The error is one line that says what to do.
func readSeed(file string) (text []byte, err error) {
	f, err := os.Open(file) //nolint:gosec // the user names it
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err = io.ReadAll(io.LimitReader(f, mostSeed+1))
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	if len(text) > mostSeed {
		return nil, fmt.Errorf("seed: %s is larger than %d MiB: make it smaller", file, mostSeed>>20)
	}
	return text, nil
}

func parseSeed(file string, text []byte) (emulator.Seed, error) {
	seed, err := emulator.ParseSeed(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return seed, err
}

// seedWatch applies a seed again when its file changes. It opens the file by its name each time: so a file that is renamed into its place and the
// links of a ConfigMap's volume are seen like one that is written.
type seedWatch struct {
	file   string
	parse  func([]byte) (emulator.Seed, error)
	reload func(emulator.Seed) (emulator.SeedChanges, error)
	log    *slog.Logger

	// current identifies the content that was applied or refused last, and seen the one of the last look.
	current, seen content
}

// content identifies what is in a file, or why there is nothing.
type content struct {
	hash    [sha256.Size]byte
	problem string
}

func contentOf(text []byte) content { return content{hash: sha256.Sum256(text)} }

// watch returns what reloads the seed of the flags, after options was called.
func (f *flags) watch(server *emulator.Server, log *slog.Logger) *seedWatch {
	w := &seedWatch{file: f.seedFile, parse: f.seed, reload: server.Reload, log: log, current: contentOf(f.seedText)}
	if info, err := os.Stat(w.file); err == nil && !info.Mode().IsRegular() {
		w.file = "" // a pipe, whose content came once
	}
	return w
}

// run looks at the file until the context ends. Without a file it does nothing until then.
func (w *seedWatch) run(ctx context.Context) {
	if w.file == "" {
		<-ctx.Done()
		return
	}
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.look(ctx)
		}
	}
}

// look applies what the file has if it changed and is what the last look found: a file that is being written may be half
// a seed, which is valid too.
func (w *seedWatch) look(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil { // of a value that is no runtime error only the type: it may quote a secret
			problem := fmt.Sprintf("%T", p)
			if e, ok := p.(runtime.Error); ok {
				problem = e.Error()
			}
			w.log.ErrorContext(ctx, "panic", "task", "reload the seed", "error", problem, "stack", string(debug.Stack()))
		}
	}()
	text, err := w.open()
	now := contentOf(text)
	if err != nil {
		now = content{problem: err.Error()}
	}
	stable := now == w.seen
	w.seen = now
	if !stable || now == w.current {
		return
	}
	w.current = now
	var changes emulator.SeedChanges
	if err == nil {
		changes, err = w.apply(text)
	}
	if err != nil {
		w.log.ErrorContext(ctx, "the seed is refused, and what was before stays", "error", err)
		return
	}
	w.log.InfoContext(ctx, "the seed is reloaded", "file", w.file, "versions", changes.Versions, "deleted", changes.Deleted,
		"vaults", changes.Vaults, "others", changes.Others)
}

func (w *seedWatch) open() ([]byte, error) {
	info, err := os.Stat(w.file)
	if err != nil {
		return nil, fmt.Errorf("seed: %w: put it back, or start the emulator without --seed", err)
	}
	if !info.Mode().IsRegular() { // to open a pipe may take forever
		return nil, fmt.Errorf("seed: %s is not a file: put a YAML file in its place", w.file)
	}
	return readSeed(w.file)
}

func (w *seedWatch) apply(text []byte) (changes emulator.SeedChanges, err error) {
	seed, err := w.parse(text)
	if err != nil {
		return changes, err
	}
	if changes, err = w.reload(seed); err != nil {
		err = fmt.Errorf("%s: %w", w.file, err)
	}
	return changes, err
}

// nameSeed adds the file to an error of its seed.
func (f *flags) nameSeed(err error) error {
	if _, ok := errors.AsType[*emulator.SeedError](err); ok && f.seedFile != "" {
		return fmt.Errorf("%s: %w", f.seedFile, err)
	}
	return err
}
