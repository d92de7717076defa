// Command anabranch replicates Apache Kafka clusters under the same topic names,
// exactly once.
package main

import (
	"context"
	"os"

	"github.com/anabranch/anabranch/internal/app"
	"github.com/anabranch/anabranch/internal/cli"
	"github.com/anabranch/anabranch/internal/demo"
	"github.com/anabranch/anabranch/internal/dr"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version string

func main() {
	os.Exit(cli.Main(cli.Deps{Version: version, Serve: serve, Demo: tour, Verify: compare, Pairs: pairs}, os.Args[1:]))
}

func serve(ctx context.Context, o cli.ServeOptions) error {
	return app.Serve(ctx, app.ServeOptions{ConfigFile: o.ConfigFile, Build: o.Build, Log: o.Stderr, CPUProfile: o.CPUProfile, MemProfile: o.MemProfile})
}

func tour(ctx context.Context, o cli.DemoOptions) error {
	return demo.Run(ctx, demo.Options{Exit: o.Exit, Build: o.Build, Stdout: o.Stdout, Stderr: o.Stderr})
}

func compare(ctx context.Context, o cli.VerifyOptions) (dr.VerifyReport, error) {
	return app.Verify(ctx, app.VerifyOptions{ConfigFile: o.ConfigFile, Replicator: o.Replicator, Build: o.Build, Log: o.Stderr, What: o.What})
}

func pairs(o cli.PairsOptions) (cli.PairService, error) {
	return app.OpenPairs(app.PairsOptions{ConfigFile: o.ConfigFile, Build: o.Build, Log: o.Log, Patience: o.Patience})
}
