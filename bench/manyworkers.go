package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
)

const (
	workerPartitions = 24
	steadyRate       = 2000 // records a second of the topic that shows pauses
	steadyBytes      = 200
	joinSettle       = 8 * time.Second // a worker joins, slots move, all run again
)

// measureWorkers lets one, two and four workers share the work. Bursts show what a
// GB costs, a steady flow shows pauses, and all of it is read back.
func measureWorkers(ctx context.Context, r *scaleRun) error {
	return r.within(ctx, setup{}, func(ctx context.Context, s *stage) error {
		for _, topic := range []string{flowTopic, burstTopic} {
			if err := s.source.createWide(ctx, topic, workerPartitions); err != nil {
				return err
			}
		}
		w := &workersRun{scaleRun: r, stage: s, rep: s.newReplicator("shared-.*"), data: newPool(cell{Codec: kbatch.CodecLz4, Records: 64}, time.Now())}
		err := w.play(ctx)
		for _, p := range w.procs {
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, p.LogTail())
			}
			err = errors.Join(err, p.Stop())
		}
		return err
	})
}

const (
	flowTopic  = "shared-flow"
	burstTopic = "shared-burst"
)

// workersRun is the row while it is measured.
type workersRun struct {
	*scaleRun
	*stage
	rep   replicator
	data  pool
	procs []*ktest.Process
	sent  int64 // batches of bursts in each partition
}

func (w *workersRun) play(ctx context.Context) error {
	if err := w.start(ctx, 1); err != nil {
		return err
	}
	if err := w.source.writeEach(ctx, topicSet{names: []string{burstTopic}, width: workerPartitions, total: workerPartitions}); err != nil {
		return err
	}
	if err := w.target.awaitEnds(ctx, topicSet{names: []string{burstTopic}, width: workerPartitions, total: workerPartitions}); err != nil {
		return err
	}
	flow, err := newFlow(ctx, w.stage)
	if err != nil {
		return err
	}
	flowCtx, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(flowCtx)
	halt := make(chan struct{})
	g.Go(func() error { return flow.write(gctx, halt) })
	g.Go(func() error { return flow.read(gctx) })
	err = w.stages(gctx, flow)
	close(halt)
	if err != nil {
		stop()
	}
	err = errors.Join(err, g.Wait())
	flow.close()
	if err != nil {
		return err
	}
	w.add("longest wait of a record of the steady flow while workers joined", flow.worst().Seconds(), goalOf{AtMost: 3, Unit: "s"})
	w.add("records of the flow that are missing, out of order or twice", float64(flow.wrong), goalOf{Unit: ""})
	if flow.wrong > 0 {
		return fmt.Errorf("%d of %d records of the flow are missing, out of order or twice", flow.wrong, flow.total())
	}
	return w.verify(ctx)
}

func (w *workersRun) start(ctx context.Context, n int) error {
	for len(w.procs) < n {
		p, err := w.startWorker(ctx, w.rep, len(w.procs)+1)
		if err != nil {
			return err
		}
		w.procs = append(w.procs, p)
	}
	return nil
}

// stages measures bursts with one, two and four workers.
func (w *workersRun) stages(ctx context.Context, flow *flow) error {
	costs := map[int]float64{}
	for _, n := range []int{1, 2, 4} {
		from := time.Now()
		if err := w.start(ctx, n); err != nil {
			return err
		}
		if err := sleep(ctx, joinSettle); err != nil {
			return err
		}
		if n > 1 {
			flow.window(from, time.Now())
		}
		// The first burst of a number of workers is theirs to get warm.
		for _, counts := range []bool{false, true} {
			cost, took, err := w.burst(ctx)
			if err != nil {
				return err
			}
			if counts {
				costs[n] = cost
				w.add(fmt.Sprintf("%d workers: CPU-seconds of all per GB", n), cost, goalOf{Unit: "s"})
				w.add(fmt.Sprintf("%d workers: rate of the burst", n), float64(w.burstMB)/took.Seconds(), goalOf{Unit: "MB/s"})
			}
		}
	}
	w.add("4 workers: cost of a GB by that of 1 worker", 100*ratio(costs[4], costs[1]), goalOf{AtMost: 110, Unit: "%"})
	return nil
}

// burst writes some GB at once and returns what a GB cost and how long it took.
func (w *workersRun) burst(ctx context.Context) (cost float64, took time.Duration, err error) {
	batch := w.data.bytes / int64(len(w.data.batches))
	n := max(1, w.burstMB*1e6/batch/workerPartitions)
	before, err := w.cpu()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	var over [2][]int32
	for p := range int32(workerPartitions) {
		over[p%2] = append(over[p%2], p)
	}
	if err := preloadParts(ctx, w.source.addr(), burstTopic, w.data, over[:], n); err != nil {
		return 0, 0, err
	}
	w.sent += n
	want := slices.Repeat([]int64{w.sent*int64(w.data.records) + 1}, workerPartitions)
	if _, err := watchFor(ctx, linkPatience, w.target, burstTopic, want, w.procs[0]); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	after, err := w.cpu()
	gb := float64(n*workerPartitions*batch) / 1e9
	return (after - before).Seconds() / gb, took, err
}

// cpu is the processor time of all workers.
func (w *workersRun) cpu() (sum time.Duration, err error) {
	for _, p := range w.procs {
		one, err := p.CPUTime()
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

// verify compares how many records the bursts left on both sides.
func (w *workersRun) verify(ctx context.Context) error {
	from, err := ktest.Read(ctx, w.source.cluster, flowTopic, ktest.ReadUncommitted)
	if err != nil {
		return fmt.Errorf("read the flow on the source: %w", err)
	}
	to, err := ktest.Read(ctx, w.target.cluster, flowTopic, ktest.ReadUncommitted)
	if err != nil {
		return fmt.Errorf("read the flow on the target: %w", err)
	}
	if a, b := len(from.Records()), len(to.Records()); a != b {
		return fmt.Errorf("the flow has %d records on the source and %d on the target", a, b)
	}
	return nil
}

// flow is numbered records at a steady rate through a topic, and who reads them on
// the target.
type flow struct {
	producer, consumer *kgo.Client

	mu struct {
		sync.Mutex
		sent    [workerPartitions]uint64
		over    bool
		waits   []seenAt
		windows [][2]time.Time
	}
	wrong int // of the reader
}

// seenAt is when a record was due, and how long it took.
type seenAt struct {
	due  time.Time
	wait time.Duration
}

func newFlow(ctx context.Context, s *stage) (*flow, error) {
	f := &flow{}
	var err error
	if f.producer, err = s.source.manual(kgo.DefaultProduceTopic(flowTopic)); err != nil {
		return nil, err
	}
	if err := s.target.awaitWide(ctx, flowTopic, workerPartitions); err != nil {
		f.producer.Close()
		return nil, err
	}
	if f.consumer, err = s.target.fromEnds(ctx, []string{flowTopic}); err != nil {
		f.producer.Close()
		return nil, err
	}
	return f, nil
}

func (f *flow) close() {
	f.producer.Close()
	f.consumer.Close()
}

// write writes until halt is closed: each value holds the time when it is due and its
// number in its partition.
func (f *flow) write(ctx context.Context, halt <-chan struct{}) error {
	start := time.Now()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	failed := make(chan error, 1)
	for n := 0; ; {
		select {
		case <-ticker.C:
		case err := <-failed:
			return fmt.Errorf("write the flow: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-halt:
			err := f.producer.Flush(ctx)
			f.mu.Lock()
			f.mu.over = true
			f.mu.Unlock()
			return err
		}
		for due := int(time.Since(start).Seconds() * steadyRate); n < due; n++ {
			p := n % workerPartitions
			value := make([]byte, steadyBytes)
			f.mu.Lock()
			binary.BigEndian.PutUint64(value, f.mu.sent[p])
			f.mu.sent[p]++
			f.mu.Unlock()
			binary.BigEndian.PutUint64(value[8:], uint64(start.Add(time.Duration(n)*time.Second/steadyRate).UnixNano()))
			_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(value[16:]) // never fails
			f.producer.Produce(ctx, &kgo.Record{Partition: int32(p), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
		}
	}
}

// read reads until all that was written came.
func (f *flow) read(ctx context.Context) error {
	var next [workerPartitions]uint64
	poll := func() kgo.Fetches {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		return f.consumer.PollFetches(ctx)
	}
	for quietSince := time.Now(); ; {
		fs := poll()
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		now := time.Now()
		f.mu.Lock()
		fs.EachRecord(func(r *kgo.Record) {
			quietSince = now
			if n := binary.BigEndian.Uint64(r.Value); n != next[r.Partition] {
				f.wrong++
			}
			next[r.Partition]++
			due := time.Unix(0, int64(binary.BigEndian.Uint64(r.Value[8:])))
			f.mu.waits = append(f.mu.waits, seenAt{due, now.Sub(due)})
		})
		done := f.mu.over && next == f.mu.sent
		lost := f.mu.over && time.Since(quietSince) > 30*time.Second
		f.mu.Unlock()
		switch {
		case done && time.Since(quietSince) > time.Second: // nothing came twice behind the last
			return nil
		case lost:
			return fmt.Errorf("read the flow: records are missing: %v of %v", next, f.mu.sent)
		}
	}
}

// window marks a time in which workers joined.
func (f *flow) window(from, to time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.windows = append(f.mu.windows, [2]time.Time{from, to})
}

// worst is the longest wait of what was due in a window.
func (f *flow) worst() (most time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.mu.waits {
		for _, in := range f.mu.windows {
			if w.due.After(in[0]) && w.due.Before(in[1]) {
				most = max(most, w.wait)
			}
		}
	}
	return most
}

func (f *flow) total() (n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.mu.sent {
		n += s
	}
	return n
}
