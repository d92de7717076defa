package replicate

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
)

// The ledger of a source that is back after a failover: its own records that never
// reached the target. They lie behind the positions of the seal. What replicators
// wrote there, aborted transactions and markers are not among them.

// LedgerOptions names a replicator that is stopped, and both its clusters.
type LedgerOptions struct {
	SealOptions
	Source      Endpoint
	SourceState *kstate.Table  // run by the caller
	Filter      dr.TopicFilter // of the replicator
	ForwardAll  bool           // as the replicator's: what other replicators wrote there counts too

	Export io.Writer     // gets a line of JSON for each record; nil: nobody wants them
	Detail LedgerContent // of these lines
}

// LedgerContent says what a line of an export holds of a record.
type LedgerContent string

// The contents. Keys, values and headers are in base64, null is null.
const (
	LedgerPlaces  LedgerContent = ""        // topic, partition, offset, time, sizes
	LedgerRecords LedgerContent = "records" // keys, values and headers too
)

// LedgerReport is what the source has and the target does not.
type LedgerReport struct {
	Replicator      string    `json:"replicator"`
	SourceClusterID string    `json:"source_cluster_id"`
	At              time.Time `json:"at"`

	Records    int64             `json:"records"`
	Bytes      int64             `json:"bytes"`     // of keys, values and headers
	Undecided  bool              `json:"undecided"` // a transaction is open somewhere: its records are not counted
	Partitions []LedgerPartition `json:"partitions"`
}

// LedgerPartition is one partition: all offsets from From on are accounted for.
type LedgerPartition struct {
	Topic     string    `json:"topic"`
	TopicID   string    `json:"topic_id"` // of the source, hexadecimal
	Partition int32     `json:"partition"`
	From      int64     `json:"from"`         // all below is on the target, or rightly not
	To        int64     `json:"to"`           // last stable offset of the source when it was read
	End       int64     `json:"end"`          // its high watermark
	Records   int64     `json:"records"`      // that are not on the target
	Bytes     int64     `json:"bytes"`        // of their keys, values and headers
	First     int64     `json:"first_offset"` // of these; -1: none
	Last      int64     `json:"last_offset"`
	FirstAt   time.Time `json:"first_at,omitzero"` // least and largest timestamp
	LastAt    time.Time `json:"last_at,omitzero"`
	Copied    int64     `json:"copied"`            // records behind From that replicators wrote
	Unproved  int64     `json:"unproved"`          // records under a replicator's id that its state does not explain: they are among Records
	Gone      int64     `json:"gone"`              // offsets behind From that the source deleted since
	Lost      int64     `json:"lost"`              // offsets below From that the source does not have any more, at its end: the target has them
	New       bool      `json:"new"`               // nothing of it was ever copied
	Missing   string    `json:"missing,omitempty"` // why it could not be read
}

// LedgerRecord is a line of an export.
type LedgerRecord struct {
	Topic     string         `json:"topic"`
	Partition int32          `json:"partition"`
	Offset    int64          `json:"offset"`
	Timestamp int64          `json:"timestamp"` // milliseconds since 1970, -1 for none
	KeySize   int            `json:"key_size"`  // -1: null
	ValueSize int            `json:"value_size"`
	Content   *LedgerPayload `json:"content,omitempty"`
}

// LedgerPayload is what a record holds.
type LedgerPayload struct {
	Key     []byte         `json:"key"`
	Value   []byte         `json:"value"`
	Headers []LedgerHeader `json:"headers"`
}

// LedgerHeader is one header of a record.
type LedgerHeader struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Ledger reads what of a source that is back was never copied. It changes nothing,
// and refuses a replicator that is not stopped, whose positions would move. Clients
// that still write to the source make it incomplete: To says how far it goes.
func Ledger(ctx context.Context, o LedgerOptions) (LedgerReport, error) {
	l, err := newLedger(ctx, o)
	if err != nil {
		return LedgerReport{}, err
	}
	defer l.close()
	work, err := l.ranges(ctx)
	if err != nil {
		return LedgerReport{}, err
	}
	out := LedgerReport{Replicator: o.Name, SourceClusterID: l.source.meta().clusterID, At: time.Now().UTC(), Partitions: make([]LedgerPartition, len(work))}
	var lines *exporter
	if o.Export != nil {
		lines = &exporter{w: bufio.NewWriterSize(o.Export, 1<<20), detail: o.Detail}
	}
	err = parallel(ctx, len(work), 4, func(ctx context.Context, i int) error {
		p := work[i]
		err := l.read(ctx, &p, lines.write)
		out.Partitions[i] = p
		return err
	})
	if lines != nil {
		err = errors.Join(err, lines.w.Flush())
	}
	if err != nil {
		return LedgerReport{}, fmt.Errorf("read the ledger of replicator %s: %w", o.Name, err)
	}
	for _, p := range out.Partitions {
		out.Records, out.Bytes, out.Undecided = out.Records+p.Records, out.Bytes+p.Bytes, out.Undecided || p.To < p.End
	}
	return out, nil
}

// exporter writes lines. A nil exporter writes none.
type exporter struct {
	mu     sync.Mutex
	w      *bufio.Writer
	detail LedgerContent
}

func (x *exporter) write(p *LedgerPartition, r kbatch.Record) error {
	if x == nil {
		return nil
	}
	line := LedgerRecord{Topic: p.Topic, Partition: p.Partition, Offset: r.Offset, Timestamp: r.Timestamp, KeySize: size(r.Key), ValueSize: size(r.Value)}
	if x.detail == LedgerRecords {
		line.Content = &LedgerPayload{Key: r.Key, Value: r.Value, Headers: []LedgerHeader{}}
		for _, h := range r.Headers {
			line.Content.Headers = append(line.Content.Headers, LedgerHeader{string(h.Key), h.Value})
		}
	}
	b, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encode a line: %w", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, err := x.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// size is the length of a key or a value, -1 for null.
func size(b []byte) int {
	if b == nil {
		return -1
	}
	return len(b)
}

// ledger reads both sides of a replicator that is stopped.
type ledger struct {
	*sealer
	lo     LedgerOptions
	source *topology
	tail   *kgo.Client // of the source
	ids    *registry
	claims *claims
	close  func()
}

func newLedger(ctx context.Context, o LedgerOptions) (*ledger, error) {
	if o.SourceState == nil {
		return nil, errors.New("a ledger needs the state table of the source")
	}
	s, err := newSealer(ctx, o.SealOptions)
	if err != nil {
		return nil, err
	}
	control, err := o.Source.Dial()
	if err != nil {
		s.close()
		return nil, fmt.Errorf("cluster %s: %w", o.Source.Name, err)
	}
	tail, err := o.Source.Dial(kgo.BrokerMaxReadBytes(kclient.MaxFrame))
	if err != nil {
		control.Close()
		s.close()
		return nil, fmt.Errorf("cluster %s: %w", o.Source.Name, err)
	}
	l := &ledger{sealer: s, lo: o, tail: tail, source: newTopology(o.Source.Name, control, s.o.DiscoveryInterval, s.log)}
	l.claims = newClaims(NewRoutes(o.SourceState).built)
	l.ids = newRegistry(o.SourceState, func(error) {})
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	l.close = func() {
		cancel()
		wait.Wait()
		tail.Close()
		control.Close()
		s.close()
	}
	m, err := s.firstMeta(ctx, o.Source.Name, control)
	if err == nil && s.sourceID != "" && m.clusterID != s.sourceID {
		err = &dr.Error{Code: dr.CodeRefused, Hint: "a rebuilt cluster has no ledger", Err: fmt.Errorf("cluster %s has cluster.id %s, replicator %s copied %s", o.Source.Name, m.clusterID, o.Name, s.sourceID)}
	}
	if err == nil {
		l.source.publish(m, nil)
		wait.Go(func() { l.source.run(life) }) //nolint:errcheck // it returns nil
		err = errors.Join(s.targetState.Refresh(ctx), o.SourceState.Refresh(ctx))
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// ranges returns the partitions, with where their ledgers begin.
func (l *ledger) ranges(ctx context.Context) ([]LedgerPartition, error) {
	var out []LedgerPartition
	known := map[tp]struct{}{}
	for n := range l.slots {
		if is := l.orderOf(n); !is.stopped {
			return nil, &dr.Error{Code: dr.CodeConflict, Hint: "a failover seals it", Err: fmt.Errorf("replicator %s is not stopped: slot %d may copy", l.o.Name, n)}
		}
		recs, err := newSlot(l.Engine, n).load()
		if err != nil {
			return nil, err
		}
		for id, r := range recs {
			known[id] = struct{}{}
			out = append(out, LedgerPartition{Topic: r.ck.Topic, TopicID: hexID(id.topicID), Partition: id.partition, From: r.ck.Position})
		}
	}
	for _, t := range l.source.meta().byName {
		if !l.lo.Filter.Match(t.name) {
			continue
		}
		rec, started := l.startRecord(t.id)
		for i := range t.partitions {
			id := tp{t.id, int32(i)}
			if _, ok := known[id]; ok {
				continue
			}
			p := LedgerPartition{Topic: t.name, TopicID: hexID(t.id), Partition: id.partition, New: true}
			if started && i < len(rec.Offsets) {
				p.From = max(0, rec.Offsets[i])
			}
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b LedgerPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.TopicID, b.TopicID), cmp.Compare(a.Partition, b.Partition))
	})
	return out, ctx.Err()
}

// read reads one partition to its last stable offset and calls each with the
// records that are not on the target, in order.
func (l *ledger) read(ctx context.Context, p *LedgerPartition, each func(*LedgerPartition, kbatch.Record) error) error {
	p.First, p.Last = -1, -1
	topicID, err := parseID(p.TopicID)
	if err != nil {
		return err
	}
	t := fenceTarget{id: tp{topicID, p.Partition}, topic: p.Topic, topicID: topicID}
	if _, ok := l.source.meta().partition(topicID, p.Partition); !ok {
		p.To, p.End, p.Missing = p.From, p.From, "the source has no such topic any more"
		return nil
	}
	start, end, err := leaderRange(ctx, l.tail, l.source, t)
	if err != nil {
		return err
	}
	p.End, p.To = end, p.From
	p.Gone, p.Lost = max(0, min(start, end)-p.From), max(0, p.From-end)
	if p.New {
		p.Gone, p.From = 0, max(p.From, start)
		p.To = p.From
	}
	from := max(p.From, start)
	if from >= end {
		p.To = max(p.To, min(from, end))
		return nil
	}
	p.To, err = walkCommitted(ctx, l.tail, l.source, t, from, end, func(h kbatch.Header, entry []byte) error {
		return l.count(ctx, p, t.id, h, entry, from, each)
	})
	return err
}

// count takes one batch into the ledger.
func (l *ledger) count(ctx context.Context, p *LedgerPartition, id tp, h kbatch.Header, entry []byte, from int64, each func(*LedgerPartition, kbatch.Record) error) error {
	ours, proved, err := l.copied(ctx, id, h)
	if err != nil {
		return err
	}
	return kbatch.Parse(entry, func(r kbatch.Record) error {
		switch {
		case r.Offset < from:
			return nil
		case ours && proved:
			p.Copied++
			return nil
		case ours:
			p.Unproved++
		}
		bytes := max(0, size(r.Key)) + max(0, size(r.Value))
		for _, h := range r.Headers {
			bytes += len(h.Key) + max(0, size(h.Value))
		}
		if p.First < 0 {
			p.First = r.Offset
		}
		p.Last, p.Records, p.Bytes = r.Offset, p.Records+1, p.Bytes+int64(bytes)
		if at := time.UnixMilli(r.Timestamp).UTC(); r.Timestamp >= 0 {
			if p.FirstAt.IsZero() || at.Before(p.FirstAt) {
				p.FirstAt = at
			}
			if at.After(p.LastAt) {
				p.LastAt = at
			}
		}
		return each(p, r)
	})
}

// copied reports whether a batch was written by a replicator and needs no copy,
// and whether that one's state proves it.
func (l *ledger) copied(ctx context.Context, id tp, h kbatch.Header) (ours, proved bool, err error) {
	reg, known := l.ids.lookup(h.ProducerID)
	if !known {
		done := make(chan struct{})
		l.ids.resolve(ctx, h.ProducerID, func() { close(done) })
		select {
		case <-done:
		case <-ctx.Done():
			return false, false, context.Cause(ctx)
		}
		if reg, known = l.ids.lookup(h.ProducerID); !known {
			return false, false, fmt.Errorf("whose producer id %d is on cluster %s can't be told", h.ProducerID, l.lo.Source.Name)
		}
	}
	if reg == nil || l.lo.ForwardAll && !slices.Contains(reg.Path, l.targetID) {
		return false, false, nil
	}
	return true, l.claims.explain(reg, id, h) == nil, nil
}

// walkCommitted calls fn with every batch of records in [from, end) that
// read-committed readers see, and returns the last stable offset, or end if that
// is less: up to there all was read.
func walkCommitted(ctx context.Context, cl *kgo.Client, topo *topology, t fenceTarget, from, end int64, fn func(kbatch.Header, []byte) error) (int64, error) {
	for pause := 50 * time.Millisecond; from < end; {
		pm, ok := topo.meta().partition(t.topicID, t.id.partition)
		if !ok {
			return from, fmt.Errorf("topic %s partition %d is gone", t.topic, t.id.partition)
		}
		rp, err := fetchCommitted(ctx, cl, pm, t, from)
		if ke, refused := errors.AsType[*kerr.Error](err); refused && !ke.Retriable {
			return from, fmt.Errorf("read offset %d of topic %s partition %d: %w", from, t.topic, t.id.partition, err)
		}
		if err != nil {
			topo.refresh()
			if serr := sleep(ctx, pause); serr != nil {
				return from, fmt.Errorf("%w (%w)", err, serr)
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 50 * time.Millisecond
		var bad error
		aborts := newAborts(rp.AbortedTransactions)
		next, _, err := kbatch.Walk(rp.RecordBatches, from, func(h kbatch.Header, entry []byte) bool {
			if h.BaseOffset >= end {
				return false
			}
			if skip := aborts.skip(h, entry); !skip && h.Count > 0 {
				bad = fn(h, entry)
			}
			return bad == nil
		})
		if err := cmp.Or(bad, err); err != nil {
			return from, err
		}
		if next >= end {
			return end, nil
		}
		if next == from && from >= rp.LastStableOffset {
			return from, nil // behind it lies an open transaction
		}
		from = next
	}
	return min(from, end), nil
}

// aborts follows which transactions of a fetch answer were aborted, as
// kafka.consumer does (FetchResponse.AbortedTransactions).
type aborts struct {
	list   []kmsg.FetchResponseTopicPartitionAbortedTransaction
	active map[int64]struct{}
}

func newAborts(list []kmsg.FetchResponseTopicPartitionAbortedTransaction) *aborts {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) int {
		return cmp.Compare(a.FirstOffset, b.FirstOffset)
	})
	return &aborts{list, map[int64]struct{}{}}
}

// skip reports whether a batch is a marker or was aborted.
func (a *aborts) skip(h kbatch.Header, entry []byte) bool {
	for len(a.list) > 0 && a.list[0].FirstOffset <= h.LastOffset() {
		a.active[a.list[0].ProducerID] = struct{}{}
		a.list = a.list[1:]
	}
	if h.IsControl() {
		if t, err := h.ControlType(entry); err == nil && t == kbatch.ControlAbort {
			delete(a.active, h.ProducerID)
		}
		return true
	}
	_, aborted := a.active[h.ProducerID]
	return aborted && h.IsTransactional()
}

// fetchCommitted fetches what read-committed readers get from an offset on.
func fetchCommitted(ctx context.Context, cl *kgo.Client, pm partMeta, t fenceTarget, from int64) (*kmsg.FetchResponseTopicPartition, error) {
	if pm.leader < 0 {
		return nil, kerr.LeaderNotAvailable
	}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = t.id.partition, from, 1<<20, pm.leaderEpoch
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = t.topic, t.topicID, append(rt.Partitions, rp)
	req := kmsg.NewPtrFetchRequest()
	req.Topics, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch, req.IsolationLevel = append(req.Topics, rt), 50, 1, 4<<20, -1, 1
	resp, err := cl.Broker(int(pm.leader)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	fr := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(fr.ErrorCode); err != nil {
		return nil, err
	}
	for _, t := range fr.Topics {
		for i := range t.Partitions {
			return &t.Partitions[i], kerr.ErrorForCode(t.Partitions[i].ErrorCode)
		}
	}
	return nil, errors.New("an answer without the partition")
}
