//go:build chaos

package chaos

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/chaos/outcome"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// found is what all tests of the package have found.
var found outcome.Table

func TestMain(m *testing.M) {
	if asked := os.Getenv(helper); asked != "" {
		os.Exit(help(asked, os.Args[1:]))
	}
	choice := fmt.Sprintf("seed %d (CHAOS_SEED repeats it), short: %v (CHAOS=short)\n", seed(), short())
	fmt.Print(choice)
	code := kubelet.Main(m)
	if code != 0 {
		_, _ = fmt.Fprint(os.Stderr, choice)
	}
	if err := finish(code == 0); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// finish writes what was found into the file of CHAOS_TABLE, or prints it, and into the page with DOCS=1 if all tests passed.
func finish(passed bool) (err error) {
	page := ""
	if os.Getenv("DOCS") == "1" && passed {
		root, err := binaries.Root()
		if err != nil {
			return err
		}
		page = filepath.Join(root, "docs/reliability.md")
	}
	out := os.Stdout
	if name := os.Getenv("CHAOS_TABLE"); name != "" {
		if out, err = os.Create(name); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.Close()) }()
	}
	return found.Finish(out, page, "faults")
}

// helper is the environment variable that makes the test program a helper process: see help.
const helper = "KEYVAULT_CSI_CHAOS_HELPER"

// help is what the test program does as a process beside the driver.
func help(asked string, args []string) int {
	var err error
	switch asked {
	case "attach":
		err = attach(args)
	case "clock":
		err = clockOf(args)
	default:
		err = fmt.Errorf("%s is not known", asked)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "chaos", asked+":", err)
		return 1
	}
	return 0
}

// self is the command of this program as a helper.
func self(t testing.TB, asked string, args ...string) []string {
	t.Helper()
	program, err := os.Executable()
	must(t, err)
	return append([]string{"/usr/bin/env", helper + "=" + asked, program}, args...)
}

// short selects what a change has to pass: a sample, in less than three minutes.
func short() bool { return os.Getenv("CHAOS") == "short" }

// started is the default seed.
var started = uint64(time.Now().UnixNano())

func seed() uint64 {
	if given, err := strconv.ParseUint(os.Getenv("CHAOS_SEED"), 10, 64); err == nil {
		return given
	}
	return started
}

// random is repeatable for each test by the seed.
func random(t testing.TB) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.Name()))
	return rand.New(rand.NewPCG(seed(), h.Sum64()))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// times is the number of repetitions in the short and in the whole run.
func times(inShort, whole int) int {
	if short() {
		return inShort
	}
	return whole
}
