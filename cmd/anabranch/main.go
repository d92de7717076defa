// Command anabranch replicates Apache Kafka clusters under the same topic names,
// exactly once.
package main

import (
	"os"

	"github.com/anabranch/anabranch/internal/cli"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version string

func main() {
	os.Exit(cli.Main(cli.Deps{Version: version}, os.Args[1:]))
}
