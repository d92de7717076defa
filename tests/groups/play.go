package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
)

// batchSamples is how many samples move, settle and are read together.
const batchSamples = 100

// group is one consumer group. It reads one topic.
type group struct {
	name  string
	topic *topic
	way   way
	steps [][partitions]int64 // what it commits, one after the other
	at    [partitions]int64   // its commits on the source when it moved over
	lag   [partitions]int64   // what it had not read then; before, what it is to leave
}

// play prepares the topics, starts the workers, and takes sample after sample.
func (s *stage) play(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for i := range 2 {
		if err := s.start(ctx, i); err != nil {
			return err
		}
	}
	if err := s.replicated(ctx); err != nil {
		return err
	}
	s.say("all topics are copied; %d samples begin", s.samples)
	began := time.Now()
	for n := 0; len(s.report.Samples) < s.samples; n++ {
		if err := s.batch(ctx, n); err != nil {
			return fmt.Errorf("batch %d: %w", n, err)
		}
		done := len(s.report.Samples)
		s.say("%d of %d samples, %d wrong, %d of %d kills; about %s left", done, s.samples, s.report.wrong(), s.report.Kills, s.kills,
			(time.Since(began) * time.Duration(max(0, s.samples-done)) / time.Duration(done)).Round(time.Second))
	}
	return nil
}

// prepare writes all topics and lets the cleaner work.
func (s *stage) prepare(ctx context.Context) error {
	for i, k := range kinds() {
		t, err := s.create(ctx, k, uint64(i+1))
		if err != nil {
			return err
		}
		s.topics = append(s.topics, t)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, t := range s.topics {
		g.Go(func() error {
			if err := t.fill(gctx, t.size(s.records)); err != nil {
				return err
			}
			s.say("%s: %d records written", t.name, t.next[0]+t.next[1])
			if t.compacted {
				return s.clean(gctx, t)
			}
			return nil
		})
	}
	return g.Wait()
}

// batch has groups move on the source while records are written and workers die,
// waits until the product says that all are there, and reads on the target.
func (s *stage) batch(ctx context.Context, n int) error {
	// The kills that are left are spread over the samples that are left.
	left := s.samples - len(s.report.Samples)
	batches := (left + batchSamples - 1) / batchSamples
	due := s.report.Kills + (s.kills-s.report.Kills+batches-1)/batches
	steps := max(3, due-s.report.Kills)
	list, err := s.groups(ctx, n, steps)
	if err != nil {
		return err
	}
	for step := range steps {
		if step == steps-1 {
			// What was written meanwhile, and may not be copied yet, is no lag.
			if err := s.finish(ctx, list); err != nil {
				return err
			}
		}
		if err := s.move(ctx, list, step); err != nil {
			return err
		}
		if step < steps-1 { // behind the last commit nothing is written: a lag of 0 stays one
			for _, t := range s.topics {
				if err := t.fill(ctx, 5+s.rng.IntN(20)); err != nil {
					return err
				}
			}
		}
		if s.report.Kills < due {
			if err := s.kill(ctx); err != nil {
				return err
			}
		}
	}
	if err := s.members(ctx, list); err != nil {
		return err
	}
	moved := time.Now()
	if err := s.settled(ctx, list); err != nil {
		return err
	}
	s.report.Settled = append(s.report.Settled, time.Since(moved).Seconds())
	// Who has read everything reads on, too.
	for _, t := range s.topics {
		if err := t.last(ctx); err != nil {
			return err
		}
	}
	if err := s.replicated(ctx); err != nil {
		return err
	}
	return s.read(ctx, list)
}

// groups draws the groups of a batch. Each commits at rising positions, the last
// of which leaves the lag that was drawn.
func (s *stage) groups(ctx context.Context, batch, steps int) ([]*group, error) {
	var out []*group
	for i, due := 0, min(batchSamples, s.samples-len(s.report.Samples)); due > 0; i++ {
		t := s.topics[i%len(s.topics)]
		ends, err := s.source.adm.ListCommittedOffsets(ctx, t.name)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("list the ends of %s: %w", t.name, err)
		}
		g := &group{name: fmt.Sprintf("g-%d-%d-%s", batch, i, t.kind.name), topic: t, way: s.way(i), steps: make([][partitions]int64, steps)}
		if g.way == console || g.way == kcat {
			due-- // it reads one record
		} else {
			due -= partitions
		}
		for p := range int32(partitions) {
			end := ends[t.name][p].Offset
			g.lag[p] = s.drawLag(end)
			to := end - g.lag[p]
			at := []int64{to}
			for len(at) < steps {
				at = append(at, s.rng.Int64N(to+1))
			}
			slices.Sort(at)
			for i := range at {
				g.steps[i][p] = at[i]
			}
		}
		out = append(out, g)
	}
	return out, nil
}

// drawLag draws a lag in offsets: nothing, everything, any part of it, or a
// small one, each as likely as the others.
func (s *stage) drawLag(end int64) int64 {
	switch s.rng.IntN(8) {
	case 0:
		return 0
	case 1:
		return end
	case 2, 3, 4:
		return s.rng.Int64N(end + 1)
	default:
		return min(end, int64(math.Exp(s.rng.Float64()*math.Log(float64(end)+1)))-1)
	}
}

// finish sets the last position of each group to where it leaves the lag that was
// drawn for it now. Who has read nothing goes on like that.
func (s *stage) finish(ctx context.Context, list []*group) error {
	ends := map[string]kadm.ListedOffsets{}
	for _, t := range s.topics {
		of, err := s.source.adm.ListCommittedOffsets(ctx, t.name)
		if err == nil {
			err = of.Error()
		}
		if err != nil {
			return fmt.Errorf("list the ends of %s: %w", t.name, err)
		}
		ends[t.name] = of
	}
	for _, g := range list {
		last := &g.steps[len(g.steps)-1]
		for p := range last {
			if last[p] > 0 {
				last[p] = ends[g.topic.name][g.topic.name][int32(p)].Offset - g.lag[p] //nolint:gosec // few
			}
		}
	}
	return nil
}

// move has every group commit its next position.
func (s *stage) move(ctx context.Context, list []*group, step int) error {
	for _, g := range list {
		var os kadm.Offsets
		for p, at := range g.steps[step] {
			os.Add(kadm.Offset{Topic: g.topic.name, Partition: int32(p), At: at, LeaderEpoch: -1, Metadata: g.name}) //nolint:gosec // few
		}
		resp, err := s.source.adm.CommitOffsets(ctx, g.name, os)
		if err == nil {
			err = resp.Error()
		}
		if err != nil {
			return fmt.Errorf("commit for group %s: %w", g.name, err)
		}
	}
	return nil
}

// kill kills a worker at a moment while groups move, and starts it again.
func (s *stage) kill(ctx context.Context) error {
	if err := pause(ctx, time.Duration(s.rng.Int64N(int64(1200*time.Millisecond)))); err != nil {
		return err
	}
	victims := []int{s.rng.IntN(len(s.workers))}
	if s.rng.IntN(4) == 0 && s.report.Kills+1 < s.kills {
		victims = []int{0, 1}
	}
	for _, n := range victims {
		if err := s.workers[n].Kill(); err != nil {
			return err
		}
		s.report.Kills++
	}
	if err := pause(ctx, time.Duration(s.rng.Int64N(int64(500*time.Millisecond)))); err != nil {
		return err
	}
	for _, n := range victims {
		if err := s.start(ctx, n); err != nil {
			return err
		}
	}
	// Mostly shorter than a take-over, and often longer.
	return pause(ctx, time.Duration(math.Exp(s.rng.Float64()*math.Log(100)))*100*time.Millisecond)
}

// members has a member of every third group read some records on the source and
// commit behind them. What all groups have committed then is asked for.
func (s *stage) members(ctx context.Context, list []*group) error {
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(4)
	for i, g := range list {
		n := s.rng.IntN(50)
		work.Go(func() error {
			if i%3 == 0 {
				if err := s.readOn(wctx, g, n); err != nil {
					return fmt.Errorf("group %s reads on the source: %w", g.name, err)
				}
			}
			return s.ask(wctx, g)
		})
	}
	return work.Wait()
}

// readOn joins a group on the source, reads up to n records, commits and leaves.
func (s *stage) readOn(ctx context.Context, g *group, n int) error {
	cl, err := s.source.newClient(kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(g.topic.name), kgo.DisableAutoCommit(), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxPartitionBytes(64<<10), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	for left, empty := n, 0; left > 0 && empty < 3; {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fs := cl.PollRecords(poll, left)
		cancel()
		left -= fs.NumRecords()
		if fs.NumRecords() == 0 {
			empty++
		}
	}
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return cl.LeaveGroupContext(ctx)
}

// ask notes what a group has committed on the source.
func (s *stage) ask(ctx context.Context, g *group) error {
	commits, err := s.source.adm.FetchOffsets(ctx, g.name)
	if err != nil {
		return fmt.Errorf("ask for the commits of group %s: %w", g.name, err)
	}
	ends, err := s.source.adm.ListCommittedOffsets(ctx, g.topic.name)
	if err != nil {
		return fmt.Errorf("list the ends of %s: %w", g.topic.name, err)
	}
	for p := range int32(partitions) {
		c, ok := commits.Lookup(g.topic.name, p)
		if !ok || c.At < 0 {
			return fmt.Errorf("group %s has no commit in partition %d", g.name, p)
		}
		g.at[p], g.lag[p] = c.At, ends[g.topic.name][p].Offset-c.At
	}
	return nil
}

// settled waits until the product says of every group that it stands on the
// target where it stands on the source.
func (s *stage) settled(ctx context.Context, list []*group) error {
	return s.await(ctx, "the groups are on the target", func() string {
		for len(list) > 0 {
			if why := s.unsettled(ctx, list[0]); why != "" {
				return fmt.Sprintf("%d groups are not; %s: %s", len(list), list[0].name, why)
			}
			list = list[1:]
		}
		return ""
	})
}

func (s *stage) unsettled(ctx context.Context, g *group) string {
	var st dr.GroupStatus
	if err := s.get(ctx, "/groups/"+g.name, &st); err != nil {
		return err.Error()
	}
	if st.State != dr.GroupSynced || len(st.Partitions) != partitions {
		return fmt.Sprintf("%s %s %+v", st.State, st.Reason, st.Partitions)
	}
	for _, p := range st.Partitions {
		if p.SourceOffset != g.at[p.Partition] || p.TargetOffset < 0 || p.Distance != 0 {
			return fmt.Sprintf("%+v", p)
		}
	}
	return ""
}
