package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
)

// ceilingJob is what the process of the ceiling does: fetch one topic over and
// over and, at the same time, produce batches of the same shape to another.
type ceilingJob struct {
	source, target           string // addresses
	sourceTopic, targetTopic string
	codec                    string
	records                  int
	conns                    int
	warmUp, duration         time.Duration
}

// ceilingResult is what it prints. MB are 10^6 bytes of compressed batches.
type ceilingResult struct {
	FetchMBPerS   float64 `json:"fetch_mb_per_s"`
	ProduceMBPerS float64 `json:"produce_mb_per_s"`
	CPUPerGB      float64 `json:"cpu_s_per_gb"` // of the process, per 10^9 bytes produced: what moving bytes costs at least
}

// MBPerS returns what a replicator could reach: it has to do both.
func (r ceilingResult) MBPerS() float64 { return min(r.FetchMBPerS, r.ProduceMBPerS) }

func (j *ceilingJob) flags() *flag.FlagSet {
	f := flag.NewFlagSet("ceiling", flag.ContinueOnError)
	f.StringVar(&j.source, "source", "", "broker to fetch from")
	f.StringVar(&j.target, "target", "", "broker to produce to")
	f.StringVar(&j.sourceTopic, "source-topic", "", "topic to fetch")
	f.StringVar(&j.targetTopic, "target-topic", "", "topic to produce to")
	f.StringVar(&j.codec, "codec", "none", "codec of the batches")
	f.IntVar(&j.records, "records", 64, "records in a batch")
	f.IntVar(&j.conns, "conns", 2, "connections for each direction")
	f.DurationVar(&j.warmUp, "warm-up", 500*time.Millisecond, "time that is not counted")
	f.DurationVar(&j.duration, "duration", 3*time.Second, "time that is counted")
	return f
}

// ceilingMain is the process of the ceiling.
func ceilingMain(ctx context.Context, stdout io.Writer, args []string) error {
	var j ceilingJob
	if err := j.flags().Parse(args); err != nil {
		return err
	}
	r, err := j.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(r)
}

// runCeiling runs the ceiling in a process of its own.
func runCeiling(ctx context.Context, self string, j ceilingJob) (ceilingResult, error) {
	cmd := exec.CommandContext(ctx, self, "ceiling",
		"-source", j.source, "-target", j.target, "-source-topic", j.sourceTopic, "-target-topic", j.targetTopic,
		"-codec", j.codec, "-records", strconv.Itoa(j.records), "-conns", strconv.Itoa(j.conns),
		"-warm-up", j.warmUp.String(), "-duration", j.duration.String())
	ktest.DieWithParent(cmd)
	raw, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return ceilingResult{}, fmt.Errorf("run ceiling: %w: %s", err, exit.Stderr)
		}
		return ceilingResult{}, fmt.Errorf("run ceiling: %w", err)
	}
	var r ceilingResult
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("read result of ceiling: %w", err)
	}
	return r, nil
}

func (j *ceilingJob) run(ctx context.Context) (ceilingResult, error) {
	codec, err := kbatch.ParseCodec(j.codec)
	if err != nil {
		return ceilingResult{}, err
	}
	data := newPool(cell{Codec: codec, Records: j.records}, time.Now())
	var fetched, produced atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, parts := range split(j.conns) {
		g.Go(func() error { return j.produce(ctx, data, parts, &produced) })
		g.Go(func() error { return j.fetch(ctx, parts, &fetched, &produced) })
	}
	var r ceilingResult
	g.Go(func() error {
		defer stop()
		if err := sleep(ctx, j.warmUp); err != nil {
			return err
		}
		before, err := ktest.CPUTime(os.Getpid())
		if err != nil {
			return err
		}
		start, f, p := time.Now(), fetched.Load(), produced.Load()
		if err := sleep(ctx, j.duration); err != nil {
			return err
		}
		seconds := time.Since(start).Seconds()
		r.FetchMBPerS = float64(fetched.Load()-f) / 1e6 / seconds
		r.ProduceMBPerS = float64(produced.Load()-p) / 1e6 / seconds
		after, err := ktest.CPUTime(os.Getpid())
		r.CPUPerGB = (after - before).Seconds() / max(r.ProduceMBPerS*seconds/1e3, 1e-3)
		return err
	})
	err = g.Wait()
	return r, err
}

func (j *ceilingJob) produce(ctx context.Context, data pool, parts []int32, produced *atomic.Int64) error {
	requests := data.requests(j.targetTopic, parts)
	batches := data.bytes / int64(len(data.batches)) * int64(len(parts))
	c, err := dial(ctx, j.target)
	if err != nil {
		return err
	}
	defer c.Close()
	var i int
	return c.produceRaw(func() ([]byte, bool) {
		i++
		return requests[i%len(requests)], ctx.Err() == nil
	}, func() { produced.Add(batches) })
}

// fetch reads partitions from their start to their end, and again, until ctx
// ends. Two requests at a time would need the offsets of the next one before
// the answer; other connections fill the gap.
//
// A fetcher that ran free would be several times faster than the producer and
// take the processor away from it. It is held to the producer's pace, which
// gives the highest rate at which both can be done.
func (j *ceilingJob) fetch(ctx context.Context, parts []int32, fetched, produced *atomic.Int64) error {
	c, err := dial(ctx, j.source)
	if err != nil {
		return err
	}
	defer c.Close()
	ends, err := c.endOffsets(j.sourceTopic)
	if err != nil {
		return err
	}
	next := make(map[int32]int64)
	for ctx.Err() == nil {
		if fetched.Load() > produced.Load()+fetchAhead {
			if sleep(ctx, time.Millisecond) != nil {
				return nil
			}
			continue
		}
		for _, p := range parts {
			if next[p] >= ends[p] {
				next[p] = 0
			}
		}
		n, err := c.fetchOnce(j.sourceTopic, parts, next)
		if err != nil {
			return err
		}
		fetched.Add(n)
	}
	return nil
}

// The sizes of a fetch: what Kafka's documentation of tuning suggests for
// throughput, several batches of any size at once.
const (
	fetchPartitionBytes = 2 << 20
	fetchBytes          = 16 << 20
	// fetchAhead is how far the fetcher may be ahead of the producer.
	fetchAhead = 16 << 20
)

// fetchOnce sends one fetch request, moves next past the whole batches that
// came and returns their bytes.
func (c *conn) fetchOnce(topic string, parts []int32, next map[int32]int64) (int64, error) {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(fetchVersion)
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = -1, 100, 1, fetchBytes
	req.SessionEpoch = -1 // no session
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	for _, p := range parts {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p, next[p], fetchPartitionBytes
		rp.CurrentLeaderEpoch, rp.LogStartOffset = -1, -1
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = append(req.Topics, t)
	resp := kmsg.NewPtrFetchResponse()
	if err := c.roundTrip(req, resp); err != nil {
		return 0, fmt.Errorf("fetch: %w", err)
	}
	var bytes int64
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return 0, fmt.Errorf("fetch %s[%d]: %w", topic, p.Partition, err)
			}
			n, end, err := skipBatches(p.RecordBatches)
			if err != nil {
				return 0, fmt.Errorf("fetch %s[%d]: %w", topic, p.Partition, err)
			}
			if n > 0 {
				next[p.Partition] = end
			}
			bytes += n
		}
	}
	return bytes, nil
}

// skipBatches returns the bytes of the whole batches of b and the offset after
// the last one.
func skipBatches(b []byte) (n, end int64, err error) {
	end, _, err = kbatch.Walk(b, 0, func(_ kbatch.Header, entry []byte) bool {
		n += int64(len(entry))
		return true
	})
	return n, end, err
}

// sleep waits for d, or returns the reason why ctx ended before.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
