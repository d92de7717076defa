package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/ktest"
)

// reader is how a group reads.
type reader string

// The readers.
const (
	classicReader reader = "Go client, classic protocol"
	kip848Reader  reader = "Go client, KIP-848"
	kcatReader    reader = "kcat"
)

// group is a consumer group with one member, which reads all topics on the
// cluster where it is started, and commits what it has read.
type group struct {
	name     string
	reader   reader
	kcatPath string
	dir      string

	lives int
	end   func() error // of the member that reads now; nil: none does
	file  string       // that kcat prints to
	from  int64        // what of it was read

	mu struct {
		sync.Mutex
		read map[string]int // how often each record was processed
	}
}

// start has the group read on a cluster.
func (g *group) start(ctx context.Context, on *side) error {
	g.lives++
	if g.reader == kcatReader {
		return g.startKcat(on)
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(g.name), kgo.DisableAutoCommit(), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	}
	var names []string
	for _, t := range topics() {
		names = append(names, t.name)
	}
	opts = append(opts, kgo.ConsumeTopics(names...))
	if g.reader == kip848Reader {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	cl, err := on.client(opts...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- g.poll(ctx, cl) }()
	g.end = func() error {
		cancel()
		err := <-done
		cl.CloseAllowingRebalance()
		return err
	}
	return nil
}

// poll reads and commits until ctx ends, and leaves the group in order if the
// cluster lets it.
func (g *group) poll(ctx context.Context, cl *kgo.Client) error {
	// A commit that is under way has to have a known end.
	commit := func() error {
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return cl.CommitUncommittedOffsets(c)
	}
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		for _, e := range fs.Errors() {
			if lost, ok := errors.AsType[*kgo.ErrDataLoss](e.Err); ok {
				return fmt.Errorf("group %s: %w", g.name, lost)
			}
		}
		if fs.NumRecords() == 0 {
			continue
		}
		fs.EachRecord(func(r *kgo.Record) { g.note(string(r.Value)) })
		_ = commit() // What is not committed is read again, which is seen.
	}
	_ = commit()
	c, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = cl.LeaveGroupContext(c) // of a cluster that may be gone
	return nil
}

// startKcat starts a process that prints what it reads.
func (g *group) startKcat(on *side) error {
	path := filepath.Join(g.dir, fmt.Sprintf("%s-%d.out", g.name, g.lives))
	args := append(on.kcatArgs(), "-q", "-u", "-f", `%s\n`, "-X", "isolation.level=read_committed", "-X", "auto.offset.reset=earliest",
		"-X", "auto.commit.interval.ms=500", "-X", "session.timeout.ms=6000", "-G", g.name)
	for _, t := range topics() {
		args = append(args, t.name)
	}
	p, err := ktest.StartProcess(g.dir, path, g.kcatPath, args...)
	if err != nil {
		return fmt.Errorf("start group %s: %w", g.name, err)
	}
	g.file, g.from = path, 0
	g.end = func() error {
		if err := p.Stop(); err != nil {
			return fmt.Errorf("stop group %s: %w", g.name, err)
		}
		return g.refresh()
	}
	return nil
}

// refresh reads what kcat has printed since.
func (g *group) refresh() error {
	if g.file == "" {
		return nil
	}
	raw, err := os.ReadFile(g.file)
	if err != nil {
		return fmt.Errorf("read what group %s read: %w", g.name, err)
	}
	for line := range bytes.Lines(raw[g.from:]) {
		if line[len(line)-1] != '\n' {
			break
		}
		g.note(string(line))
		g.from += int64(len(line))
	}
	return nil
}

// stop ends the member of the group, if there is one.
func (g *group) stop() error {
	if g.end == nil {
		return nil
	}
	err := g.end()
	g.end = nil
	return err
}

// note counts one record.
func (g *group) note(value string) {
	rest, ok := strings.CutPrefix(value, "ktest-id:")
	id, _, found := strings.Cut(rest, ";")
	if !ok || !found {
		return // what kcat says of its connections
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.read == nil {
		g.mu.read = map[string]int{}
	}
	g.mu.read[id]++
}

// processed returns how often each record was processed.
func (g *group) processed() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.mu.read)
}
