// Package classdir reads SecretProviderClasses from a directory of YAML files: for the demo, for tests and for local
// development without an API server.
package classdir

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube/manifest"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// settled is how old the time of a directory must be to show a later change: file systems count time in ticks of some milliseconds, FAT in
// ticks of two seconds.
const settled = 3 * time.Second

// Dir is a directory of classes. Files end in .yaml, .yml or .json and may hold several documents; documents of other
// kinds are passed over. A class without a namespace belongs to the namespace default.
type Dir struct {
	path    string
	log     *slog.Logger
	watcher *fsnotify.Watcher

	// dirty has an element while there are changes that Watch has not reported.
	dirty chan struct{}

	mu      sync.Mutex
	classes map[types.NamespacedName]*v1.SecretProviderClass
	// states are those of the files when they were read.
	states []fileState
	// listed is the directory's own state when files was read from it; zero where it may have changed since without a new time.
	listed fileState
	// files are the paths of the class files.
	files []string
	// changes are what Watch is to report.
	changes map[types.NamespacedName]struct{}
	// broken holds what is wrong with files that could not be read.
	broken []string
}

// Open reads the directory. Mistakes in single files are logged, and are part of the error for a class that is not
// found; they do not stop the others. Close must be called.
func Open(path string, log *slog.Logger) (*Dir, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for changes: %w", err)
	}
	d := &Dir{
		path: path, log: log, watcher: watcher, dirty: make(chan struct{}, 1),
		changes: map[types.NamespacedName]struct{}{},
	}
	// watch before reading, so that no change falls between
	if err := watcher.Add(path); err != nil {
		return nil, errors.Join(fmt.Errorf("class directory: %w", err), watcher.Close())
	}
	if err := d.read(); err != nil {
		return nil, errors.Join(err, watcher.Close())
	}
	clear(d.changes)
	return d, nil
}

// Close ends the watch.
func (d *Dir) Close() error {
	if err := d.watcher.Close(); err != nil {
		return fmt.Errorf("end the watch: %w", err)
	}
	return nil
}

// Ready returns nil: what Open read can be answered.
func (d *Dir) Ready() error { return nil }

// Get returns the class as the files have it now, or a *volume.Error with reason ClassNotFound.
func (d *Dir) Get(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	if err := d.read(); err != nil {
		d.log.WarnContext(ctx, "the classes stay as they were", logkeys.Error, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if class, ok := d.classes[types.NamespacedName{Namespace: namespace, Name: name}]; ok {
		return class, nil
	}
	message := fmt.Sprintf("failed to get secretproviderclass %s/%s: not found in the directory of --classes: "+
		"add it there, in the pod's namespace", namespace, name)
	if len(d.broken) > 0 {
		message += "; files that could not be read: " + strings.Join(d.broken, "; ")
	}
	return nil, &volume.Error{Reason: volume.ReasonClassNotFound, Message: message}
}

// Watch calls changed for each class that differs after a change in the directory, until ctx ends.
func (d *Dir) Watch(ctx context.Context, changed func(namespace, name string)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.watcher.Errors:
			d.log.WarnContext(ctx, "watching the class directory", logkeys.Error, err)
		case _, ok := <-d.watcher.Events:
			if !ok {
				return nil
			}
			if err := d.read(); err != nil {
				d.log.WarnContext(ctx, "the classes stay as they were", logkeys.Error, err)
			}
		case <-d.dirty:
			for _, n := range d.takeChanges() {
				changed(n.Namespace, n.Name)
			}
		}
	}
}

func (d *Dir) takeChanges() []types.NamespacedName {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := slices.Collect(maps.Keys(d.changes))
	clear(d.changes)
	return names
}

// read takes the directory's state where it is not the known one.
func (d *Dir) read() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	states, err := d.list()
	if err != nil || d.classes != nil && slices.Equal(states, d.states) {
		return err
	}
	found := map[types.NamespacedName]*v1.SecretProviderClass{}
	origin := map[types.NamespacedName]string{}
	d.broken = nil
	for _, state := range states {
		file := state.name
		classes, err := readFile(filepath.Join(d.path, file))
		if err != nil {
			d.broken = append(d.broken, fmt.Sprintf("%s: %v", file, err))
		}
		for _, class := range classes {
			name := types.NamespacedName{Namespace: class.Namespace, Name: class.Name}
			if first, twice := origin[name]; twice {
				d.broken = append(
					d.broken,
					fmt.Sprintf("%s: class %s is a duplicate of the one in %s: remove one", file, name, first),
				)
				continue
			}
			found[name], origin[name] = class, file
		}
	}
	for _, b := range d.broken {
		d.log.Error("class file is not usable", "problem", b)
	}
	d.replace(found)
	d.states = states
	return nil
}

// fileState differs after any change of a file, by a rename too.
type fileState struct {
	name  string
	inode uint64
	size  int64
	at    time.Time
}

func stateOf(path, name string) (fileState, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil { // through links, as ConfigMaps have them
		return fileState{}, fmt.Errorf("look at %s: %w", path, err)
	}
	return fileState{name: name, inode: st.Ino, size: st.Size, at: time.Unix(st.Mtim.Unix())}, nil
}

// list returns the state of each class file. The caller holds the lock.
func (d *Dir) list() ([]fileState, error) {
	dir, err := stateOf(d.path, "")
	if err != nil {
		return nil, fmt.Errorf("class directory: %w", err)
	}
	if dir != d.listed {
		entries, err := os.ReadDir(d.path)
		if err != nil {
			return nil, fmt.Errorf("class directory: %w", err)
		}
		d.files = nil
		for _, entry := range entries {
			if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(entry.Name())) {
				d.files = append(d.files, filepath.Join(d.path, entry.Name()))
			}
		}
		d.listed = fileState{}
		if age := time.Since(dir.at); age > settled {
			d.listed = dir
		}
	}
	states := make([]fileState, 0, len(d.files))
	for _, path := range d.files {
		if state, err := stateOf(path, filepath.Base(path)); err == nil { // else removed meanwhile
			states = append(states, state)
		}
	}
	return states, nil
}

// replace takes the classes and notes which differ. The caller holds the lock.
func (d *Dir) replace(found map[types.NamespacedName]*v1.SecretProviderClass) {
	for name, class := range found {
		if old, ok := d.classes[name]; ok && reflect.DeepEqual(old, class) {
			found[name] = old
			continue
		}
		d.changes[name] = struct{}{}
	}
	for name := range d.classes {
		if _, ok := found[name]; !ok {
			d.changes[name] = struct{}{}
		}
	}
	d.classes = found
	if len(d.changes) > 0 {
		select {
		case d.dirty <- struct{}{}:
		default:
		}
	}
}

// readFile returns the classes of one file; those before a mistake are returned with the error.
func readFile(path string) (classes []*v1.SecretProviderClass, err error) {
	data, err := os.ReadFile(path) //nolint:gosec // the directory is the operator's choice
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	classes, err = manifest.Decode(data)
	for _, class := range classes {
		if class.Namespace == "" {
			class.Namespace = "default"
		}
	}
	return classes, err
}
