package ktest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// archives are the flags for class data sharing of one set of jars and one Java
// (JEP 350): a process maps the classes that it needs from a file, ready parsed and
// verified, and so starts for two thirds of the processor time. The Java in use
// checks the file against itself and the jars, and does without when they differ.
type archives struct {
	file string // Where the archive is, or is to be.
	dump bool   // Whether a process writes it when it ends, or uses it.
}

// args returns the flags for the Java launcher, none without an archive.
func (a archives) args() []string {
	switch {
	case a.file == "":
		return []string{"-Xshare:auto"}
	case a.dump:
		// It tells of each class that it leaves out, which is no answer of a tool.
		return []string{"-XX:ArchiveClassesAtExit=" + a.file, "-Xlog:disable"}
	default:
		return []string{"-Xshare:auto", "-XX:SharedArchiveFile=" + a.file}
	}
}

// finished returns the same to use, nothing while the archive is being made.
func (a archives) finished() archives {
	if a.dump {
		return archives{}
	}
	return a
}

const (
	// archivePatience bounds how long the making of an archive may take, which
	// holds up the first cluster of a version, and the first tool.
	archivePatience = 3 * time.Minute
	// archiveRetry is how long nobody tries again after an archive could not be
	// made.
	archiveRetry = time.Hour
)

// findArchive returns the archive of a set of jars, and has it made when there is
// none: dump writes it to a path. Where none can be made, processes do without: why
// is in the file beside it whose name ends with .failed. Test binaries that run in
// parallel wait for each other.
func findArchive(ctx context.Context, java, jars string, dump func(ctx context.Context, path string) error) (archives, error) {
	key, err := archiveKey(java, jars)
	if err != nil {
		return archives{}, err
	}
	file := jars + "-" + key + ".jsa"
	if usable(file) {
		return archives{file: file}, nil
	}
	lockFile, err := os.OpenFile(jars+".archive.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return archives{}, fmt.Errorf("open lock of class archive: %w", err)
	}
	defer lockFile.Close()
	if err := lock(lockFile); err != nil {
		return archives{}, fmt.Errorf("lock class archive: %w", err)
	}
	if usable(file) {
		return archives{file: file}, nil
	}
	failed := file + ".failed"
	if info, err := os.Stat(failed); err == nil && time.Since(info.ModTime()) < archiveRetry {
		return archives{}, nil
	}
	makeErr := makeArchive(ctx, jars, file, dump)
	if makeErr == nil {
		return archives{file: file}, nil
	}
	if ctx.Err() != nil {
		return archives{}, makeErr
	}
	if err := os.WriteFile(failed, []byte(makeErr.Error()), 0o600); err != nil {
		return archives{}, fmt.Errorf("note that there is no class archive: %w", errors.Join(makeErr, err))
	}
	return archives{}, nil
}

// usable reports whether there is an archive. Only whole ones have their name.
func usable(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// archiveKey returns what tells the archives of one set of jars apart: the Java
// and when the jars were fetched.
func archiveKey(java, jars string) (string, error) {
	path, err := filepath.EvalSymlinks(java)
	if err != nil {
		return "", fmt.Errorf("find java: %w", err)
	}
	h := sha256.New()
	for _, file := range []string{path, filepath.Join(jars, ".complete")} {
		info, err := os.Stat(file)
		if err != nil {
			return "", fmt.Errorf("look at %s: %w", file, err)
		}
		fmt.Fprintln(h, file, info.Size(), info.ModTime().UnixNano())
	}
	// The text names the exact build. A Java that is updated in place is another
	// one, whatever its launcher's date.
	release, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(path)), "release"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the release of java: %w", err)
	}
	h.Write(release)
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// makeArchive has an archive written, and gives it its name when it is whole.
// Archives of other keys go: their Java or jars are most likely gone as well, and
// who still maps one keeps it.
func makeArchive(ctx context.Context, jars, file string, dump func(ctx context.Context, path string) error) error {
	ctx, cancel := context.WithTimeout(ctx, archivePatience)
	defer cancel()
	part := file + ".part"
	if err := os.RemoveAll(part); err != nil {
		return fmt.Errorf("remove an unfinished class archive: %w", err)
	}
	if err := dump(ctx, part); err != nil {
		return err
	}
	if !usable(part) {
		return errors.New("no class archive was left")
	}
	old, err := filepath.Glob(jars + "-*.jsa*")
	if err != nil {
		return fmt.Errorf("list class archives: %w", err)
	}
	for _, path := range old {
		if path == part {
			continue
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove an old class archive: %w", err)
		}
	}
	if err := os.Rename(part, file); err != nil {
		return fmt.Errorf("name the class archive: %w", err)
	}
	return nil
}

// dumpBroker runs a broker that loads what most tests need, and leaves its archive
// at path.
func dumpBroker(ctx context.Context, version, java, jars, path string) (err error) {
	c, err := start(ctx, Options{Version: version, Security: SASLSSL}.withDefaults(), java, jars, archives{path, true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := exercise(ctx, c); err != nil {
		return err
	}
	return c.StopBroker(0)
}

// exercise makes a broker load the classes of what clients do: topics,
// transactions, groups.
func exercise(ctx context.Context, c *Cluster) error {
	const topic = "exercise"
	cl, err := kgo.NewClient(append(c.ClientOptions(), kgo.TransactionalID(topic), kgo.DefaultProduceTopic(topic),
		kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	if err := cl.BeginTransaction(); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := cl.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := cl.PollFetches(ctx).Err(); err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, 1, -1)
	if err := adm.CommitAllOffsets(ctx, topic, offsets); err != nil {
		return fmt.Errorf("commit offsets: %w", err)
	}
	if _, err := adm.FetchOffsets(ctx, topic); err != nil {
		return fmt.Errorf("fetch offsets: %w", err)
	}
	return nil
}
