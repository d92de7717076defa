package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/ktest"
)

// groupsMode is the argument that has groups move to the other cluster, and
// counts what they read again, instead of measuring throughput.
const groupsMode = "groups"

const (
	groupRecords    = 60_000 // of each partition, and up to a thousand more
	groupPace       = 100    // records that each partition gets at once
	groupPaceEvery  = 40 * time.Millisecond
	groupsPerLag    = 5
	groupsSteady    = 15 * time.Second // no commit of the target changes for so long: the contestant is done
	groupsPatience  = 4 * time.Minute
	groupsHeaderKey = "n" // its value is the number of the record in its partition
)

// groupLags are what groups have not read when they move, or up to a tenth more.
func groupLags() []int64 { return []int64{0, 100, 1000, 10_000} }

// mover is a contestant: what carries the records and the groups of a topic.
type mover struct {
	name  string
	start func(ctx context.Context, topic string) (*ktest.Process, error)
}

// movingGroup is one group on its way.
type movingGroup struct {
	name string
	lag  int64 // that was asked for
	at   [partitions]int64
}

// movedRow is what the groups of one contestant with one lag read. Counts are of
// records, in one partition each.
type movedRow struct {
	Contestant  string `json:"contestant"`
	Lag         int64  `json:"lag"`
	Samples     int    `json:"samples"` // partitions of groups
	Exact       int    `json:"exact"`   // read on at the next unread record
	AgainMedian int64  `json:"again_median"`
	AgainMost   int64  `json:"again_most"`
	SkippedMost int64  `json:"skipped_most"`
	NoPosition  int    `json:"no_position"` // had no commit on the target, and read all from the beginning
}

// movedResults is the content of groups.json.
type movedResults struct {
	Machine   machine    `json:"machine"`
	LoadAfter float64    `json:"load_after"`
	Rows      []movedRow `json:"rows"`
}

func groupsMain(ctx context.Context, stdout, stderr io.Writer, args []string) error {
	var o options
	f := flag.NewFlagSet(groupsMode, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dir, "dir", "", "where the temporary directory is made (default the system's)")
	f.StringVar(&o.binary, "binary", "", "anabranch to measure (default built from this tree)")
	f.StringVar(&o.out, "out", filepath.Join("bench", "results"), "directory of the results")
	f.StringVar(&o.readme, "readme", filepath.Join("bench", "README.md"), "file that gets the results")
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := newStage(ctx, o)
	if err != nil {
		return errors.Join(err, s.close())
	}
	res := movedResults{Machine: describe(ctx, s, o)}
	began := time.Now()
	for _, m := range s.movers() {
		rows, err := s.moveGroups(ctx, m, func(text string) {
			fmt.Fprintf(stderr, "[%v] %s: %s\n", time.Since(began).Round(time.Second), m.name, text)
		})
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", m.name, err), s.close())
		}
		res.Rows = append(res.Rows, rows...)
	}
	res.LoadAfter = ktest.LoadAverage()
	if err := s.close(); err != nil {
		return err
	}
	if err := movedTable(res.Rows).print(stdout); err != nil {
		return err
	}
	return errors.Join(writeJSON(filepath.Join(o.out, "groups.json"), res), fillSection(o.readme, movedBegin, movedEnd, renderMoved(res)))
}

// movers are the contestants, each of which starts anew.
func (s *stage) movers() []mover {
	mirror := func(name, lagMax string) mover {
		return mover{name, func(ctx context.Context, topic string) (*ktest.Process, error) {
			p := mirrorProperties(s.source.addr(), s.target.addr(), mirrorOptions{name: topic, topics: topic, codec: "none", lingerMS: 100})
			maps.Copy(p, mirrorGroupProperties(lagMax))
			return ktest.MirrorMaker(ctx, ktest.MirrorMakerOptions{Dir: s.dir, Properties: p})
		}}
	}
	return []mover{
		{"Anabranch", s.startAnabranch},
		mirror("MirrorMaker 2, offset.lag.max 100 (default)", "100"),
		mirror("MirrorMaker 2, offset.lag.max 0", "0"),
	}
}

// mirrorGroupProperties have MirrorMaker 2 carry groups, and look once a second
// where it would look once a minute, which is also how often it writes offset syncs
// that it held back.
func mirrorGroupProperties(lagMax string) map[string]string {
	return map[string]string{
		"groups": ".*", "emit.checkpoints.enabled": "true", "sync.group.offsets.enabled": "true", "offset.lag.max": lagMax,
		"secondary.offset.flush.interval.ms": "1000",
		"refresh.groups.enabled":             "true", "refresh.groups.interval.seconds": "1",
		"emit.checkpoints.interval.seconds": "1", "sync.group.offsets.interval.seconds": "1",
	}
}

// moveGroups has groups commit behind records that flow, waits until a contestant
// is done with them, and has them read on the target.
func (s *stage) moveGroups(ctx context.Context, m mover, note func(string)) ([]movedRow, error) {
	s.started++
	topic := "moved-" + strconv.Itoa(s.started)
	if err := s.source.create(ctx, topic); err != nil {
		return nil, err
	}
	proc, err := m.start(ctx, topic)
	if err != nil {
		return nil, err
	}
	rows, err := s.movedBy(ctx, m.name, topic, note)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, proc.LogTail())
	}
	return rows, errors.Join(err, proc.Kill())
}

func (s *stage) movedBy(ctx context.Context, contestant, topic string, note func(string)) ([]movedRow, error) {
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // not secret; the same for all
	w := &movedWriter{side: s.source, topic: topic}
	if err := w.write(ctx, func(int32) int64 { return 1 }); err != nil {
		return nil, err
	}
	if err := s.copied(ctx, topic); err != nil {
		return nil, err
	}
	note("records flow")
	var size [partitions]int64
	for p := range size {
		size[p] = groupRecords + rng.Int64N(1000)
	}
	if err := w.write(ctx, func(p int32) int64 { return size[p] }); err != nil {
		return nil, err
	}
	if err := s.copied(ctx, topic); err != nil {
		return nil, err
	}
	var list []*movingGroup
	for _, lag := range groupLags() {
		for i := range groupsPerLag {
			g := &movingGroup{name: fmt.Sprintf("%s-lag-%d-%d", topic, lag, i), lag: lag}
			for p := range g.at {
				g.at[p] = w.next[p] - lag - rng.Int64N(lag/10+1)
			}
			if err := s.source.commitAsMember(ctx, topic, g); err != nil {
				return nil, err
			}
			list = append(list, g)
		}
	}
	note(fmt.Sprintf("%d groups have committed", len(list)))
	commits, err := s.steady(ctx, topic, list)
	if err != nil {
		return nil, err
	}
	// Who has read everything reads on, too.
	if err := w.write(ctx, func(p int32) int64 { return size[p] + 2 }); err != nil {
		return nil, err
	}
	if err := s.copied(ctx, topic); err != nil {
		return nil, err
	}
	note("groups read on the target")
	return s.readMoved(ctx, contestant, topic, list, commits)
}

// movedWriter writes numbered records.
type movedWriter struct {
	*side

	topic string
	next  [partitions]int64
}

// write writes at a steady pace until each partition has as many records as upTo
// says.
func (w *movedWriter) write(ctx context.Context, upTo func(partition int32) int64) error {
	cl, err := kgo.NewClient(append(w.cluster.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(w.topic))...)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	defer cl.Close()
	for {
		var records []*kgo.Record
		for p := range int32(partitions) {
			for range groupPace {
				if w.next[p] < upTo(p) {
					records = append(records, &kgo.Record{Partition: p, Value: make([]byte, 100), Headers: []kgo.RecordHeader{{Key: groupsHeaderKey, Value: strconv.AppendInt(nil, w.next[p], 10)}}})
					w.next[p]++
				}
			}
		}
		if len(records) == 0 {
			return nil
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if err := sleep(ctx, groupPaceEvery); err != nil {
			return err
		}
	}
}

// copied waits until the target holds as many records as the source.
func (s *stage) copied(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, groupsPatience)
	defer cancel()
	from, err := s.source.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = from.Error()
	}
	if err != nil {
		return fmt.Errorf("list the ends of the source: %w", err)
	}
	for {
		to, err := s.target.admin.ListEndOffsets(ctx, topic)
		if err == nil && to.Error() == nil && len(to[topic]) == partitions {
			behind := false
			for p, end := range from[topic] {
				behind = behind || to[topic][p].Offset < end.Offset
			}
			if !behind {
				return nil
			}
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("wait for the copy: %w", err)
		}
	}
}

// commitAsMember has a member of a group commit its positions and leave.
func (s *side) commitAsMember(ctx context.Context, topic string, g *movingGroup) error {
	ctx, cancel := context.WithTimeout(ctx, groupsPatience)
	defer cancel()
	joined := make(chan struct{}, 1)
	cl, err := kgo.NewClient(append(s.cluster.ClientOptions(), kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) {
			select {
			case joined <- struct{}{}:
			default:
			}
		}))...)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	defer cl.Close()
	select {
	case <-joined:
	case <-ctx.Done():
		return fmt.Errorf("join group %s: %w", g.name, ctx.Err())
	}
	at := map[int32]kgo.EpochOffset{}
	for p, o := range g.at {
		at[int32(p)] = kgo.EpochOffset{Epoch: -1, Offset: o} //nolint:gosec // few
	}
	if err := errors.Join(commitSync(ctx, cl, map[string]map[int32]kgo.EpochOffset{topic: at}), cl.LeaveGroupContext(ctx)); err != nil {
		return fmt.Errorf("commit for group %s: %w", g.name, err)
	}
	return nil
}

// steady waits until no commit of the groups on the target changes any more, and
// returns them, -1 where there is none.
func (s *stage) steady(ctx context.Context, topic string, list []*movingGroup) (map[string][partitions]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, groupsPatience)
	defer cancel()
	last, since := map[string][partitions]int64{}, time.Now()
	for time.Since(since) < groupsSteady {
		for _, g := range list {
			now, err := s.target.commits(ctx, topic, g.name)
			if err != nil {
				return nil, err
			}
			if before, ok := last[g.name]; !ok || before != now {
				last[g.name], since = now, time.Now()
			}
		}
		if err := sleep(ctx, time.Second); err != nil {
			return nil, fmt.Errorf("wait for steady commits: %w", err)
		}
	}
	return last, nil
}

func (s *side) commits(ctx context.Context, topic, group string) (out [partitions]int64, err error) {
	all, err := s.admin.FetchOffsets(ctx, group)
	if err != nil {
		return out, fmt.Errorf("ask for the commits of group %s: %w", group, err)
	}
	for p := range out {
		out[p] = -1
		if c, ok := all.Lookup(topic, int32(p)); ok { //nolint:gosec // few
			out[p] = c.At
		}
	}
	return out, nil
}

// readMoved has every group read its first records on the target.
func (s *stage) readMoved(ctx context.Context, contestant, topic string, list []*movingGroup, commits map[string][partitions]int64) ([]movedRow, error) {
	var rows []movedRow
	for _, lag := range groupLags() {
		row := movedRow{Contestant: contestant, Lag: lag}
		var again []int64
		for _, g := range list {
			if g.lag != lag {
				continue
			}
			firsts, err := s.target.firstRead(ctx, topic, g.name)
			if err != nil {
				return nil, err
			}
			for p, first := range firsts {
				row.Samples++
				if first == g.at[p] {
					row.Exact++
				}
				if commits[g.name][p] < 0 {
					row.NoPosition++
				}
				again = append(again, max(0, g.at[p]-first))
				row.SkippedMost = max(row.SkippedMost, first-g.at[p])
			}
		}
		slices.Sort(again)
		row.AgainMedian, row.AgainMost = again[len(again)/2], again[len(again)-1]
		rows = append(rows, row)
	}
	return rows, nil
}

// firstRead returns the number of the record that a member of the group reads
// first in each partition. It commits nothing.
func (s *side) firstRead(ctx context.Context, topic, group string) (out [partitions]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, groupsPatience)
	defer cancel()
	cl, err := kgo.NewClient(append(s.cluster.ClientOptions(), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		return out, fmt.Errorf("make client: %w", err)
	}
	defer cl.Close()
	for p := range out {
		out[p] = -1
	}
	for slices.Contains(out[:], -1) {
		fs := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("read as group %s: %w", group, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if out[r.Partition] >= 0 {
				return
			}
			for _, h := range r.Headers {
				if n, bad := strconv.ParseInt(string(h.Value), 10, 64); h.Key == groupsHeaderKey && bad == nil {
					out[r.Partition] = n
				}
			}
		})
	}
	return out, cl.LeaveGroupContext(ctx)
}

// commitSync commits for a member.
func commitSync(ctx context.Context, cl *kgo.Client, at map[string]map[int32]kgo.EpochOffset) error {
	var failed error
	cl.CommitOffsetsSync(ctx, at, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				failed = errors.Join(failed, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	})
	return failed
}
