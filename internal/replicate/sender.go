package replicate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// errNotSent answers a shipment that never went on the wire.
var errNotSent = errors.New("not sent: the pipeline stopped or the lease is in doubt")

// Bounds of one target connection.
const (
	requestBytes   = 8 << 20
	requestsFlying = 4
	connsPerBroker = 1 // a broker serves one request of a connection at a time; more connections make more and emptier requests
)

// shipment is one batch on its way through a sender. stop is shared by all
// shipments of one run of a pipeline: once it is set, what is not yet on the
// wire stays off it.
type shipment struct {
	out  outBatch
	stop *atomic.Bool
	done func(produceAnswer, error)
}

// sender writes to one broker over one connection. It puts the first batch of
// every waiting partition into a request and keeps a few requests under way.
// Batches of one partition leave in the order in which they came.
type sender struct {
	cl         *kgo.Client
	node       int32
	allowed    func() bool // the lease: asked right before each request
	onThrottle func(time.Duration)

	mu struct {
		sync.Mutex
		queue []shipment
	}
	wake chan struct{}
}

func newSender(cl *kgo.Client, node int32, allowed func() bool, onThrottle func(time.Duration)) *sender {
	return &sender{cl: cl, node: node, allowed: allowed, onThrottle: onThrottle, wake: make(chan struct{}, 1)}
}

// push appends shipments; it never blocks.
func (s *sender) push(sh ...shipment) {
	s.mu.Lock()
	s.mu.queue = append(s.mu.queue, sh...)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns at most one shipment of each partition, in order.
func (s *sender) take() (now []shipment, dropped []shipment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keep []shipment
	seen := map[tp]struct{}{}
	size := 0
	for i, sh := range s.mu.queue {
		if sh.stop.Load() {
			dropped = append(dropped, sh)
			continue
		}
		id := tp{sh.out.topicID, sh.out.partition}
		_, again := seen[id]
		if again || size > 0 && size+len(sh.out.bytes) > requestBytes {
			if size >= requestBytes {
				keep = append(keep, s.mu.queue[i:]...)
				break
			}
			seen[id] = struct{}{}
			keep = append(keep, sh)
			continue
		}
		seen[id] = struct{}{}
		size += len(sh.out.bytes)
		now = append(now, sh)
	}
	s.mu.queue = keep
	return now, dropped
}

// run sends until ctx ends, and then answers what it holds with errNotSent.
// Requests that are on the wire are answered before it returns.
func (s *sender) run(ctx context.Context) {
	slots := make(chan struct{}, requestsFlying)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			left := s.mu.queue
			s.mu.queue = nil
			s.mu.Unlock()
			refuse(left)
			return
		case <-s.wake:
		}
		for s.waiting() {
			// A place for a request comes first, then what goes into it: what
			// arrives meanwhile goes along, and requests are few and full.
			select {
			case <-ctx.Done():
			case slots <- struct{}{}:
			}
			if ctx.Err() != nil {
				break
			}
			now, dropped := s.take()
			refuse(dropped)
			if len(now) > 0 && !s.allowed() {
				refuse(now)
				now = nil
			}
			if len(now) == 0 {
				<-slots
				continue
			}
			wg.Add(1)
			s.send(ctx, now, func() { <-slots; wg.Done() })
		}
	}
}

// waiting reports whether anything is queued.
func (s *sender) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.queue) > 0
}

func refuse(list []shipment) {
	for _, sh := range list {
		sh.done(produceAnswer{}, errNotSent)
	}
}

// send puts one request on the wire. The context of a request under way is
// never cancelled: that would kill the connection under its neighbours.
func (s *sender) send(ctx context.Context, now []shipment, release func()) {
	batches := make([]outBatch, len(now))
	for i, sh := range now {
		batches[i] = sh.out
	}
	produce(context.WithoutCancel(ctx), s.cl, s.node, newProduce(batches), func(answers map[tp]produceAnswer, throttle time.Duration, err error) {
		release()
		if throttle > 0 {
			s.onThrottle(throttle)
		}
		for _, sh := range now {
			a, ok := answers[tp{sh.out.topicID, sh.out.partition}]
			switch {
			case err != nil:
				sh.done(produceAnswer{}, err)
			case !ok:
				sh.done(produceAnswer{}, errors.New("the broker's answer lacks the partition"))
			default:
				sh.done(a, nil)
			}
		}
	})
}

// senders makes one sender for each broker and connection as they are needed.
type senders struct {
	clients    []*kgo.Client
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

func newSenders(clients []*kgo.Client, allowed func() bool, onThrottle func(time.Duration)) *senders {
	s := &senders{clients: clients, allowed: allowed, onThrottle: onThrottle}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.byNode = map[int32][]*sender{}
	return s
}

// to returns the sender for a partition whose leader is node.
func (s *senders) to(node int32, id tp) *sender {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.mu.byNode[node]
	if list == nil {
		for _, cl := range s.clients {
			snd := newSender(cl, node, s.allowed, s.onThrottle)
			list = append(list, snd)
			s.wg.Go(func() { snd.run(s.ctx) })
		}
		s.mu.byNode[node] = list
	}
	return list[int(uint32(id.partition)+uint32(id.topicID[15]))%len(list)]
}

// close ends all senders. Requests that are on the wire end with their
// connections.
func (s *senders) close() {
	s.cancel()
	for _, cl := range s.clients {
		cl.Close()
	}
	s.wg.Wait()
}
