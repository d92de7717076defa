package ktest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// poms holds one Maven project per set of jars. The broker sets bring the
// logging binding of their version (reload4j for 3.9, log4j 2 for 4.x); the
// tools set has MirrorMaker 2 and the console tools in the newest version that
// is published for both.
//
//go:embed maven/*.xml
var poms embed.FS

// toolsSet names the jars of MirrorMaker 2 and of the console tools.
const toolsSet = "tools"

// ErrUnavailable is returned when real Kafka cannot be run on this machine:
// Java, Maven or the jars are missing.
var ErrUnavailable = errors.New("real Kafka is not available")

// brokerSet names the jars of a broker version.
func brokerSet(version string) string { return "kafka-" + version }

// cacheDir returns the directory of the jar sets: ANABRANCH_KAFKA_DIR, or a
// directory in the user's cache.
func cacheDir() (string, error) {
	if dir := os.Getenv("ANABRANCH_KAFKA_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "anabranch", "kafka"), nil
}

// resolveJars returns a directory that holds the jars of the set, and fetches
// them with Maven when they are not cached. Test binaries that run in parallel
// wait for each other.
func resolveJars(ctx context.Context, set string) (string, error) {
	pom, err := poms.ReadFile("maven/" + set + ".xml")
	if err != nil {
		return "", fmt.Errorf("find jars of %s: %w", set, err)
	}
	base, err := cacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", fmt.Errorf("make jar cache: %w", err)
	}
	lockFile, err := os.OpenFile(filepath.Join(base, set+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("open lock of jar cache: %w", err)
	}
	defer lockFile.Close()
	if err := lock(lockFile); err != nil {
		return "", fmt.Errorf("lock jar cache: %w", err)
	}
	dir := filepath.Join(base, set)
	sum := sha256.Sum256(pom)
	want := hex.EncodeToString(sum[:])
	// The marker is written last, so a fetch that was cut short is repeated,
	// and so is one for another list of jars.
	marker := filepath.Join(dir, ".complete")
	if have, err := os.ReadFile(marker); err == nil && string(have) == want {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("clear jar cache: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make jar cache: %w", err)
	}
	if err := fetchJars(ctx, dir, pom); err != nil {
		return "", fmt.Errorf("fetch jars of %s: %w", set, err)
	}
	if err := os.WriteFile(marker, []byte(want), 0o600); err != nil {
		return "", fmt.Errorf("mark jar cache complete: %w", err)
	}
	return dir, nil
}

func fetchJars(ctx context.Context, dir string, pom []byte) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	pomFile := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(pomFile, pom, 0o600); err != nil {
		return fmt.Errorf("write pom: %w", err)
	}
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", pomFile,
		"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: run mvn: %w: %s", ErrUnavailable, err, firstLines(string(out), 5))
	}
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar"))
	if err != nil {
		return fmt.Errorf("list jars: %w", err)
	}
	if len(jars) == 0 {
		return fmt.Errorf("%w: mvn fetched no jars", ErrUnavailable)
	}
	return nil
}

// javaPath finds the Java launcher: JAVA_HOME, then PATH.
func javaPath() (string, error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		path := filepath.Join(home, "bin", "java")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("java")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return path, nil
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(strings.TrimSpace(s), "\n", n+1)
	return strings.Join(lines[:min(len(lines), n)], "; ")
}
