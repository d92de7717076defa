package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/ktest"
)

// stay is an uninterrupted time of a producer on one cluster.
type stay struct {
	Native      string // of the history
	First, Last time.Time
}

// producer writes to the cluster that it is sent to, as an application does whose
// endpoint is a setting. An error ends its client; the next one goes where the
// setting says. A record is written once: one whose outcome is not known is not
// written again, so that its id stands for one append at most.
type producer struct {
	name     string
	topic    topic
	book     *ktest.Recorder
	rng      *rand.Rand
	every    time.Duration // between two bursts
	burst    int
	kcatPath string
	super    bool // it writes as a super user, past every fence

	mu struct {
		sync.Mutex
		home    *side
		moved   context.CancelFunc // of the client's life
		paused  bool
		idle    bool // it stands, because it is paused
		stays   []stay
		why     error         // of the last burst that failed
		longest time.Duration // without an acknowledgement
	}
	count int
}

// errWarned is the error of a kcat that ended well but had something to say.
var errWarned = errors.New("a warning")

// errMoved is why a client ends whose producer is sent elsewhere.
var errMoved = errors.New("sent to another cluster")

// send tells the producer where to write. It does not wait.
func (p *producer) send(to *side) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.home = to
	if p.mu.moved != nil {
		p.mu.moved()
	}
}

// hold stops the producer behind the burst that it writes, and waits for that.
func (p *producer) hold(ctx context.Context) error {
	for {
		p.mu.Lock()
		p.mu.paused = true
		idle := p.mu.idle
		p.mu.Unlock()
		if idle {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// resume lets it go on.
func (p *producer) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.paused, p.mu.idle = false, false
	// The time in which it was held is nobody's fault.
	if n := len(p.mu.stays); n > 0 {
		p.mu.stays[n-1].Last = time.Now()
	}
}

// held reports whether it is to stop.
func (p *producer) held() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.paused
}

// run writes until ctx ends.
func (p *producer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		life, cancel := context.WithCancelCause(ctx)
		p.mu.Lock()
		home, paused := p.mu.home, p.mu.paused
		p.mu.idle = paused
		p.mu.moved = func() { cancel(errMoved) }
		p.mu.Unlock()
		var err error
		if !paused {
			err = p.live(life, home)
		}
		cancel(nil)
		if err != nil {
			return fmt.Errorf("producer %s: %w", p.name, err)
		}
		_ = pause(ctx, 50*time.Millisecond) // the loop asks whether it was cut short
	}
	return nil
}

// live writes to one cluster until its life ends or a write fails. An error is
// one of the test itself.
func (p *producer) live(ctx context.Context, home *side) error {
	native := home.native()
	switch p.topic.way {
	case byKcat:
		return p.paced(ctx, func() (bool, error) { return p.byKcat(ctx, home, native) })
	case transactional:
		// A transaction that is left open is over soon.
		return p.withClient(ctx, home, native, p.transaction, kgo.TransactionalID(p.name), kgo.TransactionTimeout(10*time.Second))
	default:
		return p.withClient(ctx, home, native, p.produce)
	}
}

func (p *producer) paced(ctx context.Context, f func() (bool, error)) error {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for !p.held() {
		if ok, err := f(); !ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// withClient writes bursts with one client. It is closed as soon as the producer
// is sent elsewhere: what is under way has no known outcome then.
func (p *producer) withClient(ctx context.Context, home *side, native string, burst func(context.Context, *kgo.Client, string) (bool, error), opts ...kgo.Opt) error {
	opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(20*time.Second))
	connect := home.client
	if p.super {
		connect = home.superClient
	}
	cl, err := connect(opts...)
	if err != nil {
		return err
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { cl.Close(); close(closed) })
	defer func() {
		if stop() {
			cl.Close()
		} else {
			<-closed
		}
	}()
	return p.paced(ctx, func() (bool, error) { return burst(ctx, cl, native) })
}

// produce writes one burst, and waits for it.
func (p *producer) produce(ctx context.Context, cl *kgo.Client, native string) (bool, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed, broken error
	for range p.burst {
		wg.Add(1)
		// The end of the client ends it, not that of a context: then the callback
		// is called when nothing is under way any more.
		cl.Produce(context.WithoutCancel(ctx), p.next(), func(r *kgo.Record, err error) {
			defer wg.Done()
			e := p.note(native, outcome(err), r)
			mu.Lock()
			defer mu.Unlock()
			failed, broken = errors.Join(failed, err), errors.Join(broken, e)
		})
	}
	wg.Wait()
	return p.outcome(native, failed), broken
}

func outcome(err error) ktest.Outcome {
	if err != nil {
		return ktest.Indeterminate
	}
	return ktest.Acknowledged
}

// transaction writes one transaction; two of ten are aborted.
func (p *producer) transaction(ctx context.Context, cl *kgo.Client, native string) (bool, error) {
	if err := cl.BeginTransaction(); err != nil {
		return p.outcome(native, err), nil
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	var records []*kgo.Record
	for range p.burst {
		wg.Add(1)
		r := p.next()
		records = append(records, r)
		cl.Produce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	what, try := ktest.Acknowledged, kgo.TryCommit
	if failed != nil || p.rng.IntN(10) < 2 {
		what, try = ktest.Aborted, kgo.TryAbort
	}
	// Who is refused ends the transaction in order.
	end, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := errors.Join(failed, cl.EndTransaction(end, try))
	if err != nil {
		what = ktest.Indeterminate
	}
	var broken error
	for _, r := range records {
		broken = errors.Join(broken, p.note(native, what, r))
	}
	return p.outcome(native, err), broken
}

// byKcat has one process of kcat write a burst. It says nothing about single
// records, and nothing where all are written.
func (p *producer) byKcat(ctx context.Context, home *side, native string) (bool, error) {
	var in strings.Builder
	var records []*kgo.Record
	for range p.burst {
		r := p.next()
		r.Partition, r.Key, r.Headers, r.Timestamp, r.Offset = 0, nil, nil, time.Time{}, -1
		records = append(records, r)
		in.Write(r.Value)
		in.WriteByte('\n')
	}
	cmd := exec.CommandContext(ctx, p.kcatPath, append(home.kcatArgs(), "-P", "-q", "-t", p.topic.name, "-p", "0", //nolint:gosec // found in PATH
		"-X", "enable.idempotence=true", "-X", "message.timeout.ms=10000")...)
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		err = fmt.Errorf("kcat: %w: %s", cmp.Or(err, errWarned), tail(string(out), 500))
	}
	var broken error
	for _, r := range records {
		broken = errors.Join(broken, p.note(native, outcome(err), r))
	}
	return p.outcome(native, err), broken
}

// next makes a record. Its id is the beginning of its value, and ends with a
// number that rises with every record of the producer.
func (p *producer) next() *kgo.Record {
	id := fmt.Sprintf("%s/%d", p.name, p.count)
	p.count++
	r := &kgo.Record{
		Topic: p.topic.name, Partition: p.rng.Int32N(p.topic.partitions), Timestamp: time.UnixMilli(time.Now().UnixMilli()),
		Value: fmt.Appendf(nil, "ktest-id:%s;%s", id, strings.Repeat("x", p.rng.IntN(200))),
	}
	if p.rng.IntN(4) > 0 {
		r.Key = fmt.Appendf(nil, "customer-%d", p.rng.IntN(1000))
	}
	if p.rng.IntN(3) == 0 {
		r.Headers = []kgo.RecordHeader{{Key: "till", Value: []byte(p.name)}, {Key: "null"}}
	}
	return r
}

func (p *producer) note(native string, o ktest.Outcome, r *kgo.Record) error {
	rec := ktest.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		rec.Headers = append(rec.Headers, ktest.Header{Key: h.Key, Value: h.Value})
	}
	return p.book.Add(native, o, rec)
}

// outcome notes when a burst was acknowledged, and reports whether it was.
func (p *producer) outcome(native string, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.mu.why = err
		return false
	}
	now := time.Now()
	n := len(p.mu.stays)
	if n > 0 {
		p.mu.longest = max(p.mu.longest, now.Sub(p.mu.stays[n-1].Last))
	}
	if n == 0 || p.mu.stays[n-1].Native != native {
		p.mu.stays = append(p.mu.stays, stay{Native: native, First: now})
		n++
	}
	p.mu.stays[n-1].Last = now
	return true
}

// trouble is why a burst failed last, empty if none ever did.
func (p *producer) trouble() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.why == nil {
		return ""
	}
	return p.mu.why.Error()
}

// writing is the cluster that acknowledged last, and when.
func (p *producer) writing() (native string, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.mu.stays); n > 0 {
		return p.mu.stays[n-1].Native, p.mu.stays[n-1].Last
	}
	return "", time.Time{}
}

// takeLongest returns how long the producer was without an acknowledgement at
// most, since it was asked last. What lasts now counts.
func (p *producer) takeLongest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := p.mu.longest
	if n := len(p.mu.stays); n > 0 {
		longest = max(longest, time.Since(p.mu.stays[n-1].Last))
	}
	p.mu.longest = 0
	return longest
}

// stop is how long the producer could not write when it went over to the cluster
// where it is now.
func (p *producer) stop() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.mu.stays)
	if n < 2 {
		return 0
	}
	return p.mu.stays[n-1].First.Sub(p.mu.stays[n-2].Last)
}
