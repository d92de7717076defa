package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binEnv names the product's binary, which is built once for all tests.
const binEnv = "ANABRANCH_E2E_BINARY"

func TestMain(m *testing.M) {
	os.Exit(withBinary(m)) //nolint:forbidigo // it is the main function of the tests
}

func withBinary(m *testing.M) int {
	dir, err := os.MkdirTemp("", "anabranch-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "anabranch")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/anabranch").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(binEnv, path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
