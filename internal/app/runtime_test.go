package app

import (
	"os"
	"path/filepath"
	"testing"
)

func TestProfile_WritesBothFiles(t *testing.T) {
	cpu, mem := filepath.Join(t.TempDir(), "cpu"), filepath.Join(t.TempDir(), "mem")
	stop, err := profile(cpu, mem)
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{cpu, mem} {
		if info, err := os.Stat(name); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if _, err := profile(filepath.Join(cpu, "below a file"), ""); err == nil {
		t.Error("a file that can't be created was taken")
	}
	if stop, err := profile("", ""); err != nil || stop() != nil {
		t.Errorf("no profile: %v", err)
	}
}
