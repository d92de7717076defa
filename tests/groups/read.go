package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/ktest"
)

// way is how a group reads on the target.
type way string

// The ways.
const (
	classic way = "Go client, classic protocol"
	kip848  way = "Go client, KIP-848"
	console way = "console consumer"
	kcat    way = "kcat"
)

// way returns how group i of a batch reads. The tools have their part in every
// batch until they have read enough.
func (s *stage) way(i int) way {
	batches := (s.samples + batchSamples - 1) / batchSamples
	each := (s.tools + batches - 1) / batches
	switch {
	case i < each && s.drawn[console] < s.tools:
		s.drawn[console]++
		return console
	case i >= each && i < 2*each && s.drawn[kcat] < s.tools && s.kcat != "":
		s.drawn[kcat]++
		return kcat
	case i/len(s.topics)%2 == 1 && s.target.Version() != ktest.Oldest:
		return kip848
	default:
		return classic
	}
}

// read starts each group on the target, and compares what it reads first with
// what is next on the source.
func (s *stage) read(ctx context.Context, list []*group) error {
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(3)
	for _, g := range list {
		work.Go(func() error {
			if err := s.compare(wctx, g); err != nil {
				return fmt.Errorf("group %s: %w", g.name, err)
			}
			return nil
		})
	}
	return work.Wait()
}

func (s *stage) compare(ctx context.Context, g *group) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	commits, err := s.target.adm.FetchOffsets(ctx, g.name)
	if err != nil {
		return fmt.Errorf("ask for its commits on the target: %w", err)
	}
	want, err := s.next(ctx, g)
	if err != nil {
		return fmt.Errorf("read what is next on the source: %w", err)
	}
	var got [partitions]*kgo.Record
	all := false
	switch g.way {
	case console:
		err = s.console(ctx, g, &got)
	case kcat:
		err = s.kcatReads(ctx, g, &got)
	default:
		all, err = true, s.member(ctx, g, &got)
	}
	if err != nil {
		return fmt.Errorf("read on the target by %s: %w", g.way, err)
	}
	for p := range int32(partitions) {
		if !all && got[p] == nil {
			continue // a tool reads one record, of one of the partitions
		}
		smp := sample{Group: g.name, Topic: g.topic.name, Partition: p, Way: g.way, Lag: g.lag[p], Source: g.at[p], Target: -1, Verdict: judge(want[p], got[p]), Want: show(want[p]), Got: show(got[p])}
		if c, ok := commits.Lookup(g.topic.name, p); ok {
			smp.Target = c.At
		}
		if n := s.report.add(smp); smp.Verdict != exact && n <= 10 {
			s.say("WRONG (%s): %+v", smp.Verdict, smp)
		}
	}
	return nil
}

// next reads the first committed record at or behind the commits of a group on
// the source, outside of the group.
func (s *stage) next(ctx context.Context, g *group) (out [partitions]*kgo.Record, err error) {
	from := map[int32]kgo.Offset{}
	for p, at := range g.at {
		from[int32(p)] = kgo.NewOffset().At(at) //nolint:gosec // few
	}
	cl, err := s.source.newClient(append(small(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{g.topic.name: from}))...)
	if err != nil {
		return out, err
	}
	defer cl.Close()
	return out, first(ctx, cl, &out)
}

// member joins a group on the target and reads until it has a record of every
// partition. It commits nothing.
func (s *stage) member(ctx context.Context, g *group, out *[partitions]*kgo.Record) error {
	opts := append(small(), kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(g.topic.name), kgo.DisableAutoCommit())
	if g.way == kip848 {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	cl, err := s.target.newClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := first(ctx, cl, out); err != nil {
		return err
	}
	return cl.LeaveGroupContext(ctx)
}

// small are options of a reader of few records.
func small() []kgo.Opt {
	return []kgo.Opt{
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxPartitionBytes(64 << 10), kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	}
}

// first polls until there is a record of every partition, and keeps the first of
// each.
func first(ctx context.Context, cl *kgo.Client, out *[partitions]*kgo.Record) error {
	for slices.Contains(out[:], nil) {
		fs := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, e := range fs.Errors() {
			if lost, ok := errors.AsType[*kgo.ErrDataLoss](e.Err); ok {
				return lost
			}
		}
		fs.EachRecord(func(r *kgo.Record) {
			if out[r.Partition] == nil {
				out[r.Partition] = r
			}
		})
	}
	return nil
}

// console has Apache's console consumer read one record.
func (s *stage) console(ctx context.Context, g *group, out *[partitions]*kgo.Record) error {
	text, err := s.target.Tool(ctx, "org.apache.kafka.tools.consumer.ConsoleConsumer",
		"--bootstrap-server", s.target.BootstrapServers()[0], "--topic", g.topic.name, "--group", g.name, "--max-messages", "1", "--from-beginning",
		"--isolation-level", "read_committed", "--timeout-ms", "60000",
		"--formatter-property", "print.timestamp=true", "--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true",
		"--formatter-property", "print.headers=true", "--formatter-property", "print.key=true")
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "CreateTime:") {
			continue
		}
		r, err := parseConsole(strings.TrimRight(line, "\r\n"))
		if err != nil {
			return err
		}
		out[r.Partition] = r
		return nil
	}
	return fmt.Errorf("it printed no record: %s", text)
}

// parseConsole reads a line as the console consumer prints it: timestamp,
// partition, offset, headers, key and value, between tabs.
func parseConsole(line string) (*kgo.Record, error) {
	f := strings.Split(line, "\t")
	if len(f) != 6 {
		return nil, fmt.Errorf("read %q: not six fields", line)
	}
	key, value, _ := strings.Cut(f[3], ":")
	return fields(strings.TrimPrefix(f[0], "CreateTime:"), strings.TrimPrefix(f[1], "Partition:"), strings.TrimPrefix(f[2], "Offset:"), key, value, f[4], f[5])
}

// kcatReads has kcat read one record.
func (s *stage) kcatReads(ctx context.Context, g *group, out *[partitions]*kgo.Record) error {
	cmd := exec.CommandContext(ctx, s.kcat, "-b", s.target.BootstrapServers()[0], "-q", "-c", "1", "-X", "isolation.level=read_committed", "-X", "auto.offset.reset=earliest", //nolint:gosec // found in PATH
		"-f", `%T\t%p\t%o\t%h\t%k\t%s\n`, "-G", g.name, g.topic.name)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	line, _, _ := strings.Cut(string(text), "\n")
	f := strings.Split(line, "\t")
	if len(f) != 6 {
		return fmt.Errorf("read %q: not six fields: %s", line, stderr.String())
	}
	key, value, _ := strings.Cut(f[3], "=")
	r, err := fields(f[0], f[1], f[2], key, value, f[4], f[5])
	if err != nil {
		return err
	}
	out[r.Partition] = r
	return nil
}

// fields makes a record of what a tool printed.
func fields(timestamp, partition, offset, headerKey, headerValue, key, value string) (*kgo.Record, error) {
	ms, err1 := strconv.ParseInt(timestamp, 10, 64)
	p, err2 := strconv.ParseInt(partition, 10, 32)
	at, err3 := strconv.ParseInt(offset, 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("read what was printed: %w", err)
	}
	if p < 0 || p >= partitions {
		return nil, fmt.Errorf("read what was printed: partition %d", p)
	}
	return &kgo.Record{
		Partition: int32(p), Offset: at, Timestamp: time.UnixMilli(ms), Key: []byte(key), Value: []byte(value),
		Headers: []kgo.RecordHeader{{Key: headerKey, Value: []byte(headerValue)}},
	}, nil
}
