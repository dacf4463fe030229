// Package docs checks the documentation against the code.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestClassesInTheDocumentationAreGood(t *testing.T) {
	clouds, err := cloud.NewResolver("AzurePublicCloud", "")
	if err != nil {
		t.Fatal(err)
	}
	classes := 0
	for path, text := range pages.All(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			findings, n := classfile.Check(path, []byte(block[1]), class.Options{Clouds: clouds}, classfile.Rules{})
			classes += n
			for _, f := range findings {
				if f.Severity != classfile.Note && n > 0 {
					t.Error(f)
				}
			}
		}
	}
	if classes < 4 {
		t.Errorf("only %d classes", classes)
	}
}

func TestTheFirstExampleIsThatOfTheReadme(t *testing.T) {
	example, err := os.ReadFile(filepath.Join(pages.Root, "deploy/examples/first.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := yamlBlock.FindAllStringSubmatch(pages.All(t)[filepath.Join(pages.Root, "README.md")], -1)
	if len(blocks) < 2 || !strings.HasSuffix(string(example), "\n"+blocks[0][1]+"---\n"+blocks[1][1]) {
		t.Error("deploy/examples/first.yaml is not the class and the Pod of README.md")
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	text := pages.All(t)[filepath.Join(pages.Root, "docs/parameters.md")]
	for _, f := range class.Reference() {
		if !strings.Contains(text, "| `"+f.Name+"` | "+f.Type+" |") || !strings.Contains(text, f.Meaning) {
			t.Errorf("%s of %s is not in docs/parameters.md: run make generate", f.Name, f.Place)
		}
	}
}

// reasons returns the values of the constants of type Reason.
func reasons(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pages.Root, "internal/volume/error.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Reason" {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, value)
		}
		return true
	})
	return found
}

func TestEveryReasonHasATroubleshootingEntry(t *testing.T) {
	text := pages.All(t)[filepath.Join(pages.Root, "docs/troubleshooting.md")]
	all := reasons(t)
	if len(all) < 15 {
		t.Fatalf("only %d reasons", len(all))
	}
	for _, reason := range all {
		if !strings.Contains(text, "\n### "+reason+"\n") {
			t.Errorf("%s is not in docs/troubleshooting.md", reason)
		}
	}
}

var (
	documentedMetric = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)")
	described        = regexp.MustCompile(`fqName: "([a-z0-9_]+)"`)
)

func TestMetricsAreDocumented(t *testing.T) {
	text := pages.All(t)[filepath.Join(pages.Root, "docs/metrics.md")]
	var documented, existing []string
	for _, m := range documentedMetric.FindAllStringSubmatch(text, -1) {
		documented = append(documented, m[1])
	}
	existing = metricNames()
	slices.Sort(documented)
	slices.Sort(existing)
	if !slices.Equal(documented, existing) {
		t.Errorf("documented: %v\nexisting: %v", documented, existing)
	}
}

var (
	link        = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	heading     = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors are those that the page's headings make, as the forges do.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(pages.Fenced.ReplaceAllString(text, ""), -1) {
		found[strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return found
}

func TestLinksLeadSomewhere(t *testing.T) {
	all := pages.All(t)
	for path, text := range all {
		for _, m := range link.FindAllStringSubmatch(pages.Fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := path
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(path), m[1])
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
			}
			if page, known := all[target]; m[2] != "" && known && !anchors(page)[m[2]] {
				t.Errorf("%s: %s has no heading for #%s", path, target, m[2])
			}
		}
	}
}

func TestTheReadmeListsEveryPage(t *testing.T) {
	all := pages.All(t)
	for path := range all {
		name := strings.TrimPrefix(path, pages.Root+"/")
		if strings.HasPrefix(name, "docs/") && (!strings.HasPrefix(name, "docs/cli/") || name == "docs/cli/keyvault-csi.md") &&
			!strings.Contains(all[filepath.Join(pages.Root, "README.md")], "]("+name+")") {
			t.Errorf("README.md does not list %s", name)
		}
	}
}

// Every event that people see on a Pod, and every code of Entra ID that the driver explains, has an entry.
func TestEventsAndCodesHaveATroubleshootingEntry(t *testing.T) {
	text := pages.All(t)[filepath.Join(pages.Root, "docs/troubleshooting.md")]
	for _, from := range []struct {
		files   string
		pattern *regexp.Regexp
		least   int
	}{
		{"internal/kube/events.go", regexp.MustCompile(`\{type\w+, "(\w+)"`), 9},
		{"provider/identity/*.go", regexp.MustCompile(`"(\d{5,7})"`), 15},
		{"internal/cli/check.go", regexp.MustCompile(`return "([a-z-]+)"`), 8},
	} {
		paths, err := filepath.Glob(filepath.Join(pages.Root, from.files))
		if err != nil {
			t.Fatal(err)
		}
		var found [][]string
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(path, "_test.go") {
				found = append(found, from.pattern.FindAllStringSubmatch(string(data), -1)...)
			}
		}
		if len(found) < from.least {
			t.Errorf("%s: only %d", from.files, len(found))
		}
		for _, m := range found {
			if !regexp.MustCompile(`(^|[^0-9A-Za-z])` + `(AADSTS)?` + m[1] + `([^0-9A-Za-z]|$)`).MatchString(text) {
				t.Errorf("%s is not in docs/troubleshooting.md", m[1])
			}
		}
	}
}

var arithmetic = regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| (\w+) \| (\d+) \| (\d+)% \|$`)

// The arithmetic of the scale page is right.
func TestTheArithmeticOfScale(t *testing.T) {
	rows := arithmetic.FindAllStringSubmatch(pages.All(t)[filepath.Join(pages.Root, "docs/scale.md")], -1)
	if len(rows) < 5 {
		t.Fatalf("only %d rows", len(rows))
	}
	for _, row := range rows {
		number := func(i int) float64 {
			n, err := strconv.Atoi(row[i])
			if err != nil {
				t.Fatal(err)
			}
			return float64(n)
		}
		interval, err := time.ParseDuration(row[3])
		if err != nil {
			t.Fatal(err)
		}
		requests := number(1) * number(2) / interval.Seconds() * 10
		if math.Abs(requests-number(4)) > 0.5 || math.Abs(requests/4000*100-number(5)) > 0.5 {
			t.Errorf("%s: %.1f requests, %.1f%%", row[0], requests, requests/40)
		}
	}
}

var memory = regexp.MustCompile(`(?i)\b(resident|RSS|holds about|idle)\b[^.\n]*?\d+ [MG]i?B|\d+ [MG]i?B (resident|RSS)`)

// What the driver's process needs of a node is measured by one command and is in one page, so that pages cannot
// contradict each other.
func TestMemoryIsInOnePage(t *testing.T) {
	for path, text := range pages.All(t) {
		if strings.HasSuffix(path, "docs/emulator.md") {
			continue // of another program
		}
		found := memory.FindString(text)
		if strings.HasSuffix(path, "docs/scale.md") == (found == "") {
			t.Errorf("%s: %q", path, found)
		}
	}
}

// Every function of templates is described, and no other is listed.
func TestFunctionsOfTemplatesAreListed(t *testing.T) {
	page := pages.All(t)[filepath.Join(pages.Root, "docs/parameters.md")]
	_, section, _ := strings.Cut(page, "\n## Templates\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, name := range slices.Concat(render.OwnFunctions(), render.LibraryFunctions()) {
		if !strings.Contains(section, "`"+name+"`") && !strings.Contains(section, "`"+name+" ") {
			t.Errorf("%s is not described", name)
		}
	}
	_, list, _ := strings.Cut(section, "| | functions |")
	list, _, _ = strings.Cut(list, "\n\n")
	for _, found := range regexp.MustCompile("`([A-Za-z0-9]+)`").FindAllStringSubmatch(list, -1) {
		if !slices.Contains(render.LibraryFunctions(), found[1]) {
			t.Errorf("%s is listed, and no function", found[1])
		}
	}
}
