package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/seeded"
)

// errNotSent answers a shipment that never went on the wire.
var errNotSent = errors.New("not sent: the pipeline stopped or the lease is in doubt")

// Bounds of a target connection.
const (
	requestBytes      = 8 << 20
	requestPartitions = 512 // so that no answer fills the buffers of a connection that is being written to
	requestsFlying    = 4
	answerWithin      = produceTimeout + 10*time.Second
	idleWithin        = 4 * time.Minute // then the connection is closed; brokers do so after 10 (connections.max.idle.ms)
	dialWithin        = 10 * time.Second
	dialPatience      = time.Second
)

// shipment is one batch on its way through a sender. stop is shared by all
// shipments of one run of a pipeline: once it is set, what is not yet on the
// wire stays off it.
type shipment struct {
	out  outBatch
	stop *atomic.Bool
	done func(produceAnswer, error)
	then func() // called when all answers of one request were told
}

// flight is one request on the wire.
type flight struct {
	correlation int32
	version     int16
	now         []shipment
}

// Connections to one broker. It serves one request of a connection at a time, so
// batches that are large use several; with small ones that would only make more
// and emptier requests. Partitions that are behind have as many of their own.
const (
	lanes     = 3
	laneBytes = 128 << 10 // batches from here on leave the first lane
)

// laneOf is the lane for a batch of a partition. What a partition has on the
// wire is on one lane: its order is that of a connection.
func laneOf(id tp, bytes int) int {
	if bytes < laneBytes {
		return 0
	}
	return int(uint32(id.partition)+uint32(id.topicID[15])) % lanes
}

// board chooses the lane for what is ready, and reports whether it may be sent now:
// a partition that is behind, or is so no longer, first has what is on its way there
// arrive.
func (p *pipeline) board() bool {
	if len(p.flying) > 0 {
		return p.behind == (p.lane >= lanes)
	}
	p.lane = laneOf(p.id, len(p.ready[0].bytes))
	if p.behind {
		p.lane += lanes
	}
	return true
}

// sender writes to one broker over one connection. It puts the first batch of
// every waiting partition into a request and keeps a few requests under way.
// Batches of one partition leave in the order in which they came, and answers
// come in that of the requests.
//
// Two goroutines work for it. One connects, and writes when nothing is under
// way; the other reads answers, has them acted upon, and writes what that
// brought: under load a request costs no hand-over between goroutines.
type sender struct {
	node       int32
	connect    func(ctx context.Context, node int32) (*kclient.Conn, error)
	allowed    func() bool // the lease: asked right before each request
	onThrottle func(time.Duration)

	mu struct {
		sync.Mutex
		queue       []shipment
		conn        *kclient.Conn
		flights     []*flight
		correlation int32
		version     int16     // of Produce on this connection
		writing     bool      // somebody is in flush, and will look at the queue again
		telling     bool      // answers are being acted upon: the reader will flush
		notUntil    time.Time // the broker asked for a pause (KIP-219)
		closed      bool
		seen        map[tp]struct{} // memory of take
		spare       []*flight       // memory of those that landed
	}
	wake    chan struct{}
	frame   produceFrame // of who is writing
	batches []outBatch   // the same
	readers sync.WaitGroup
}

// topicNamed finds the id of a topic of a request.
func topicNamed(list []shipment, topic string) [16]byte {
	for _, sh := range list {
		if sh.out.topic == topic {
			return sh.out.topicID
		}
	}
	return [16]byte{}
}

// push appends shipments; it never blocks.
func (s *sender) push(sh ...shipment) {
	s.mu.Lock()
	s.mu.queue = append(s.mu.queue, sh...)
	flushed := s.mu.writing || s.mu.telling
	s.mu.Unlock()
	if !flushed {
		s.kick()
	}
}

func (s *sender) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take appends to now at most one shipment of each partition, in order. It is
// called under the lock.
func (s *sender) take(now []shipment) (taken, dropped []shipment) {
	all := s.mu.queue
	keep, size := all[:0], 0
	if s.mu.seen == nil {
		s.mu.seen = map[tp]struct{}{}
	}
	clear(s.mu.seen)
	for i, sh := range all {
		if sh.stop.Load() {
			dropped = append(dropped, sh)
			continue
		}
		if size >= requestBytes || len(now) == requestPartitions {
			keep = append(keep, all[i:]...)
			break
		}
		id := tp{sh.out.topicID, sh.out.partition}
		_, again := s.mu.seen[id]
		s.mu.seen[id] = struct{}{}
		if again || size > 0 && size+len(sh.out.bytes) > requestBytes {
			keep = append(keep, sh)
			continue
		}
		size += len(sh.out.bytes)
		now = append(now, sh)
	}
	clear(all[len(keep):])
	s.mu.queue = keep
	return now, dropped
}

// run connects and writes until ctx ends, and then answers what it holds with
// errNotSent. Requests that are on the wire end with their connection.
func (s *sender) run(ctx context.Context) {
	defer s.readers.Wait()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.mu.closed = true
			if s.mu.conn != nil {
				s.mu.conn.Close()
			}
			s.mu.Unlock()
			s.refuseAll(errNotSent)
			return
		case <-s.wake:
		case <-pause.C:
		}
		if s.unconnected() {
			s.dial(ctx)
		}
		s.flush()
		if d := s.paused(); d > 0 {
			pause.Reset(d)
		}
	}
}

// unconnected reports whether a connection is needed. One whose session ends
// soon is given up as soon as nothing is under way on it.
func (s *sender) unconnected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expiring() && len(s.mu.flights) == 0 {
		s.mu.conn.Close()
		s.mu.conn = nil
	}
	return s.mu.conn == nil && len(s.mu.queue) > 0
}

// expiring is called under the lock.
func (s *sender) expiring() bool {
	return s.mu.conn != nil && !s.mu.conn.Expires().IsZero() && time.Now().After(s.mu.conn.Expires())
}

func (s *sender) paused() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.notUntil.IsZero() {
		return 0
	}
	return max(time.Until(s.mu.notUntil), time.Millisecond)
}

// dial opens the connection. Where that fails or takes long, what waits is given
// back: its leader may be another broker by then.
func (s *sender) dial(ctx context.Context) {
	dialCtx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	var conn *kclient.Conn
	var err error
	var version int16
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if conn, err = s.connect(dialCtx, s.node); err == nil {
			if version, err = conn.Version(produceKey, oldestProduce, newestProduce); err != nil {
				conn.Close()
			}
		}
	}()
	patience := time.NewTicker(dialPatience)
	defer patience.Stop()
	for waiting := true; waiting; {
		select {
		case <-ended:
			waiting = false
		case <-patience.C:
			s.refuseAll(fmt.Errorf("%w: connecting to broker %d takes long", errNotSent, s.node))
		}
	}
	if err != nil {
		s.refuseAll(fmt.Errorf("%w: %w", errNotSent, err))
		return
	}
	s.mu.Lock()
	s.mu.conn, s.mu.version = conn, version
	err = conn.ReadWithin(idleWithin)
	s.mu.Unlock()
	s.readers.Go(func() { s.read(conn) })
	if err != nil {
		conn.Close() // the reader tells
	}
}

// refuseAll gives back what waits.
func (s *sender) refuseAll(err error) {
	s.mu.Lock()
	left := s.mu.queue
	s.mu.queue = nil
	s.mu.Unlock()
	refuse(left, err)
}

// flush writes requests while there is something to write and room for it.
func (s *sender) flush() {
	s.mu.Lock()
	busy := s.mu.writing && !seeded.Bug("two-writers")
	s.mu.writing = true
	s.mu.Unlock()
	if busy {
		return
	}
	for f, conn := s.next(); conn != nil; f, conn = s.next() {
		if f == nil { // all of it was refused
			continue
		}
		for _, sh := range f.now {
			s.batches = append(s.batches, sh.out)
		}
		parts := s.frame.encode(f.version, conn.ClientID(), f.correlation, s.batches)
		if err := conn.WriteParts(parts, answerWithin); err != nil {
			conn.Close() // the reader tells
		}
		clear(s.batches)
		s.batches = s.batches[:0]
	}
}

// next makes the next request. Without a connection there is nothing to do, or
// another writes.
func (s *sender) next() (*flight, *kclient.Conn) {
	s.mu.Lock()
	if s.mu.conn == nil || len(s.mu.queue) == 0 || len(s.mu.flights) >= requestsFlying || s.mu.closed || s.expiring() || s.pausing() {
		s.mu.writing = false
		s.mu.Unlock()
		return nil, nil
	}
	f := &flight{}
	if n := len(s.mu.spare); n > 0 {
		f, s.mu.spare = s.mu.spare[n-1], s.mu.spare[:n-1]
	}
	now, dropped := s.take(f.now)
	conn := s.mu.conn
	if len(now) > 0 && (s.allowed() || seeded.Bug("lease-not-asked")) {
		f.version, f.correlation, f.now = s.mu.version, s.mu.correlation, now
		s.mu.correlation = (s.mu.correlation + 1) & (1<<31 - 1)
		s.mu.flights = append(s.mu.flights, f)
	} else {
		f, dropped = nil, append(dropped, now...)
	}
	s.mu.Unlock()
	refuse(dropped, errNotSent)
	return f, conn
}

// pausing is called under the lock.
func (s *sender) pausing() bool {
	if s.mu.notUntil.IsZero() || time.Now().Before(s.mu.notUntil) {
		return !s.mu.notUntil.IsZero()
	}
	s.mu.notUntil = time.Time{}
	return false
}

// read takes answers from one connection until it ends.
func (s *sender) read(conn *kclient.Conn) {
	answers := map[tp]produceAnswer{}
	var buf []byte
	buffer := func(n int) []byte {
		if cap(buf) < n {
			buf = make([]byte, n)
		}
		return buf[:n]
	}
	for {
		frame, err := conn.ReadFrame(answerWithin, buffer)
		if err == nil {
			err = s.land(conn, frame, answers)
		}
		if err != nil {
			s.lost(conn, err)
			return
		}
		s.flush()
		s.mu.Lock()
		idle := len(s.mu.queue) > 0 && len(s.mu.flights) == 0 // a pause, or a session that ends: the other goroutine's business
		s.mu.Unlock()
		if idle {
			s.kick()
		}
	}
}

// land tells the answers of the oldest request. answers is memory for them.
func (s *sender) land(conn *kclient.Conn, frame []byte, answers map[tp]produceAnswer) error {
	s.mu.Lock()
	if len(s.mu.flights) == 0 {
		s.mu.Unlock()
		return errors.New("read from a broker: an answer to no request")
	}
	f := s.mu.flights[0]
	s.mu.Unlock()
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(f.version)
	if err := kclient.Decode(frame, f.correlation, resp); err != nil {
		return err
	}
	throttle := time.Duration(resp.ThrottleMillis) * time.Millisecond
	s.mu.Lock()
	s.mu.flights, s.mu.telling = s.mu.flights[1:], true
	within := idleWithin
	if len(s.mu.flights) > 0 {
		within = answerWithin
	}
	var err error
	if throttle > 0 {
		s.mu.notUntil = time.Now().Add(throttle)
		err = conn.Muted(throttle, answerWithin) // also a request that is being written, and those behind it
	}
	err = cmp.Or(err, conn.ReadWithin(within))
	s.mu.Unlock()
	if throttle > 0 {
		s.onThrottle(throttle)
	}
	clear(answers)
	answersOf(answers, resp, func(topic string) [16]byte { return topicNamed(f.now, topic) })
	tell(f.now, answers)
	clear(f.now)
	f.now = f.now[:0]
	s.mu.Lock()
	s.mu.telling = false
	s.mu.spare = append(s.mu.spare, f)
	s.mu.Unlock()
	return err
}

// tell gives each shipment its answer, and has all of them acted upon.
func tell(now []shipment, answers map[tp]produceAnswer) {
	for _, sh := range now {
		a, ok := answers[tp{sh.out.topicID, sh.out.partition}]
		if !ok {
			sh.done(produceAnswer{}, errors.New("the broker's answer lacks the partition"))
			continue
		}
		sh.done(a, nil)
	}
	for _, sh := range now {
		sh.then()
	}
}

// lost ends a connection: what was under way on it may have arrived.
func (s *sender) lost(conn *kclient.Conn, err error) {
	conn.Close()
	s.mu.Lock()
	var flights []*flight
	if s.mu.conn == conn {
		flights = s.mu.flights
		s.mu.conn, s.mu.flights = nil, nil
	}
	s.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) && len(flights) > 0 {
		err = fmt.Errorf("no answer within %v: %w", answerWithin, err)
	}
	if seeded.Bug("lost-connection-not-sent") {
		err = errNotSent
	}
	for _, f := range flights {
		refuse(f.now, err)
	}
	s.kick()
}

// refuse gives shipments back.
func refuse(list []shipment, err error) {
	for _, sh := range list {
		sh.done(produceAnswer{}, err)
	}
	for _, sh := range list {
		sh.then()
	}
}

// senders makes the senders of each broker, one a lane, as they are needed.
type senders struct {
	connect    func(ctx context.Context, node int32) (*kclient.Conn, error)
	allowed    func() bool
	onThrottle func(time.Duration)
	ctx        context.Context //nolint:containedctx // the group's life, ended by close
	cancel     context.CancelFunc
	wg         sync.WaitGroup

	mu struct {
		sync.Mutex
		byNode map[int32][]*sender
	}
}

func newSenders(connect func(context.Context, int32) (*kclient.Conn, error), allowed func() bool, onThrottle func(time.Duration)) *senders {
	s := &senders{connect: connect, allowed: allowed, onThrottle: onThrottle}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.byNode = map[int32][]*sender{}
	return s
}

// to returns the sender of one lane to a broker, which leads the partitions of
// what is pushed to it.
func (s *senders) to(node int32, lane int) *sender {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.mu.byNode[node]
	for len(list) <= lane {
		snd := &sender{node: node, connect: s.connect, allowed: s.allowed, onThrottle: s.onThrottle, wake: make(chan struct{}, 1)}
		list = append(list, snd)
		s.mu.byNode[node] = list
		s.wg.Go(func() { snd.run(s.ctx) })
	}
	return list[lane]
}

// close ends all senders. Requests that are on the wire end with their
// connections.
func (s *senders) close() {
	s.cancel()
	s.wg.Wait()
}
