package ktest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// AppendOnDisk appends an entry to the newest segment of a partition on the disk
// of broker i, which must have been stopped in order: a broker that was killed
// looks at the checksums of what it finds, and cuts the log at a bad one. make
// gets the offset and the leader epoch that the entry has to have. The offset is
// returned. Other replicas do not get the entry.
//
// The segment must end with a batch of magic 2. Its indexes stay right: they need
// not name the last entries.
func (c *Cluster) AppendOnDisk(i int, topic string, partition int32, entry func(base int64, epoch int32) ([]byte, error)) (int64, error) {
	if c.nodes[i].running() {
		return 0, fmt.Errorf("append to %s-%d on disk: broker %d is running", topic, partition, i)
	}
	segments, err := filepath.Glob(filepath.Join(c.DataDir(i), topic+"-"+strconv.Itoa(int(partition)), "*.log"))
	if err != nil || len(segments) == 0 {
		return 0, fmt.Errorf("find the segments of %s-%d: %d, %w", topic, partition, len(segments), err)
	}
	path := segments[len(segments)-1] // Their names are offsets of one length.
	log, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the newest segment: %w", err)
	}
	last, err := lastBatch(log)
	if err != nil {
		return 0, fmt.Errorf("find the end of %s: %w", path, err)
	}
	at := last.LastOffset() + 1
	raw, err := entry(at, last.LeaderEpoch)
	if err != nil {
		return 0, fmt.Errorf("make an entry: %w", err)
	}
	if err := os.WriteFile(path, append(log, raw...), 0o600); err != nil {
		return 0, fmt.Errorf("write the newest segment: %w", err)
	}
	return at, nil
}

// RewriteOnDisk puts the entries of each segment of a partition through edit, on the
// disk of broker i, which must have been stopped in order. Each entry must keep its
// first and its last offset. The broker makes the indexes anew. Other replicas do not
// change.
func (c *Cluster) RewriteOnDisk(i int, topic string, partition int32, edit func(entry []byte) []byte) error {
	if c.nodes[i].running() {
		return fmt.Errorf("rewrite %s-%d on disk: broker %d is running", topic, partition, i)
	}
	dir := filepath.Join(c.DataDir(i), topic+"-"+strconv.Itoa(int(partition)))
	segments, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(segments) == 0 {
		return fmt.Errorf("find the segments of %s-%d: %d, %w", topic, partition, len(segments), err)
	}
	for _, path := range segments {
		log, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read a segment: %w", err)
		}
		var out []byte
		for rest := log; len(rest) > 0; {
			var entry []byte
			if entry, rest, _, err = kbatch.Next(rest); err != nil {
				return fmt.Errorf("split batches of %s: %w", path, err)
			}
			out = append(out, edit(entry)...)
		}
		if err := os.WriteFile(path, out, 0o600); err != nil {
			return fmt.Errorf("write a segment: %w", err)
		}
	}
	for _, kind := range []string{"*.index", "*.timeindex"} {
		list, err := filepath.Glob(filepath.Join(dir, kind))
		if err != nil {
			return err
		}
		for _, path := range list {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove an index: %w", err)
			}
		}
	}
	return nil
}

// lastBatch returns the header of the last batch of a segment.
func lastBatch(log []byte) (last kbatch.Header, err error) {
	if len(log) == 0 {
		return last, errors.New("it is empty")
	}
	for rest := log; len(rest) > 0; {
		var raw []byte
		if raw, rest, _, err = kbatch.Next(rest); err != nil {
			return last, fmt.Errorf("split batches: %w", err)
		}
		if last, err = kbatch.ParseHeader(raw); err != nil {
			return last, fmt.Errorf("parse batch: %w", err)
		}
	}
	return last, nil
}
