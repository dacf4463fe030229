package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// instruction is one of a Dockerfile, without comments and with its lines joined.
type instruction struct{ name, rest string }

func dockerfile(t *testing.T) []instruction {
	t.Helper()
	data, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(string(data), "")
	text = strings.ReplaceAll(text, "\\\n", "")
	var found []instruction
	for line := range strings.Lines(text) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found = append(found, instruction{name, strings.TrimSpace(rest)})
		}
	}
	return found
}

// The commands of the Dockerfile's build stage make the same bytes as hack/image, and its images hold what hack/image's
// hold. No Docker is needed: the commands are run in a clone, which is what the build context has.
func TestDockerfileBuildsWhatThisDoes(t *testing.T) {
	source := filepath.Join(t.TempDir(), "src")
	clone := exec.CommandContext(t.Context(), "git", "clone", "--quiet", "--no-hardlinks", "../..", source) //nolint:gosec // a directory of the test
	if out, err := clone.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b := &builder{source: source, tag: "1.2.3"}
	var err error
	if b.commit, err = readCommit(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "GOFLAGS=", "TARGETOS=linux", "TARGETARCH=arm64", "VERSION=1.2.3", "COMMIT="+b.commit.hash,
		"COMMITTED="+b.commit.time.Format(time.RFC3339), "MODIFIED=false")
	goVersion, err := output(t.Context(), source, "go", "list", "-m", "-f", "{{.GoVersion}}")
	if err != nil {
		t.Fatal(err)
	}

	stage, entrypoints, copied := "", map[string]string{}, map[string][]string{}
	for _, i := range dockerfile(t) {
		switch {
		case i.name == "FROM":
			words := strings.Fields(i.rest)
			stage = words[len(words)-1]
			base := words[len(words)-3]
			if stage == "build" && !strings.HasPrefix(strings.TrimSpace(goVersion)+".", strings.TrimPrefix(base, "golang:")+".") {
				t.Errorf("the base is %s, and go.mod names Go %s", base, goVersion)
			}
			if stage != "build" && base != "scratch" {
				t.Errorf("%s is from %s", stage, base)
			}
		case i.name == "WORKDIR" && i.rest != "/src":
			t.Errorf("WORKDIR %s", i.rest)
		case i.name == "RUN":
			if stage != "build" {
				t.Errorf("%s runs %s", stage, i.rest)
			}
			c := exec.CommandContext(t.Context(), "sh", "-c", i.rest) //nolint:gosec // the project's own
			c.Dir, c.Env = source, env
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", i.rest, err, out)
			}
		case i.name == "COPY" && stage != "build":
			name := i.rest[strings.LastIndex(i.rest, "/")+1:]
			if copied[stage] = append(copied[stage], name); i.rest != "--from=build /src/bin/"+name+" /"+name {
				t.Errorf("%s has %s", stage, i.rest)
			}
		case i.name == "ENTRYPOINT":
			entrypoints[stage] = i.rest
		}
	}
	for _, p := range programs {
		if entrypoints[p.name] != `["/`+p.name+`"]` {
			t.Errorf("entry point of %s: %s", p.name, entrypoints[p.name])
		}
		if !slices.Equal(copied[p.name], p.files()) {
			t.Errorf("%s holds %v, want %v", p.name, copied[p.name], p.files())
		}
		for _, name := range p.files() {
			built, err := os.ReadFile(filepath.Join(source, "bin", name))
			if err != nil {
				t.Fatal(err)
			}
			if own := compiled(t.Context(), t, b, name); !bytes.Equal(built, own) {
				t.Errorf("%s has %d bytes by the Dockerfile, and %d by hack/image, or others", name, len(built), len(own))
			}
		}
	}
	if stage != "keyvault-csi" {
		t.Errorf("the last stage, which is what docker build makes, is %s", stage)
	}
}

func compiled(ctx context.Context, t *testing.T, b *builder, name string) []byte {
	t.Helper()
	to := filepath.Join(t.TempDir(), name)
	if err := b.compile(ctx, "./cmd/"+name, to, v1.Platform{OS: "linux", Architecture: "arm64"}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
