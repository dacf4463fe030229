package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// commit is what the images are built from.
type commit struct {
	hash string
	// time is used for every date in the images.
	time time.Time
	// modified: the working tree is not what was committed.
	modified bool
}

func readCommit(ctx context.Context, source string) (commit, error) {
	shown, err := output(ctx, source, "git", "log", "-1", "--format=%H %ct")
	if err != nil {
		return commit{}, err
	}
	hash, seconds, _ := strings.Cut(strings.TrimSpace(shown), " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return commit{}, fmt.Errorf("commit time: %w", err)
	}
	status, err := output(ctx, source, "git", "status", "--porcelain")
	if err != nil {
		return commit{}, err
	}
	return commit{hash: hash, time: time.Unix(unix, 0).UTC(), modified: status != ""}, nil
}

// tags leave out the pages of gRPC's own tracing, which the programs do not serve: their templates keep the linker from dropping what is not
// called, a quarter of the program.
const tags = "grpcnotrace"

// compile builds a program for a platform, static and stripped. What could change the bytes is set here and not taken
// from the caller's environment, nor from how the source was checked out.
func (b *builder) compile(ctx context.Context, pkg, to string, p v1.Platform) error {
	const version = "github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	flags := fmt.Sprintf("-ldflags=-s -w -X %[1]s.release=%[2]s -X %[1]s.commit=%[3]s -X %[1]s.committed=%[4]s -X %[1]s.modified=%[5]t",
		version, b.tag, b.commit.hash, b.commit.time.Format(time.RFC3339), b.commit.modified)
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-tags="+tags, flags, "-o", to, pkg) //nolint:gosec // programs of this project
	c.Dir, c.Stderr = b.source, os.Stderr
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off",
		"GOOS="+p.OS, "GOARCH="+p.Architecture, "GOAMD64=v1", "GOARM64=v8.0")
	if err := c.Run(); err != nil {
		return fmt.Errorf("go build for %s: %w", p, err)
	}
	return nil
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...) //nolint:gosec // git, as called here
	c.Dir, c.Stderr = dir, os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s in %s: %w", name, strings.Join(args, " "), dir, err)
	}
	return string(out), nil
}
