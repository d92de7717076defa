package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// tally compares what arrives with what was written: the records of a partition
// carry the numbers from 0 on.
type tally struct {
	mu       sync.Mutex
	written  []uint64 // by partition: how many
	next     []uint64 // number of the record that has to arrive next
	missing  uint64   // records that have to arrive
	twice    int      // arrived with a number that had been passed
	skipped  int      // arrived behind a gap
	examples []string
}

func newTally(partitions int) *tally {
	return &tally{written: make([]uint64, partitions), next: make([]uint64, partitions)}
}

// write returns the value of the next record of a partition.
func (t *tally) write(partition int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.written[partition]
	t.written[partition]++
	t.missing++
	return binary.BigEndian.AppendUint64(nil, n)
}

// arrived notes a record at the target. One that was skipped counts as missing
// for good, and as there twice if it comes late.
func (t *tally) arrived(partition int, value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(value) != 8 {
		t.note("partition %d: a record of %d bytes that nobody wrote", partition, len(value))
		t.twice++
		return
	}
	n, want := binary.BigEndian.Uint64(value), t.next[partition]
	switch {
	case n < want:
		t.twice++
		t.note("partition %d: number %d again, %d is next", partition, n, want)
		return
	case n > want:
		t.skipped++
		t.note("partition %d: number %d, but %d is next", partition, n, want)
	}
	t.next[partition] = n + 1
	t.missing--
}

func (t *tally) note(format string, args ...any) {
	if len(t.examples) < 10 {
		t.examples = append(t.examples, fmt.Sprintf(format, args...))
	}
}

// left is how many records have not arrived.
func (t *tally) left() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.missing
}

// behind is how many partitions lack a record.
func (t *tally) behind() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for p := range t.next {
		if t.next[p] < t.written[p] {
			n++
		}
	}
	return n
}

// wrong says what cannot become right any more.
func (t *tally) wrong() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.twice == 0 && t.skipped == 0 {
		return nil
	}
	return fmt.Errorf("%d records are there twice, and %d stand behind a gap: %q", t.twice, t.skipped, t.examples)
}

// records is how many were written.
func (t *tally) records() (n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, of := range t.written {
		n += of
	}
	return n
}

// round writes one record to each partition, in an order that mixes the topics,
// and calls half once half of them are acknowledged.
func (s *stage) round(ctx context.Context, half func()) error {
	var mu sync.Mutex
	var errs []error
	acknowledged := 0
	topics := (s.partitions + topicPartitions - 1) / topicPartitions
	for at := range topicPartitions {
		for topic := range topics {
			partition := topic*topicPartitions + at
			if partition >= s.partitions {
				continue
			}
			name, number := topicName(partition)
			s.writer.Produce(ctx, &kgo.Record{Topic: name, Partition: number, Value: s.tally.write(partition)}, func(_ *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				if acknowledged++; acknowledged == (s.partitions+1)/2 && half != nil {
					go half()
				}
			})
		}
	}
	if err := s.writer.Flush(ctx); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// reader gives the tally what arrives at the target, as a consumer sees it.
type reader struct {
	cl   *kgo.Client
	stop context.CancelFunc
	done chan struct{}
	err  error // once done is closed
}

func (s *stage) read(ctx context.Context, to *tally, isolation kgo.IsolationLevel) (*reader, error) {
	var topics []string
	for p := 0; p < s.partitions; p += topicPartitions {
		name, _ := topicName(p)
		topics = append(topics, name)
	}
	cl, err := s.client(s.target, kgo.ConsumeTopics(topics...), kgo.FetchIsolationLevel(isolation), kgo.FetchMaxWait(100*time.Millisecond), kgo.MetadataMinAge(time.Second))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{cl: cl, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = r.run(ctx, topics, to)
	}()
	return r, nil
}

func (r *reader) run(ctx context.Context, topics []string, to *tally) error {
	for ctx.Err() == nil {
		fs := r.cl.PollFetches(ctx)
		for _, e := range fs.Errors() {
			if lost, ok := errors.AsType[*kgo.ErrDataLoss](e.Err); ok {
				return fmt.Errorf("read the target: %w", lost)
			}
		}
		fs.EachRecord(func(rec *kgo.Record) {
			if i := slices.Index(topics, rec.Topic); i >= 0 {
				to.arrived(i*topicPartitions+int(rec.Partition), rec.Value)
			}
		})
	}
	return nil
}

func (r *reader) close() error {
	r.stop()
	<-r.done
	r.cl.Close()
	return r.err
}

// settled waits until all that was written has arrived, or something is wrong.
func (s *stage) settled(ctx context.Context, t *tally) error {
	var wrong error
	err := s.await(ctx, "everything arrives", func() string {
		if wrong = t.wrong(); wrong != nil || t.left() == 0 {
			return ""
		}
		return fmt.Sprintf("%d records lack, in %d partitions", t.left(), t.behind())
	})
	return errors.Join(err, wrong)
}

// again reads the target once more, from its beginning, as a reader of committed
// records.
func (s *stage) again(ctx context.Context) error {
	t := newTally(s.partitions)
	s.tally.mu.Lock()
	t.written = slices.Clone(s.tally.written)
	s.tally.mu.Unlock()
	t.missing = t.records()
	r, err := s.read(ctx, t, kgo.ReadCommitted())
	if err != nil {
		return err
	}
	return errors.Join(s.settled(ctx, t), r.close())
}
