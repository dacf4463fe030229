// Command image builds the container images of the driver and of the emulator, without Docker and without root: from
// scratch, static binaries, for several platforms, with the same bytes for the same commit and Go version.
//
//	OUT/NAME/             OCI layout: an index of all platforms, and a software bill of materials that refers to each image
//	OUT/NAME-ARCH.tar     archive of one platform, for `docker load`, `kind load image-archive`, `ctr images import`
//	OUT/NAME-ARCH.cdx.json    the bill of materials, CycloneDX
//
// With -tools it writes the archives of the tools for people's machines instead:
//
//	OUT/kubectl-keyvault_VERSION_OS_ARCH.tar.gz   the plugin of kubectl; .zip for Windows
//	OUT/keyvault.yaml                             the manifest by which krew installs it
package main

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// defaultRepository is what the chart has. Its domain is reserved, so that no registry serves images of somebody else under these names.
const defaultRepository = "keyvault-csi.invalid"

// imagePlatforms are those that images are built for.
const imagePlatforms = "linux/amd64,linux/arm64"

// programs are the commands that get an image.
var programs = []program{
	{
		name: "keyvault-csi", pkg: "./cmd/keyvault-csi", title: "keyvault-csi", beside: []string{"keyvault-render"},
		description: "Azure Key Vault secrets, keys and certificates as files in Pods",
	},
	{
		name: "keyvault-controller", pkg: "./cmd/keyvault-controller", title: "keyvault-controller", beside: []string{"keyvault-render"},
		description: "Kubernetes Secrets from Azure Key Vault without a Pod",
	},
	{
		name: "keyvault-emulator", pkg: "./cmd/keyvault-emulator", title: "keyvault-emulator",
		description: "Azure Key Vault, Entra ID and the instance metadata service, for development and tests",
	},
}

// program is a command of the project.
type program struct {
	name, pkg, title, description string
	// beside are commands that the program runs and that its image holds too.
	beside []string
}

// files are the names of the image's files, the program's own first.
func (p program) files() []string { return append([]string{p.name}, p.beside...) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	source := flags.String("source", ".", "the project's `directory`, a git repository")
	out := flags.String("out", "bin/image", "the `directory` to write to, below the project's where relative")
	tag := flags.String("tag", "", "the images' `tag`; the chart's appVersion where empty")
	repository := flags.String("repository", defaultRepository,
		"prefix of the images' `names`")
	platforms := flags.String("platforms", "", "`platforms`, separated by commas; where empty "+imagePlatforms+", or with -tools "+toolPlatforms)
	tools := flags.Bool("tools", false, "write archives of the tools, and no images")
	releases := flags.String("releases", project+"/releases/download", "with -tools: the `URL` below which the archives will be, in vVERSION/")
	only := flags.String("only", "", "build the image of this `program` alone")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := &builder{source: *source, out: *out, repository: *repository, tag: *tag, report: os.Stdout}
	var err error
	if b.tag == "" {
		if b.tag, err = appVersion(b.source); err != nil {
			return err
		}
	}
	if !filepath.IsAbs(b.out) {
		b.out = filepath.Join(b.source, b.out)
	}
	all := imagePlatforms
	if *tools {
		all = toolPlatforms
	}
	if b.platforms, err = parsePlatforms(cmp.Or(*platforms, all)); err != nil {
		return err
	}
	if b.commit, err = readCommit(ctx, b.source); err != nil {
		return err
	}
	if b.commit.modified {
		_, _ = fmt.Fprintln(os.Stderr, "image: there are uncommitted changes: the same bytes cannot be built again")
	}
	if *tools {
		return b.tools(ctx, *releases)
	}
	return b.images(ctx, *only)
}

// images builds the images of all programs, or of the one that is named.
func (b *builder) images(ctx context.Context, only string) error {
	found := false
	for _, p := range programs {
		if only != "" && p.name != only {
			continue
		}
		found = true
		if err := b.build(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if !found {
		return fmt.Errorf("-only: there is no program %q", only)
	}
	return nil
}

// parsePlatforms reads platforms that commas separate.
func parsePlatforms(list string) ([]v1.Platform, error) {
	var all []v1.Platform
	for text := range strings.SplitSeq(list, ",") {
		p, err := v1.ParsePlatform(text)
		if err != nil || p.OS == "" || p.Architecture == "" {
			return nil, fmt.Errorf("-platforms: %q is none, as linux/amd64 is", text)
		}
		all = append(all, *p)
	}
	return all, nil
}

// appVersion is the version of the program that the project's chart installs.
func appVersion(source string) (string, error) {
	file, err := os.Open(filepath.Join(source, "deploy/chart/Chart.yaml")) //nolint:gosec // the project's own
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if version, ok := strings.CutPrefix(lines.Text(), "appVersion:"); ok {
			return strings.Trim(version, " \""), nil
		}
	}
	return "", fmt.Errorf("%s has no appVersion: %w", file.Name(), lines.Err())
}
