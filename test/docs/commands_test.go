package docs

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// Every command of the project's own programs is valid: command, flags and the flags' values.
func TestCommandsOfTheDocumentationParse(t *testing.T) {
	programs := map[string]string{"keyvault-csi": binaries.Driver(t), "keyvault-emulator": binaries.Emulator(t), "keyvault-controller": binaries.Controller(t)}
	checked := 0
	for _, c := range pages.Commands(t) {
		args := c.Words
		if at := slices.Index(args, "--"); args[0] == "kubectl" && at > 0 && at+1 < len(args) {
			args = pages.Program(slices.Clone(args[at+1:])) // what is run in a pod
		}
		if len(args) == 0 || programs[args[0]] == "" {
			continue
		}
		checked++
		// with --help a command parses its flags and does nothing
		run := exec.CommandContext(t.Context(), programs[args[0]], append(slices.Clone(args[1:]), "--help")...) //nolint:gosec // the test's own
		if out, err := run.CombinedOutput(); err != nil || !strings.Contains(string(out), "Usage:") {
			t.Errorf("%s: %s: %v\n%s", c.Page, c.Line, err, out)
		}
	}
	if checked < 10 {
		t.Errorf("only %d commands", checked)
	}
}

func TestMakeTargetsOfTheDocumentationExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(pages.Root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range pages.Commands(t) {
		if c.Words[0] != "make" {
			continue
		}
		for _, target := range c.Words[1:] {
			if !strings.Contains(target, "=") && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`:.*## `).Match(makefile) {
				t.Errorf("%s: no target %s", c.Page, target)
			}
		}
	}
}

// values are the chart's.
func values(t *testing.T) map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(pages.Root, "deploy/chart/values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// lookUp finds a dotted name. What is below an empty mapping or in a list is free.
func lookUp(all map[string]any, name string) bool {
	var at any = all
	for key := range strings.SplitSeq(name, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if len(m) == 0 {
			return true
		}
		key, _, _ = strings.Cut(key, "[")
		if at, ok = m[key]; !ok {
			return false
		}
	}
	return true
}

var (
	span      = regexp.MustCompile("`([^`\n]+)`")
	chartName = regexp.MustCompile(`^[a-z][A-Za-z]*(\.[a-z][A-Za-z]*)+$`)
	flagName  = regexp.MustCompile(`^--?([a-z][a-z0-9-]*)`)
	metric    = regexp.MustCompile(`keyvault_csi_[a-z_]+`)
)

// Chart values, flags and metrics that the text names exist.
func TestNamesInTheTextExist(t *testing.T) {
	all := values(t)
	var help strings.Builder
	for _, args := range [][]string{{"driver"}, {"support-bundle"}, {"validate"}, {"preview"}, {"check"}, {"version"}, {"status"}, {"log-level"}} {
		out, _ := exec.CommandContext(t.Context(), binaries.Driver(t), append(args, "--help")...).CombinedOutput() //nolint:gosec // the test's own
		help.Write(out)
	}
	for _, args := range [][]string{{"--help"}, {"env", "--help"}} {
		out, _ := exec.CommandContext(t.Context(), binaries.Emulator(t), args...).CombinedOutput() //nolint:gosec // the test's own
		help.Write(out)
	}
	metrics := pages.All(t)[filepath.Join(pages.Root, "docs/metrics.md")]
	for path, text := range pages.All(t) {
		if strings.HasSuffix(path, "CHANGELOG.md") {
			continue // history
		}
		for _, m := range span.FindAllStringSubmatch(text, -1) {
			name := strings.Fields(m[1] + " ")[0]
			if top, _, _ := strings.Cut(name, "."); chartName.MatchString(name) && all[top] != nil && !lookUp(all, name) {
				t.Errorf("%s: the chart has no value %s", path, name)
			}
			f := flagName.FindStringSubmatch(name)
			if f == nil || strings.HasPrefix(name, "-") && !strings.HasPrefix(name, "--") || slices.Contains(others, f[1]) {
				continue
			}
			if !strings.Contains(help.String(), "--"+f[1]+" ") && !slices.Contains(aliases, f[1]) {
				t.Errorf("%s: no command has the flag --%s", path, f[1])
			}
		}
		for _, name := range metric.FindAllString(text, -1) {
			name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
			if !strings.Contains(metrics, "`"+name) && !strings.HasSuffix(name, "_") {
				t.Errorf("%s: docs/metrics.md has no %s", path, name)
			}
		}
	}
}

// others are flags of other programs, aliases those of the driver that its help does not list.
var (
	others  = []string{"take-ownership", "reset-values", "reuse-values", "reset-then-reuse-values", "check", "previous", "set", "namespace", "service-account-issuer", "write", "oauth"}
	aliases = []string{"enable-secret-rotation", "rotation-poll-interval", "log-format-json", "nodeid", "metrics-addr"}
)

func TestScriptsInTheTextExist(t *testing.T) {
	script := regexp.MustCompile(`(?:^|[\s` + "`" + `(])((?:hack|deploy)/[a-zA-Z0-9_./-]*[a-zA-Z0-9_])`)
	for path, text := range pages.All(t) {
		for _, m := range script.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(pages.Root, m[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// seedOf is the seed that the page of the emulator shows.
func seedOf(t *testing.T) emulator.Seed {
	t.Helper()
	for _, block := range yamlBlock.FindAllStringSubmatch(pages.All(t)[filepath.Join(pages.Root, "docs/emulator.md")], -1) {
		if strings.Contains(block[1], "vaults:") {
			seed, err := emulator.ParseSeed([]byte(block[1]))
			if err != nil {
				t.Fatal(err)
			}
			return seed
		}
	}
	t.Fatal("docs/emulator.md shows no seed")
	return emulator.Seed{}
}

// seedOfTheChart is the vaults of the emulator that the chart runs.
func seedOfTheChart(t *testing.T) emulator.Seed {
	t.Helper()
	found, _ := values(t)["emulator"].(map[string]any)["seed"].(map[string]any)
	text, err := yaml.Marshal(map[string]any{"vaults": found["vaults"]})
	if err != nil {
		t.Fatal(err)
	}
	seed, err := emulator.ParseSeed(text)
	if err != nil || len(seed.Vaults) == 0 {
		t.Fatal(err, len(seed.Vaults))
	}
	return seed
}

// Every curl command of the control API is sent to an emulator with the seed of its page and that of the chart, in the
// page's order.
func TestCurlCommandsOfTheDocumentation(t *testing.T) {
	server, err := emulator.New(emulator.Options{Seed: seedOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Apply(seedOfTheChart(t)); err != nil {
		t.Fatal(err)
	}
	if err := server.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	sent := 0
	for _, c := range pages.Commands(t) {
		if c.Words[0] != "curl" {
			continue
		}
		method, body, url := http.MethodGet, "", ""
		for i := 1; i < len(c.Words); i++ {
			switch word := c.Words[i]; {
			case word == "-X":
				i++
				method = c.Words[i]
			case word == "-d":
				i++
				method, body = http.MethodPost, c.Words[i]
			case strings.HasPrefix(word, "http"):
				url = word
			case word == "-s" || word == "-f" || word == "-fsS":
			default:
				t.Errorf("%s: what is %q in %s?", c.Page, word, c.Line)
			}
		}
		local := regexp.MustCompile(`^http://(127\.0\.0\.1|localhost):8200(/.*)?$`).FindStringSubmatch(url)
		if local == nil {
			continue
		}
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+server.Address()+local[2], strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := new(http.Client).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		sent++
		if resp.StatusCode >= http.StatusMultipleChoices {
			t.Errorf("%s: %s: %s", c.Page, c.Line, fmt.Sprint(resp.StatusCode, " ", string(answer)))
		}
	}
	if sent < 15 {
		t.Errorf("only %d commands", sent)
	}
}
