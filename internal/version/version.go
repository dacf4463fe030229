// Package version says which build of the project a program is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// release, commit, committed and modified are set by the linker when something is built for a release (hack/image, hack/release): Go
// itself sees no commit in a linked worktree, and would name a version after the tags that a clone happens to have.
var release, commit, committed, modified string

// Build describes a program.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Time    string `json:"time,omitempty"`
	Dirty   bool   `json:"modified,omitempty"`
	Go      string `json:"go"`
}

// Read returns what this program knows of itself: what the linker set, else what Go has recorded.
func Read() Build {
	if release != "" {
		return Build{
			Version: release,
			Commit:  commit,
			Time:    committed,
			Dirty:   modified == "true",
			Go:      runtime.Version(),
		}
	}
	b := Build{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version, b.Go = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Dirty = s.Value == "true"
		}
	}
	return b
}

// Text is the build of the program of this name as one line of text, as cobra prints it for --version. (A template of one's own for that would link
// text/template, which keeps the linker from leaving out methods that nothing calls: a fifth of a program.)
func (b Build) Text(program string) string { return program + " version " + b.String() }

// String is version, commit and Go's version.
func (b Build) String() string {
	commit := b.Commit
	if commit == "" {
		commit = "unknown"
	}
	if b.Dirty {
		commit += ", with uncommitted changes"
	}
	if b.Time != "" {
		commit += ", " + b.Time
	}
	return fmt.Sprintf("%s (commit %s; %s)", b.Version, commit, b.Go)
}
