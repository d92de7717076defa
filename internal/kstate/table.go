package kstate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/seeded"
)

// ErrStopped is returned by the waiting methods when Run has returned.
var ErrStopped = errors.New("state table stopped")

// TableOptions configures a Table.
type TableOptions struct {
	// Dial makes a client of the cluster; the table adds what it consumes.
	Dial   func(...kgo.Opt) (*kgo.Client, error)
	Logger *slog.Logger // nil means discard
	// Patience is how long a Refresh tries again what may pass by itself, a
	// leader that is lost among it, before it returns why. 0 means 15 seconds:
	// brokers are given up after 9 (broker.session.timeout.ms).
	Patience time.Duration
}

// Table follows the state topic of one cluster. The topic may not exist yet:
// the table is empty then and fills when it appears.
type Table struct {
	o   TableOptions
	log *slog.Logger

	mu struct {
		sync.Mutex
		parts    []*partition
		err      error                   // the table can't go on; returned by all waits
		refused  error                   // the cluster does not let us read now; returned by waits that are not met
		end      context.CancelCauseFunc // ends Run; nil before it
		changed  chan struct{}
		watchers map[chan struct{}]struct{}
		client   *kgo.Client
	}
}

type marker struct {
	epoch  int16
	offset int64
}

type partition struct {
	next    int64 // everything below was folded, or is lost
	lost    int64 // records below it were deleted before they were read; 0: none
	values  map[string][]byte
	markers map[int64]marker  // newest marker by producer id
	changes map[string]uint64 // records by kind, see Changes
}

// NewTable returns a table that is empty until Run.
func NewTable(o TableOptions) *Table {
	t := &Table{o: o, log: o.Logger}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if t.o.Patience == 0 {
		t.o.Patience = 15 * time.Second
	}
	t.mu.changed = make(chan struct{})
	t.mu.watchers = map[chan struct{}]struct{}{}
	return t
}

// Run follows the topic until ctx ends. It returns an error when the topic can
// no longer be followed without losing records.
func (t *Table) Run(ctx context.Context) (err error) {
	defer func() {
		if err == nil {
			t.fail(ErrStopped)
		} else {
			t.fail(err)
		}
	}()
	ask, err := t.o.Dial()
	if err != nil {
		return fmt.Errorf("follow %s: %w", Topic, err)
	}
	defer ask.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.mu.Lock()
	t.mu.client, t.mu.end = ask, cancel
	close(t.mu.changed)
	t.mu.changed = make(chan struct{})
	t.mu.Unlock()
	n := t.discover(ctx, ask)
	if n == 0 {
		return nil // ctx ended
	}
	from := map[int32]kgo.Offset{}
	for p := range n {
		from[p] = kgo.NewOffset().AtStart()
	}
	cl, err := t.o.Dial(kgo.KeepControlRecords(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{Topic: from}),
		kgo.FetchMaxWait(500*time.Millisecond), kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.DisableFetchSessions(), kgo.FetchMaxBytes(4<<20),
		kgo.KeepRetryableFetchErrors()) // see poll
	if err != nil {
		return fmt.Errorf("follow %s: %w", Topic, err)
	}
	defer cl.Close()
	t.mu.Lock()
	for range n {
		t.mu.parts = append(t.mu.parts, &partition{values: map[string][]byte{}, markers: map[int64]marker{}, changes: map[string]uint64{}})
	}
	t.notifyLocked()
	t.mu.Unlock()
	for ctx.Err() == nil {
		if err := t.poll(ctx, cl); err != nil {
			return err
		}
	}
	if err := context.Cause(ctx); errors.Is(err, errDeleted) {
		return err
	}
	return nil
}

// discover waits until the topic exists and returns its number of partitions,
// 0 when ctx ended before.
func (t *Table) discover(ctx context.Context, cl *kgo.Client) int32 {
	var wait backoff
	began := time.Now()
	for {
		n, err := partitions(ctx, cl)
		switch {
		case err == nil && n > 0:
			t.refuse(ctx, nil)
			return n
		case err == nil, errors.Is(err, kerr.UnknownTopicOrPartition):
			t.refuse(ctx, nil)
			// It may appear at any moment; or never, on a source that no
			// replicator writes to: asking costs less and less.
			wait = backoff{next: min(firstPause+time.Since(began)/8, time.Second)}
		case ctx.Err() == nil:
			t.refuse(ctx, err)
		}
		if wait.sleep(ctx) != nil {
			return 0
		}
	}
}

// refuse keeps why the cluster does not let the topic be read, nil when it
// does. What passes by itself is only logged: nobody is to give up for it.
func (t *Table) refuse(ctx context.Context, err error) {
	if err != nil && passing(err) {
		t.log.LogAttrs(ctx, slog.LevelDebug, "state topic cannot be reached", slog.String("error", err.Error()))
		err = nil
	}
	t.mu.Lock()
	before := t.mu.refused
	t.mu.refused = err
	if err != nil {
		t.notifyLocked()
	}
	t.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		t.log.LogAttrs(ctx, slog.LevelWarn, "state topic cannot be read", slog.String("error", err.Error()))
	}
}

// poll takes what was fetched. A broker answers a fetch at once that has an
// error for one of its partitions, and the client asks again at once as long as
// there is another without: one partition that has lost its leader would be asked
// for as fast as the network goes. So the client is made to show errors that pass,
// and pauses: it fetches no further than one answer ahead.
func (t *Table) poll(ctx context.Context, cl *kgo.Client) error {
	fs, over := t.fetch(ctx, cl)
	var lost, refused, passes error
	fs.EachError(func(_ string, p int32, err error) {
		if over && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
			return // the poll was ended, not refused
		}
		if loss, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
			lost = fmt.Errorf("state topic %s partition %d was truncated: read up to %d, the log now ends at %d", Topic, p, loss.ConsumedTo, loss.ResetTo)
			return
		}
		if err = fmt.Errorf("fetch %s partition %d: %w", Topic, p, err); passing(err) {
			passes = err
			return
		}
		refused = err
	})
	if lost != nil {
		return lost
	}
	t.fold(fs)
	why := cmp.Or(refused, passes)
	t.refuse(ctx, why)
	if why != nil {
		sleep(ctx, firstPause) //nolint:errcheck // brokers answer a fetch that they refuse at once
	}
	return nil
}

// fetch polls, and reports whether its own end cut that short. After a refusal
// it polls for a moment only: brokers that refuse say so at once.
func (t *Table) fetch(ctx context.Context, cl *kgo.Client) (fs kgo.Fetches, over bool) {
	t.mu.Lock()
	refused := t.mu.refused != nil
	t.mu.Unlock()
	if refused {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	fs = cl.PollFetches(ctx)
	return fs, ctx.Err() != nil
}

func (t *Table) fold(fs kgo.Fetches) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fs.EachPartition(func(ftp kgo.FetchTopicPartition) {
		if len(ftp.Records) == 0 {
			return // an error, perhaps of no partition at all
		}
		p := t.mu.parts[ftp.Partition]
		t.beginsLocked(ftp.Partition, min(ftp.LogStartOffset, ftp.Records[0].Offset)) // what came with it is not lost
		for _, r := range ftp.Records {
			p.fold(r)
		}
	})
	t.notifyLocked()
}

// errDeleted ends a table that has a part of a partition only.
var errDeleted = errors.New("records of the state topic were deleted before they were read")

// beginsLocked notes where the log of a partition begins. The cleaner leaves
// that where it is (UnifiedLog.deleteOldSegments), so what lay between what was
// read and there was deleted by somebody. A table that had read what lay before
// ends: one that begins anew tells its users, see Lost.
func (t *Table) beginsLocked(part int32, start int64) {
	p := t.mu.parts[part]
	if start <= p.next {
		return
	}
	if p.next > 0 {
		t.mu.end(fmt.Errorf("%w: topic %s partition %d was read up to %d and now begins at %d", errDeleted, Topic, part, p.next, start))
	}
	p.next, p.lost = start, start
}

func (p *partition) fold(r *kgo.Record) {
	p.next = max(p.next, r.Offset+1)
	if r.Attrs.IsControl() {
		p.markers[r.ProducerID] = marker{epoch: r.ProducerEpoch, offset: r.Offset}
		return
	}
	p.changes[string(kindOf(r.Key))]++
	if r.Value == nil {
		delete(p.values, string(r.Key))
		return
	}
	p.values[string(r.Key)] = r.Value
}

func (t *Table) notifyLocked() {
	close(t.mu.changed)
	t.mu.changed = make(chan struct{})
	for w := range t.mu.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func (t *Table) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.err == nil {
		t.mu.err = err
	}
	t.notifyLocked()
}

// Err returns why the table can't be followed any more, nil while it is.
func (t *Table) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.err
}

// Get returns the value of a key in one partition. The value must not be
// changed.
func (t *Table) Get(part int32, key string) ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(part) >= len(t.mu.parts) {
		return nil, false
	}
	v, ok := t.mu.parts[part].values[key]
	return v, ok
}

// Range calls fn for every key of one partition that starts with prefix, in no
// order. fn must not call the table.
func (t *Table) Range(part int32, prefix string, fn func(key string, value []byte)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(part) >= len(t.mu.parts) {
		return
	}
	for k, v := range t.mu.parts[part].values {
		if strings.HasPrefix(k, prefix) {
			fn(k, v)
		}
	}
}

// kindOf returns the first two elements of a key.
func kindOf(key []byte) []byte {
	if i := bytes.IndexByte(key, '/'); i >= 0 {
		if j := bytes.IndexByte(key[i+1:], '/'); j >= 0 {
			return key[:i+1+j]
		}
	}
	return key
}

// Changes returns how many records of a kind, which is the first two elements
// of their keys, were read in one partition so far: while it stays the same, all
// of that kind stays as it was.
func (t *Table) Changes(part int32, kind string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(part) >= len(t.mu.parts) {
		return 0
	}
	return t.mu.parts[part].changes[kind]
}

// Lost reports whether records of a partition were deleted before they were
// read, and below which offset. What the table holds of such a partition is not
// the state: keys may be missing. It is known when RefreshPartition returned.
func (t *Table) Lost(part int32) (below int64, lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(part) >= len(t.mu.parts) {
		return 0, false
	}
	p := t.mu.parts[part]
	return p.lost, p.lost > 0
}

// Partitions returns how many partitions are followed, 0 while the topic does
// not exist.
func (t *Table) Partitions() int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int32(len(t.mu.parts))
}

// Watch returns a channel that receives after changes (several changes may be
// one signal), and a function that ends the watch.
func (t *Table) Watch() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.watchers[c] = struct{}{}
	return c, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.mu.watchers, c)
	}
}

// wait blocks until ok, called under the lock, reports true. It does not wait
// for what the cluster refuses to give.
func (t *Table) wait(ctx context.Context, ok func() bool) error {
	for {
		t.mu.Lock()
		done, err, changed := ok(), cmp.Or(t.mu.err, t.mu.refused), t.mu.changed
		t.mu.Unlock()
		switch {
		case done:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// WaitMarker waits until a transaction marker of the producer with at least
// the epoch was read in the partition, and returns its offset.
func (t *Table) WaitMarker(ctx context.Context, part int32, producerID int64, epoch int16) (int64, error) {
	var at int64
	err := t.wait(ctx, func() bool {
		if int(part) >= len(t.mu.parts) {
			return false
		}
		m, ok := t.mu.parts[part].markers[producerID]
		at = m.offset
		return ok && (m.epoch >= epoch || seeded.Bug("older-marker-taken"))
	})
	if err != nil {
		return 0, fmt.Errorf("wait for the fence of %s partition %d: %w", Topic, part, err)
	}
	return at, nil
}

// Overtaken reports whether a marker of a later epoch of the producer was read in
// the partition. As long as it reports false, the table holds nothing of the
// partition that was written under a later epoch that was fenced first.
func (t *Table) Overtaken(part int32, producerID int64, epoch int16) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(part) >= len(t.mu.parts) {
		return false
	}
	m, ok := t.mu.parts[part].markers[producerID]
	return ok && m.epoch > epoch
}

// passing reports whether a failed read may work when it is tried again, with
// nobody doing anything about it.
func passing(err error) bool {
	if code, ok := errors.AsType[*kerr.Error](err); ok {
		// Among them is OFFSET_NOT_AVAILABLE, which brokers answer while the
		// high watermark of a new leader lags (KIP-207).
		return code.Retriable
	}
	switch kclient.CauseOf(err) {
	case kclient.CauseRefused, kclient.CauseTimeout, kclient.CauseUnreachable, kclient.CauseUnknownHost:
		return true // a broker that is gone: its partitions get another leader
	case kclient.CauseTLS:
		// A broker that ends in the middle of a handshake looks the same as
		// one that was never spoken to correctly.
		return errors.Is(err, io.EOF)
	default:
		return kgo.IsRetryableBrokerErr(err)
	}
}

// The pauses between attempts, doubled from the first to the last.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// backoff is the pause before the next attempt. The zero value is the first.
type backoff struct{ next time.Duration }

// sleep returns the cause when ctx ends first.
func (b *backoff) sleep(ctx context.Context) error {
	d := max(b.next, firstPause)
	b.next = min(2*d, lastPause)
	return sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) error {
	tm := time.NewTimer(d)
	defer tm.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-tm.C:
		return nil
	}
}
