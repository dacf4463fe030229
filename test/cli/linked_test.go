package cli

import (
	"debug/elf"
	"slices"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// What executes templates calls methods by names that the linker cannot know, so that it leaves out none: a fifth of a program. Templates run in
// keyvault-render. cobra executes one where a program sets its own for usage, help or version.
func TestTheLinkerLeavesOutWhatNothingCalls(t *testing.T) {
	t.Parallel()
	for _, program := range []string{binaries.Release(t), binaries.Controller(t)} {
		file, err := elf.Open(program)
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := file.Symbols()
		if closing := file.Close(); err != nil || closing != nil || len(symbols) < 10000 {
			t.Fatalf("%s: %d symbols, %v", program, len(symbols), err)
		}
		if slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == "text/template.(*Template).Execute" }) {
			t.Errorf("%s executes templates", program)
		}
	}
}
