package main

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// project is the prefix of the project's own packages.
const project = "github.com/keyvault-csi/keyvault-csi-driver"

// listed is a package as go list prints it.
type listed struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string
	Imports         []string
}

// TestToolsCompileElsewhere type-checks the program for the systems that people have on their desks, from the sources: to compile
// it takes minutes. Of dependencies, only the declarations are checked.
func TestToolsCompileElsewhere(t *testing.T) {
	t.Parallel()
	for _, platform := range []string{"darwin/arm64", "windows/amd64"} {
		t.Run(platform, func(t *testing.T) {
			t.Parallel()
			system, processor, _ := strings.Cut(platform, "/")
			list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,ImportMap,Imports", ".")
			list.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+processor, "CGO_ENABLED=0")
			list.Stderr = os.Stderr
			out, err := list.Output()
			if err != nil {
				t.Fatal(err)
			}
			var found []listed
			for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
				var p listed
				if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				found = append(found, p)
			}
			c := checker{T: t, processor: processor, files: token.NewFileSet(), done: map[string]*types.Package{"unsafe": types.Unsafe}}
			for _, p := range found {
				c.check(p)
			}
			if len(found) < 100 || c.done[project+"/internal/cli"] == nil || c.done[project+"/tmpfs"] != nil {
				t.Errorf("%d packages, with what mounts or without the tools", len(found))
			}
		})
	}
}

// checker checks packages whose imports were checked before.
type checker struct {
	*testing.T

	processor string
	files     *token.FileSet
	done      map[string]*types.Package
	imports   map[string]string // of the package that is being checked
}

// Import implements types.Importer.
func (c *checker) Import(path string) (*types.Package, error) {
	if mapped, ok := c.imports[path]; ok {
		path = mapped
	}
	if p := c.done[path]; p != nil {
		return p, nil
	}
	return nil, errors.New("not checked before: " + path)
}

func (c *checker) check(p listed) {
	if p.ImportPath == "unsafe" {
		return
	}
	own := strings.HasPrefix(p.ImportPath, project)
	var files []*ast.File
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(c.files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			c.Fatal(err)
		}
		files = append(files, file)
	}
	c.imports = p.ImportMap
	config := types.Config{
		Importer:         c,
		Sizes:            types.SizesFor("gc", c.processor),
		IgnoreFuncBodies: !own,
		FakeImportC:      true,
		Error: func(err error) {
			if own {
				c.Error(err)
			}
		},
	}
	checked, err := config.Check(p.ImportPath, c.files, files, nil)
	if err != nil && !own {
		c.Logf("%s: %v", p.ImportPath, err) // what matters of it is missed where it is used
	}
	c.done[p.ImportPath] = checked
}
