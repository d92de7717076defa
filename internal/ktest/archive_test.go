package ktest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// fakeJava makes a Java of two files, and a set of jars, and returns their paths.
func fakeJava(t *testing.T) (java, jars string) {
	t.Helper()
	dir := t.TempDir()
	java, jars = filepath.Join(dir, "jvm", "bin", "java"), filepath.Join(dir, "kafka-1")
	for path, text := range map[string]string{java: "", filepath.Join(dir, "jvm", "release"): "17.0.1", filepath.Join(jars, ".complete"): "x"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return java, jars
}

func TestArchive_IsMadeOnceForEachJavaAndSetOfJars(t *testing.T) {
	t.Parallel()
	java, jars := fakeJava(t)
	made := 0
	find := func(want int) archives {
		t.Helper()
		a, err := findArchive(t.Context(), java, jars, func(_ context.Context, path string) error {
			made++
			return os.WriteFile(path, nil, 0o400)
		})
		if err != nil || made != want || !usable(a.file) {
			t.Fatalf("%+v, %v, made %d times, want %d", a, err, made, want)
		}
		return a
	}
	first := find(1)
	find(1)
	if err := os.WriteFile(filepath.Join(filepath.Dir(filepath.Dir(java)), "release"), []byte("17.0.2"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := find(2)
	if second == first || usable(first.file) {
		t.Errorf("the archive of the Java that is gone: %s", first.file)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(jars, ".complete"), later, later); err != nil {
		t.Fatal(err)
	}
	find(3) // the jars were fetched again: their dates are others
	find(3)
}

func TestArchive_ThatCannotBeMadeIsDoneWithout(t *testing.T) {
	t.Parallel()
	java, jars := fakeJava(t)
	tries := 0
	find := func(want int) {
		t.Helper()
		a, err := findArchive(t.Context(), java, jars, func(context.Context, string) error {
			tries++
			if tries == 1 {
				return errors.New("this Java cannot")
			}
			return nil // and leaves nothing
		})
		if err != nil || a.file != "" || tries != want {
			t.Fatalf("%+v, %v after %d tries, want %d", a, err, tries, want)
		}
		if args := a.args(); !slices.Equal(args, []string{"-Xshare:auto"}) {
			t.Errorf("flags %q", args)
		}
	}
	find(1)
	find(1) // nobody tries again at once
	notes, err := filepath.Glob(jars + "-*.failed")
	if err != nil || len(notes) != 1 {
		t.Fatalf("notes %q, %v", notes, err)
	}
	if why, err := os.ReadFile(notes[0]); err != nil || string(why) != "this Java cannot" {
		t.Errorf("the note says %q, %v", why, err)
	}
	old := time.Now().Add(-2 * archiveRetry)
	if err := os.Chtimes(notes[0], old, old); err != nil {
		t.Fatal(err)
	}
	find(2)
}
