package ktest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Trial compares what readers see on both sides of a pair of real clusters,
// called a and b, with what was written on either. Its methods may be called from
// any goroutine; the fields do not change meanwhile.
type Trial struct {
	Sides     map[string]*Cluster
	Recorder  *Recorder
	Compacted map[string]bool // by topic

	mu struct {
		sync.Mutex
		doubted map[string]int           // records by side and topic, see Doubt
		removed map[string]map[View]*Log // by topic, see Remember
		past    map[string]past          // by topic, see Renew
	}
}

// past is what is known of a topic before a log of it began anew.
type past struct {
	written int              // records of all topics that the recorder had by then
	settled []Produced       // those of the topic, with the outcomes that the logs told
	shift   map[string]int64 // by side: what the offsets of later records are counted from
}

// incarnation is the distance of offsets that are counted apart, since the log
// that gave them began anew. No log of a test is that long.
const incarnation = 1 << 40

// Renew settles what was written to a topic so far, once and for all: its logs on
// the given sides are about to lose what they hold, or the end of it, and can't
// be asked later. What is written on these sides from now on counts as written
// later, although its offsets may be lower. Nobody may write to the topic
// meanwhile.
func (t *Trial) Renew(ctx context.Context, topic string, sides ...string) error {
	h, _, err := t.Look(ctx, topic)
	if err != nil {
		return err
	}
	now := past{written: len(t.Recorder.History().Produced), shift: map[string]int64{}}
	for _, p := range h.Produced {
		if p.Record.Topic == topic {
			now.settled = append(now.settled, p)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.Copy(now.shift, t.mu.past[topic].shift)
	for _, side := range sides {
		now.shift[side] += incarnation
	}
	if t.mu.past == nil {
		t.mu.past = map[string]past{}
	}
	t.mu.past[topic] = now
	return nil
}

// History is what was written so far.
func (t *Trial) History() History {
	h := t.Recorder.History()
	h.Compacted = maps.Clone(t.Compacted)
	t.mu.Lock()
	defer t.mu.Unlock()
	h.Produced = continued(h.Produced, t.mu.past)
	return h
}

// continued puts what was settled of topics before the records that were written
// to them since.
func continued(produced []Produced, by map[string]past) []Produced {
	if len(by) == 0 {
		return produced
	}
	var out []Produced
	for _, topic := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[topic].settled...)
	}
	for i, p := range produced {
		if old, ok := by[p.Record.Topic]; ok {
			if i < old.written {
				continue
			}
			if p.Record.Offset >= 0 {
				p.Record.Offset += old.shift[p.Cluster]
			}
		}
		out = append(out, p)
	}
	return out
}

// BrokerLog returns the logs of all brokers of a side.
func (t *Trial) BrokerLog(side string) ([]byte, error) {
	var out []byte
	for i := range t.Sides[side].Brokers() {
		text, err := os.ReadFile(t.Sides[side].LogFile(i))
		if err != nil {
			return nil, fmt.Errorf("read the log of broker %d of %s: %w", i, side, err)
		}
		out = append(out, text...)
	}
	return out, nil
}

// Unreadable returns the first line in which a broker of a side says that a
// request was not well-formed, empty if there is none.
func (t *Trial) Unreadable(side string) (string, error) {
	text, err := t.BrokerLog(side)
	return string(unreadable.Find(text)), err
}

var unreadable = regexp.MustCompile(`(?m)^.*InvalidRequestException: .*$`)

// Doubted returns by side and topic how many records count as the native readers
// see them, because a broker left out the markers of their transactions.
func (t *Trial) Doubted() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.mu.doubted)
}

// Remember reads what all readers see of a topic on one side now. Records that
// are removed from the beginning of its partitions afterwards count as read.
func (t *Trial) Remember(ctx context.Context, side, topic string) error {
	for _, v := range Views() {
		if v.Side != side {
			continue
		}
		log, err := Read(ctx, t.Sides[side], topic, v.Reader)
		if err != nil {
			return err
		}
		t.mu.Lock()
		if t.mu.removed == nil {
			t.mu.removed = map[string]map[View]*Log{}
		}
		if t.mu.removed[topic] == nil {
			t.mu.removed[topic] = map[View]*Log{}
		}
		log.prepend(t.mu.removed[topic][v])
		t.mu.removed[topic][v] = log
		t.mu.Unlock()
	}
	return nil
}

// prepend puts what an earlier reader saw before the beginning of each partition.
func (l *Log) prepend(old *Log) {
	if old == nil {
		return
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		at := slices.IndexFunc(old.Partitions, func(o PartitionLog) bool { return o.Partition == p.Partition })
		if at < 0 {
			continue
		}
		o := old.Partitions[at]
		start := p.Start
		p.Records = slices.Concat(below(o.Records, start, func(r Record) int64 { return r.Offset }), p.Records)
		p.Controls = slices.Concat(below(o.Controls, start, func(c Control) int64 { return c.Offset }), p.Controls)
		p.Start = min(p.Start, o.Start)
	}
}

// below returns the elements whose offset is lower than end.
func below[T any](list []T, end int64, offset func(T) int64) []T {
	n := 0
	for n < len(list) && offset(list[n]) < end {
		n++
	}
	return list[:n:n]
}

// Look reads a topic on both sides, and lets each side's own log settle what its
// writers do not know.
func (t *Trial) Look(ctx context.Context, topic string) (History, map[View]*Log, error) {
	logs, err := t.each(ctx, func(ctx context.Context, v View) (*Log, error) { return Read(ctx, t.Sides[v.Side], topic, v.Reader) })
	if err != nil {
		return History{}, nil, err
	}
	t.mu.Lock()
	for v, log := range logs {
		log.prepend(t.mu.removed[topic][v])
	}
	t.mu.Unlock()
	h := t.History()
	for side := range t.Sides {
		text, err := t.BrokerLog(side)
		if err != nil {
			return h, nil, err
		}
		committed := logs[View{side, ReadCommitted}]
		left, n := Doubt(h, side, committed, Unmarked(text), loadID)
		h = left.Settle(side, committed, logs[View{side, ReadUncommitted}])
		t.mu.Lock()
		if t.mu.doubted == nil {
			t.mu.doubted = map[string]int{}
		}
		t.mu.doubted[side+" "+topic] = n
		t.mu.Unlock()
	}
	return h, logs, nil
}

// each reads all views at once.
func (t *Trial) each(ctx context.Context, read func(context.Context, View) (*Log, error)) (map[View]*Log, error) {
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	logs := map[View]*Log{}
	for _, v := range Views() {
		g.Go(func() error {
			log, err := read(ctx, v)
			if err != nil {
				return fmt.Errorf("side %s: %w", v.Side, err)
			}
			mu.Lock()
			defer mu.Unlock()
			logs[v] = log
			return nil
		})
	}
	return logs, g.Wait()
}

// Settled looks at a topic until all has arrived, done agrees (nil: always), and
// nothing moves any more. After the patience it returns what it saw last, and an
// error that says what is missing.
func (t *Trial) Settled(ctx context.Context, topic string, patience time.Duration, done func(map[View]*Log) bool) (History, map[View]*Log, error) {
	limit := time.Now().Add(patience)
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	for {
		h, logs, err := t.Look(ctx, topic)
		if err != nil {
			return h, nil, err
		}
		pause.Reset(time.Second)
		select {
		case <-ctx.Done():
			return History{}, nil, context.Cause(ctx)
		case <-pause.C:
		}
		// Where a log ends a moment later says whether it moves; it need not be read
		// again for that.
		later, err := t.each(ctx, func(ctx context.Context, v View) (*Log, error) { return Ends(ctx, t.Sides[v.Side], topic, v.Reader) })
		if err != nil {
			return h, nil, err
		}
		missing, moves := 0, 0
		for _, v := range Views() {
			moves += len(CheckStill(logs[v], later[v]))
			for _, x := range CheckSet(h, v.Side, logs[v]) {
				if x.Kind == Lost {
					missing++
				}
			}
		}
		ok := done == nil || done(logs)
		if missing == 0 && moves == 0 && ok {
			return h, logs, nil
		}
		if time.Now().After(limit) {
			return h, logs, fmt.Errorf("%s: not settled: %d records are missing, %d ends move, what else is awaited is there: %v", topic, missing, moves, ok)
		}
	}
}

// Unmarked finds in a broker's log the transactions whose markers it left out:
// while it registers after a restart it takes partitions without a leader for
// deleted (TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue), and notes
// the transaction as complete. Its records stay open in these partitions until the
// next marker of that producer, and share the outcome of the next transaction,
// whatever its own was. It counts by transactional id.
func Unmarked(brokerLog []byte) map[string]int {
	out := map[string]int{}
	for _, m := range unmarkedLine.FindAllSubmatch(brokerLog, -1) {
		out[string(m[1])]++
	}
	return out
}

var unmarkedLine = regexp.MustCompile(`Couldn't find leader endpoint for partitions Set\([^)]*\) while trying to send transaction markers for (\S+), these`)

// maxTransaction is how many records a transaction of a load, or of another writer
// of a test, has at most.
const maxTransaction = 20

// loadID is how a load names the transactions of a writer to a topic.
func loadID(writer, topic string) string { return writer + "-" + topic }

// Doubt takes back what the writers of a side were told about transactions whose
// markers the broker left out, where that broker's own readers see otherwise:
// then its log decides. It takes back no more records than these transactions can
// have, and returns how many. A replicator can't be to blame: only markers of the
// writer's own producer id end its transactions. idOf returns the transactional id
// of a writer.
func Doubt(h History, side string, committed *Log, unmarked map[string]int, idOf func(writer, topic string) string) (History, int) {
	seen := map[string]bool{}
	for _, r := range committed.Records() {
		seen[IDOf(r)] = true
	}
	wrong := map[string][]int{} // by transactional id
	for i, p := range h.Produced {
		told := p.Outcome == Acknowledged
		if p.Record.Topic != committed.Topic || p.Cluster != side || p.Outcome == Indeterminate || told == seen[p.ID] {
			continue
		}
		writer, _, _ := strings.Cut(p.ID, "/")
		id := idOf(writer, p.Record.Topic)
		wrong[id] = append(wrong[id], i)
	}
	h.Produced = slices.Clone(h.Produced)
	n := 0
	for id, list := range wrong {
		if len(list) > maxTransaction*unmarked[id] {
			continue
		}
		for _, i := range list {
			h.Produced[i].Outcome, h.Produced[i].Record.Offset = Indeterminate, -1
			n++
		}
	}
	return h, n
}
