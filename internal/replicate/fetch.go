package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/pace"
	"github.com/anabranch/anabranch/internal/seeded"
)

// Sizes of the fetch side, in bytes.
const (
	fetchPartitionBytes = 1 << 20   // asked for at once of one partition, about and at most, see ask
	fetchLeastBytes     = 256 << 10 // and at least
	fetchRequestBytes   = 4 << 20   // asked for at once of one broker, about
	fetchLargeBatch     = 128 << 10 // twice as much of a partition with batches from here on, see also lane
	partitionBuffer     = 4 << 20   // of one partition in memory: fetched and not yet acknowledged
)

// fetched is what one fetch brought for one partition. err says why there is
// nothing; it is one of the errors that the pipeline must know about, all
// others are retried by the fetcher.
type fetched struct {
	id        tp
	gen       uint64
	offset    int64 // that was asked for
	bytes     []byte
	mem       *memory // that bytes are a part of; whoever takes the bytes holds it
	aborted   []kmsg.FetchResponseTopicPartitionAbortedTransaction
	highWater int64
	logStart  int64
	diverged  int64 // with errDiverged: the end of what the log still holds
	behind    bool  // the source has much more of it, see fetcher.measure
	err       error
}

// errDiverged is in fetched.err when the source's log does not hold what was
// read before: it was truncated by an unclean election (DivergingEpoch of
// Fetch version 12).
var errDiverged = errors.New("the source log diverges from what was read before")

// fetchPart is one partition that is being fetched.
type fetchPart struct {
	id       tp
	topic    string
	gen      uint64
	next     int64 // offset of the next fetch
	epoch    int32 // leader epoch of the last batch read, -1: unknown
	known    int32 // leader epoch that the partition has reached
	batch    int   // bytes of the last batch read, 0: unknown
	wide     bool  // see fetchLanes
	buffered int64
	left     int64     // bytes that the source has of it to be read, about; -1: not known
	behind   bool      // much is left, see measure
	served   int64     // bytes that it got, and what others got while it needed none
	oldSince time.Time // since when the metadata name a leader that did not write what was read, see outdated
	asked    bool      // in a request that is under way
	parked   bool      // only its offsets are asked for, see park
	notUntil time.Time
	sink     func(fetched)
	then     func() // called when all of an answer was given to sinks
}

// fetchLanes is how many connections to a broker there are. One that brings what
// reaches the target in large batches is always waited for: while an answer is on
// its way the broker does nothing, and then all of it arrives at once. With
// batches of middling size the target is what takes long, and requests for fewer
// partitions would only be more.
const fetchLanes = 2

// lane is the connection for a partition. It changes once at most: whoever comes
// to a connection waits for the request that is under way there.
func (p *fetchPart) lane() int {
	if !p.wide {
		return 0
	}
	return int(uint32(p.id.partition)+uint32(p.id.topicID[15])) % fetchLanes
}

// unasked is how long a loop without partitions waits, unless it is woken.
const unasked = 10 * time.Second

// fetchLoop names a loop: a connection to a broker.
type fetchLoop struct {
	node int32
	lane int
}

// fetcher reads the source: one loop per connection with one request under way,
// shared by all slots. It keeps the bytes that are fetched and not released
// below the budget.
type fetcher struct {
	connect func(ctx context.Context, node int32) (*kclient.Conn, error)
	topo    *topology
	budget  int64
	log     *slog.Logger
	onRead  func(bytes int, throttle time.Duration)
	pool    memoryPool
	limit   *pace.Bucket   // nil: none
	share   func() float64 // of the limit

	mu struct {
		sync.Mutex
		parts    map[tp]*fetchPart
		behind   int   // of the parts
		clock    int64 // served of the one that needs it most, see allow
		memory   int64 // of the budget, that may be used now
		buffered int64
		coming   int64                       // asked for over the connections of those that are behind, at most
		loops    map[fetchLoop]chan struct{} // a send wakes the loop
	}
}

func newFetcher(connect func(context.Context, int32) (*kclient.Conn, error), topo *topology, budget int64, log *slog.Logger) *fetcher {
	f := &fetcher{connect: connect, topo: topo, budget: budget, log: log, onRead: func(int, time.Duration) {}}
	f.mu.parts = map[tp]*fetchPart{}
	f.mu.loops, f.mu.memory = map[fetchLoop]chan struct{}{}, budget
	return f
}

// start begins to fetch a partition at an offset; what comes is given to sink
// with gen, in order, and then is called when the sinks of an answer have all
// they get. epoch is the leader epoch of the record before offset, -1 if
// unknown; known is one that the partition has reached.
func (f *fetcher) start(id tp, topic string, gen uint64, offset int64, epoch, known int32, sink func(fetched), then func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &fetchPart{id: id, topic: topic, gen: gen, next: offset, epoch: epoch, known: known, left: -1, served: f.mu.clock, sink: sink, then: then}
	if old := f.mu.parts[id]; old != nil && old.gen == gen {
		p.buffered, p.batch, p.wide, p.behind = old.buffered, old.batch, old.wide, old.behind
	} else if old != nil {
		f.mu.buffered -= old.buffered
	}
	f.set(id, p)
	f.wakeLocked()
}

// stop ends the fetching of a partition. What was fetched counts no longer.
func (f *fetcher) stop(id tp) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.mu.parts[id]; p != nil {
		f.mu.buffered -= p.buffered
		f.set(id, nil)
		f.wakeLocked()
	}
}

// release gives back bytes of the budget.
func (f *fetcher) release(id tp, gen uint64, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.mu.parts[id]
	if p == nil || p.gen != gen {
		return
	}
	full := p.buffered >= partitionBuffer || f.roomFor(true) <= 0
	p.buffered -= n
	f.mu.buffered -= n
	if full {
		f.wakeLocked()
	}
}

func (f *fetcher) wakeLocked() {
	for at, c := range f.mu.loops {
		if at.lane >= fetchLanes && !f.mixed() {
			continue
		}
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// run starts the loops of every broker that leads partitions, until ctx ends.
func (f *fetcher) run(ctx context.Context, changed <-chan struct{}) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		if m := f.topo.meta(); m != nil {
			f.mu.Lock()
			for _, t := range m.byID {
				for _, p := range t.partitions {
					for at := (fetchLoop{node: p.leader}); p.leader >= 0 && at.lane < 2*fetchLanes; at.lane++ {
						if f.mu.loops[at] == nil {
							wake := make(chan struct{}, 1)
							f.mu.loops[at] = wake
							wg.Go(func() { f.loop(ctx, at, wake) })
						}
					}
				}
			}
			f.wakeLocked()
			f.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// loop fetches over one connection, which it opens when it has something to ask.
func (f *fetcher) loop(ctx context.Context, at fetchLoop, wake <-chan struct{}) {
	c := fetchConn{f: f, node: at.node}
	defer c.close()
	var failures int
	for rotate := 0; ctx.Err() == nil; rotate++ {
		a := f.request(ctx, at, rotate)
		if len(a.parts) == 0 {
			timer := time.NewTimer(a.wait)
			select {
			case <-ctx.Done():
			case <-wake:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		resp, mem, err := c.fetch(ctx, a.req)
		if err != nil {
			f.unask(a)
			if ctx.Err() != nil {
				return
			}
			failures++
			f.log.LogAttrs(ctx, slog.LevelDebug, "fetch", slog.Int("broker", int(at.node)), slog.String("error", err.Error()))
			f.topo.refresh()
			if sleep(ctx, min(time.Second, time.Duration(failures)*50*time.Millisecond)) != nil {
				return
			}
			continue
		}
		failures = 0
		for _, then := range f.deliver(resp, a, mem) {
			then()
		}
		mem.drop()
		if resp.ThrottleMillis > 0 { // KIP-219: the broker answers no sooner
			sleep(ctx, time.Duration(resp.ThrottleMillis)*time.Millisecond) //nolint:errcheck // the loop asks the context
		}
	}
}

// ready returns the partitions that one loop may ask for now, whether others had to
// be held back, and how long to wait when there are none. It is called under the
// lock.
func (f *fetcher) ready(ctx context.Context, m *clusterMeta, at fetchLoop, now time.Time) (ready []*fetchPart, held bool, wait time.Duration) {
	wait = unasked
	for _, p := range f.mu.parts {
		if p.asked || f.lane(p) != at.lane {
			continue
		}
		pm, ok := m.partition(p.id.topicID, p.id.partition)
		if !ok || pm.leader != at.node {
			continue
		}
		wait = 100 * time.Millisecond
		told := !p.oldSince.IsZero()
		if p.outdated(pm, now) {
			if !told {
				f.log.LogAttrs(ctx, slog.LevelWarn, "the leader that the source names is older than what was read: it is not asked", slog.String("topic", p.topic),
					slog.Int("partition", int(p.id.partition)), slog.Int("broker", int(pm.leader)), slog.Int("leader_epoch", int(pm.leaderEpoch)), slog.Int("read_epoch", int(max(p.epoch, p.known))))
			}
			f.topo.refresh()
			continue
		}
		full := p.buffered >= partitionBuffer || f.roomFor(p.behind) <= 0
		if now.Before(p.notUntil) || full && !p.parked {
			held = held || !p.parked
			continue
		}
		ready = append(ready, p)
	}
	return ready, held, wait
}

// request builds the next fetch of one loop.
func (f *fetcher) request(ctx context.Context, at fetchLoop, rotate int) asking {
	m, now := f.topo.meta(), time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.lane >= fetchLanes && !f.mixed() {
		return asking{wait: unasked}
	}
	ready, held, wait := f.ready(ctx, m, at, now)
	if len(ready) == 0 {
		return asking{wait: wait}
	}
	may := f.allow(ready, now)
	if may.wait > 0 {
		return asking{wait: may.wait}
	}
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes, req.IsolationLevel = 1, 1
	if seeded.Bug("uncommitted-copied") {
		req.IsolationLevel = 0
	}
	req.MaxWaitMillis = 100
	if len(ready) > 2000 {
		req.MaxWaitMillis = 500
	}
	if held { // a partition without room now may have some before others have data
		req.MaxWaitMillis = 5
	}
	req.SessionID, req.SessionEpoch = 0, -1
	asked := make(map[tp]*fetchPart, len(ready))
	topics := map[[16]byte]int{}
	most := int64(0)
	if may.limited { // they are in order
		rotate = 0
	}
	for i := range ready {
		p := ready[(i+rotate)%len(ready)] // a broker fills the answer in this order: rotate to be fair
		pm, _ := m.partition(p.id.topicID, p.id.partition)
		ti, ok := topics[p.id.topicID]
		if !ok {
			ti = len(req.Topics)
			topics[p.id.topicID] = ti
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic, rt.TopicID = p.topic, p.id.topicID
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p.id.partition, p.next, ask(p.batch, len(ready))
		if most < fetchRequestBytes { // it ends where a partition's part does
			most += int64(rp.PartitionMaxBytes)
		}
		rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = pm.leaderEpoch, p.epoch
		if seeded.Bug("truncation-ignored") {
			rp.LastFetchedEpoch = -1
		}
		if p.parked {
			rp.PartitionMaxBytes = 1
		}
		req.Topics[ti].Partitions = append(req.Topics[ti].Partitions, rp)
		asked[p.id], p.asked = p, true
	}
	most = min(most, max(1, f.roomFor(ready[0].behind)))
	a := asking{req: req, parts: asked}
	if may.limited {
		most = min(most, may.bytes)
	}
	if may.take {
		a.taken = most
		f.limit.Take(most)
	}
	if at.lane >= fetchLanes {
		a.coming = most
		f.mu.coming += most
	}
	req.MaxBytes = int32(most)
	return a
}

// ask returns how many bytes to ask for of one of several partitions, whose batches
// have about the given size, 0 if that is not known. All are to get a part of the
// answer: a target takes one batch of a partition at a time, so requests are small
// where few have any. And a broker cuts its answer at any byte, and what it cut
// off the last batch is sent and read for nothing: it is asked for some whole
// batches, and a little more.
func ask(batch, partitions int) int32 {
	about := min(max(fetchRequestBytes/partitions, fetchLeastBytes), fetchPartitionBytes)
	if batch == 0 {
		return int32(about)
	}
	if batch >= fetchLargeBatch {
		about *= 2
	}
	return int32(min(max(1, about/batch)*batch+batch/8, partitionBuffer))
}

func (f *fetcher) unask(a asking) {
	f.took(a, 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arrived(a)
}

// deliver hands the answer to the pipelines, in the order of the answer, and
// returns what is to be called after it.
func (f *fetcher) deliver(resp *kmsg.FetchResponse, a asking, mem *memory) (then []func()) {
	asked, came := a.parts, int64(0)
	defer func() { f.took(a, came) }()
	byName := map[string][16]byte{}
	for id, p := range asked {
		byName[p.topic] = id.topicID
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.arrived(a)
	if resp.ErrorCode != 0 { // of the whole request: sessions, topic ids
		f.topo.refresh()
		for _, p := range asked {
			p.notUntil = time.Now().Add(250 * time.Millisecond)
		}
		return nil
	}
	total := 0
	for i := range resp.Topics {
		t := &resp.Topics[i]
		id := t.TopicID
		if id == ([16]byte{}) {
			id = byName[t.Topic]
		}
		for j := range t.Partitions {
			rp := &t.Partitions[j]
			p := asked[tp{id, rp.Partition}]
			if p == nil || f.mu.parts[p.id] != p {
				continue
			}
			total += len(rp.RecordBatches)
			before := p.buffered
			told := f.deliverPart(p, rp, mem)
			if came += p.buffered - before; told {
				then = append(then, p.then)
			}
		}
	}
	f.onRead(total, time.Duration(resp.ThrottleMillis)*time.Millisecond)
	return then
}

// deliverPart takes one partition of an answer; called under the lock, sinks
// only append to a mailbox. It reports whether there was anything to give.
func (f *fetcher) deliverPart(p *fetchPart, rp *kmsg.FetchResponseTopicPartition, mem *memory) bool {
	out := fetched{id: p.id, gen: p.gen, offset: p.next, highWater: rp.HighWatermark, logStart: rp.LogStartOffset, aborted: rp.AbortedTransactions}
	err := kerr.ErrorForCode(rp.ErrorCode)
	switch {
	case err == nil && rp.DivergingEpoch.EndOffset >= 0:
		out.diverged = min(rp.DivergingEpoch.EndOffset, p.next)
		out.err = fmt.Errorf("%w: leader epoch %d ends at offset %d", errDiverged, rp.DivergingEpoch.Epoch, rp.DivergingEpoch.EndOffset)
	case err == nil && p.parked:
		p.notUntil = time.Now().Add(parkedEvery)
	case err == nil:
		sc := scan(rp.RecordBatches, p.next, p.epoch)
		if sc.bytes > 0 {
			out.bytes, out.mem, p.batch = rp.RecordBatches[:sc.bytes], mem.hold(), sc.batch
			if !p.wide && sc.wide() {
				p.wide = true
				f.wakeLocked()
			}
		}
		from := p.next
		p.next, p.epoch = sc.next, sc.epoch
		p.buffered += int64(sc.bytes)
		f.mu.buffered += int64(sc.bytes)
		end := rp.HighWatermark
		if rp.LastStableOffset >= 0 {
			end = min(end, rp.LastStableOffset)
		}
		f.measure(p, from, end, sc.bytes)
		out.behind = p.behind
	case errors.Is(err, kerr.OffsetOutOfRange), errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.CorruptMessage):
		out.err = err
		p.notUntil = time.Now().Add(5 * time.Second)
	default:
		// Not a leader any more, an epoch older or newer than ours, a topic
		// that is gone: the metadata will say. Storage errors and the like
		// pass, or show as lag.
		p.notUntil = time.Now().Add(100 * time.Millisecond)
		f.topo.refresh()
		return false
	}
	p.sink(out)
	return true
}
