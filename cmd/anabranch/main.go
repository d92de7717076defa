// Command anabranch replicates Apache Kafka clusters under the same topic names,
// exactly once.
package main

import (
	"context"
	"os"

	"github.com/anabranch/anabranch/internal/app"
	"github.com/anabranch/anabranch/internal/cli"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version string

func main() {
	os.Exit(cli.Main(cli.Deps{Version: version, Serve: serve}, os.Args[1:]))
}

func serve(ctx context.Context, o cli.ServeOptions) error {
	return app.Serve(ctx, app.ServeOptions{ConfigFile: o.ConfigFile, Build: o.Build, Log: o.Stderr, CPUProfile: o.CPUProfile, MemProfile: o.MemProfile})
}
