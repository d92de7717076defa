package sim

import (
	"os"
	"runtime/debug"
	"testing"
)

// The scenarios make much garbage and keep little: with the usual setting, a
// third of the time goes to the collector.
func TestMain(m *testing.M) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	os.Exit(m.Run()) //nolint:forbidigo // this is what TestMain does
}
