package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// rounds are written before anybody dies: a partition that was never written to
// needs no fence.
const rounds = 3

// play runs all steps.
func (s *stage) play(ctx context.Context) error {
	s.say("two brokers run, Kafka %s, heap %d MiB each", s.source.Version(), s.heapMB)
	if err := s.create(ctx); err != nil {
		return err
	}
	s.say("%d partitions are there on the source", s.partitions)
	one, err := s.copies(ctx)
	if err != nil {
		return err
	}
	two, err := s.join(ctx, one)
	if err != nil {
		return err
	}
	if err := s.dies(ctx, one, func() (*worker, error) { return two, nil }); err != nil {
		return err
	}
	if err := s.dies(ctx, two, func() (*worker, error) { return s.start(ctx, "three") }); err != nil {
		return err
	}
	return s.verify(ctx)
}

// copies starts the first worker, which makes the topics on the target.
func (s *stage) copies(ctx context.Context) (*worker, error) {
	if err := s.round(ctx, nil); err != nil {
		return nil, err
	}
	began := time.Now()
	one, err := s.start(ctx, "one")
	if err != nil {
		return nil, err
	}
	if _, err := s.all(ctx, one); err != nil {
		return nil, err
	}
	s.say("worker one has made them on the target, and all run, %.1f s after its start", time.Since(began).Seconds())
	if s.reader, err = s.read(ctx, s.tally, kgo.ReadUncommitted()); err != nil {
		return nil, err
	}
	for range rounds - 1 {
		if err := s.round(ctx, nil); err != nil {
			return nil, err
		}
	}
	if err := s.settled(ctx, s.tally); err != nil {
		return nil, err
	}
	s.say("%d records have arrived in each; %s", rounds, one.cost())
	return one, s.state(ctx)
}

// join starts the second worker, which takes some slots from the first.
func (s *stage) join(ctx context.Context, one *worker) (*worker, error) {
	began := time.Now()
	two, err := s.start(ctx, "two")
	if err != nil {
		return nil, err
	}
	counts, err := s.all(ctx, one, two)
	if err != nil {
		return nil, err
	}
	s.say("two workers share them, %d and %d, %.1f s after the start of the second", counts[0], counts[1], time.Since(began).Seconds())
	s.say("%s", one.cost())
	s.say("%s", two.cost())
	return two, s.state(ctx)
}

// dies kills a worker while a record is written to each partition, and waits
// until the other one runs all.
func (s *stage) dies(ctx context.Context, victim *worker, heir func() (*worker, error)) error {
	st, err := victim.status(ctx)
	if err != nil {
		return err
	}
	by, _ := running(st)
	before, err := s.stateBytes(ctx)
	if err != nil {
		return err
	}
	type death struct {
		at   time.Time
		heir *worker
		err  error
	}
	dead := make(chan death, 1)
	err = s.round(ctx, func() {
		err := victim.Kill()
		at := time.Now()
		w, startErr := heir()
		dead <- death{at, w, errors.Join(err, startErr)}
	})
	if err != nil {
		return err
	}
	d := <-dead
	if d.err != nil {
		return fmt.Errorf("kill worker %s: %w", victim.id, d.err)
	}
	if _, err := s.all(ctx, d.heir); err != nil {
		return err
	}
	ran := time.Since(d.at)
	if err := s.settled(ctx, s.tally); err != nil {
		return err
	}
	arrived := time.Since(d.at)
	s.say("worker %s was killed, which had %d partitions: worker %s runs all %d after %.1f s, and all records have arrived after %.1f s",
		victim.id, by[victim.id], d.heir.id, s.partitions, ran.Seconds(), arrived.Seconds())
	s.say("%s", d.heir.cost())
	after, err := s.stateBytes(ctx)
	if err != nil {
		return err
	}
	s.say("the state topic grew by %d bytes meanwhile", after-before)
	return nil
}

func (s *stage) state(ctx context.Context) error {
	n, err := s.stateBytes(ctx)
	if err != nil {
		return err
	}
	s.say("the state topic has %d bytes, %d a partition", n, n/int64(s.partitions))
	return nil
}

// verify looks at all records again. The last one of each partition is written
// when nothing happens any more: whatever is wrong stands before it.
func (s *stage) verify(ctx context.Context) error {
	if err := s.round(ctx, nil); err != nil {
		return err
	}
	if err := s.settled(ctx, s.tally); err != nil {
		return err
	}
	if err := s.again(ctx); err != nil {
		return fmt.Errorf("a reader of committed records: %w", err)
	}
	s.say("%d records, none lost, twice or out of order, for readers of both isolation levels", s.tally.records())
	source, err := s.source.Process(0).PeakRSS()
	target, otherErr := s.target.Process(0).PeakRSS()
	if err := errors.Join(err, otherErr); err != nil {
		return err
	}
	s.say("the brokers' resident memory was at most %d MiB and %d MiB", source>>20, target>>20)
	return s.state(ctx)
}
