package docs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

// leaves are the scalars of mappings and lists below a node, without keys.
func leaves(n *yaml.Node) (all []string) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			all = append(all, leaves(n.Content[i])...)
		}
	case yaml.SequenceNode:
		for _, one := range n.Content {
			all = append(all, leaves(one)...)
		}
	case yaml.ScalarNode:
		return []string{n.Value}
	default:
	}
	return all
}

// Every page is once in the navigation of the site, and no other is.
func TestTheSiteHasEveryPage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(pages.Root, "mkdocs.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Strict bool
		Nav    yaml.Node
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	var want []string
	for path := range pages.All(t) {
		want = append(want, strings.TrimPrefix(path, pages.Root+"/"))
	}
	got := leaves(&config.Nav)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the navigation of mkdocs.yml has\n%s\nbut the pages are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !config.Strict {
		t.Error("mkdocs.yml is not strict: links that lead nowhere would be published")
	}
}
