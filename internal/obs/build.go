package obs

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Build describes the running binary. Its JSON form is part of the API.
type Build struct {
	Version    string `json:"version"`               // release ("v1.2.3"), or "devel" when built from a checkout without one
	Revision   string `json:"revision,omitempty"`    // commit that it was built from
	CommitTime string `json:"commit_time,omitempty"` // time of that commit, RFC 3339
	Modified   bool   `json:"modified,omitempty"`    // the checkout had changes that are not in the commit
	GoVersion  string `json:"go_version"`
	Platform   string `json:"platform"` // operating system and architecture, "linux/amd64"
}

// ReadBuild describes the running binary from what the Go linker recorded in it.
// A version that is not empty overrides the recorded one; a release build sets it
// by -ldflags.
func ReadBuild(version string) Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildOf(version, info)
}

func buildOf(version string, info *debug.BuildInfo) Build {
	recorded := info.Main.Version
	if recorded == "(devel)" {
		recorded = ""
	}
	b := Build{
		Version:   cmp.Or(version, recorded, "devel"),
		GoVersion: cmp.Or(info.GoVersion, runtime.Version()),
		Platform:  runtime.GOOS + "/" + runtime.GOARCH,
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.CommitTime = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String is the build on one line, for people.
func (b Build) String() string {
	s := "anabranch " + b.Version
	if b.Revision != "" {
		s += fmt.Sprintf(" (%.12s", b.Revision)
		if b.Modified {
			s += ", modified"
		}
		s += ")"
	}
	return s + " " + b.GoVersion + " " + b.Platform
}
