package main

import (
	"runtime"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli"
)

// release, commit, committed and modified are set by the linker when an image is built (hack/image): Go itself sees no
// commit in a linked worktree, and would name a version after the tags that a clone happens to have.
var release, commit, committed, modified string

// readBuild is what this binary knows of itself.
func readBuild() cli.Build {
	if release != "" {
		return cli.Build{
			Version: release,
			Commit:  commit,
			Time:    committed,
			Dirty:   modified == "true",
			Go:      runtime.Version(),
		}
	}
	return cli.ReadBuild()
}
