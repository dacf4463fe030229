// Package docs checks the documentation against the code.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/report/metrics"
)

const root = "../.."

// pages returns the documentation by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found[path] = string(data)
		}
	}
	if len(found) < 5 {
		t.Fatalf("only %d pages", len(found))
	}
	return found
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestClassesInTheDocumentationAreGood(t *testing.T) {
	clouds, err := cloud.NewResolver("AzurePublicCloud", "")
	if err != nil {
		t.Fatal(err)
	}
	classes := 0
	for path, text := range pages(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			findings, n := classfile.Check(path, []byte(block[1]), class.Options{Clouds: clouds})
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
	example, err := os.ReadFile(filepath.Join(root, "deploy/examples/first.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := yamlBlock.FindAllStringSubmatch(pages(t)[filepath.Join(root, "README.md")], -1)
	if len(blocks) < 2 || !strings.HasSuffix(string(example), "\n"+blocks[0][1]+"---\n"+blocks[1][1]) {
		t.Error("deploy/examples/first.yaml is not the class and the Pod of README.md")
	}
}

func TestEveryParameterIsDocumented(t *testing.T) {
	text := pages(t)[filepath.Join(root, "docs/parameters.md")]
	for _, name := range slices.Concat(class.Parameters(), class.Fields()) {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("%s is not in docs/parameters.md", name)
		}
	}
}

// reasons returns the values of the constants of type Reason.
func reasons(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "volume/error.go"), nil, 0)
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
	text := pages(t)[filepath.Join(root, "docs/troubleshooting.md")]
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
	text := pages(t)[filepath.Join(root, "docs/metrics.md")]
	var documented, existing []string
	for _, m := range documentedMetric.FindAllStringSubmatch(text, -1) {
		documented = append(documented, m[1])
	}
	ch := make(chan *prometheus.Desc, 100)
	metrics.New(clock.RealClock{}).Describe(ch)
	close(ch)
	for d := range ch {
		existing = append(existing, described.FindStringSubmatch(d.String())[1])
	}
	slices.Sort(documented)
	slices.Sort(existing)
	if !slices.Equal(documented, existing) {
		t.Errorf("documented: %v\nexisting: %v", documented, existing)
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for path, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}
