package tmpfs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// generation is a set of files that all hold the same number, some of which come and go.
func generation(number int) []volume.File {
	text := fmt.Sprintf("%d:%s", number, strings.Repeat(string(rune('a'+number%26)), 3000+number%5000))
	files := []volume.File{file("one", text), file("dir/two", text), file("dir/sub/three", text)}
	if number%3 == 0 {
		files = append(files, file("sometimes", text))
	}
	return files
}

func TestReadersSeeOneGeneration(t *testing.T) {
	m := newMounts(t, 256<<20) // room for all generations
	target := newVolume(t, m)
	write(t, m, target, generation(0)...)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	reads := 0
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			readWhole(t, target)
			reads++
			// through the user-visible names each file is whole, whichever generation it is of
			if data, err := os.ReadFile(filepath.Join(target, "one")); err != nil || !intact(string(data)) {
				t.Errorf("%d bytes, %v", len(data), err)
				return
			}
		}
	})
	for number := range 1000 {
		write(t, m, target, generation(number)...)
	}
	close(stop)
	readers.Wait()
	if reads == 0 {
		t.Error("no reader got through")
	}
}

// readWhole reads all files of what ..data shows, and fails unless they are all there and of one generation.
func readWhole(t *testing.T, target string) {
	t.Helper()
	dir, err := os.OpenRoot(filepath.Join(target, dataLink))
	if err != nil {
		t.Errorf("..data cannot be opened: %v", err)
		return
	}
	defer func() { _ = dir.Close() }()
	var first string
	for _, name := range []string{"one", "dir/two", "dir/sub/three"} {
		data, err := dir.ReadFile(name)
		if os.IsNotExist(err) {
			return
		}
		if err != nil || !intact(string(data)) {
			t.Errorf("%s is torn: %d bytes, %v", name, len(data), err)
			return
		}
		if first == "" {
			first = string(data)
		}
		if string(data) != first {
			t.Errorf("a mix of generations")
			return
		}
	}
}

func intact(text string) bool {
	var number int
	if _, err := fmt.Sscanf(text, "%d:", &number); err != nil {
		return false
	}
	return text == string(generation(number)[0].Data)
}

const victim = "TMPFS_TEST_VICTIM"

// TestKilledWriter is both sides of the test below it: with the variable set it writes until it is killed.
func TestKilledWriterLeavesAWholeGeneration(t *testing.T) {
	m := newMounts(t, 4<<20)
	if target := os.Getenv(victim); target != "" {
		for number := 0; ; number++ {
			write(t, m, target, generation(number)...)
		}
	}
	target := newVolume(t, m)
	write(t, m, target, generation(0)...)
	scratch := t.TempDir() // what a killed process cannot remove itself
	for range 200 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriterLeavesAWholeGeneration$") //nolint:gosec,noctx // this test itself
		cmd.Env = append(os.Environ(), victim+"="+target, "TMPDIR="+scratch)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Readlink(filepath.Join(target, dataLink))
		for { // let it get going, then kill it somewhere
			now, _ := os.Readlink(filepath.Join(target, dataLink))
			if now != before {
				break
			}
		}
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		wantState(t, m, target, Complete)
		readWhole(t, target)
	}
	write(t, m, target, file("last", "1"))
	wantTree(t, target, "last=1")
	sweepAfterRetention(t, target)
	if entries, _ := os.ReadDir(target); len(entries) != 3 {
		t.Errorf("left: %v", entries)
	}
}

func FuzzWrite(f *testing.F) {
	for _, seed := range []string{"a", "a/b", "../x", "/etc/passwd", "..data", "..data/x", "a\x00", strings.Repeat("x", 300), "."} {
		f.Add(seed, "b/c", []byte("1"), uint32(0o644))
	}
	f.Add("a", "a/b", []byte{}, uint32(0o4755))
	m := newMounts(f, 1<<20)
	outside := f.TempDir()
	target := filepath.Join(outside, "mount")
	f.Cleanup(func() {
		if err := m.Unmount(target); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, one, two string, data []byte, mode uint32) {
		if err := m.Mount(target, false); err != nil {
			t.Fatal(err)
		}
		files := []volume.File{{Path: one, Mode: os.FileMode(mode), Data: data}, {Path: two, Mode: 0o600, Data: data}}
		_, err := m.Write(target, files, nil)
		if entries, _ := os.ReadDir(outside); len(entries) != 1 {
			t.Fatalf("escaped: %v", entries)
		}
		if err != nil {
			if len(data) > 400<<10 {
				return
			}
			if volume.CheckFiles(files) == nil {
				t.Fatalf("refused good files %q and %q: %v", one, two, err)
			}
			return
		}
		for _, file := range files {
			got, err := os.ReadFile(filepath.Join(target, file.Path))
			if err != nil || string(got) != string(data) {
				t.Fatalf("%q: %v", file.Path, err)
			}
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	for _, name := range []string{"unchanged", "changed"} {
		b.Run(name, func(b *testing.B) {
			m := newMounts(b, 4<<20)
			target := newVolume(b, m)
			b.ReportAllocs()
			number := 0
			for b.Loop() {
				if name == "changed" {
					number++
				}
				files := make([]volume.File, 0, 10)
				for i := range 10 {
					files = append(files, file(fmt.Sprintf("f%d", i), fmt.Sprintf("%d-%d", i, number)))
				}
				write(b, m, target, files...)
			}
		})
	}
}
