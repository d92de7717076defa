package replicate

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
)

// TestFake_NothingIsWrittenWithoutTheLease: it is asked right before each request,
// and what may not be written is given back as not sent.
func TestFake_NothingIsWrittenWithoutTheLease(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	m, err := fetchMetadata(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	connect := func(ctx context.Context, node int32) (*kclient.Conn, error) {
		return kclient.Connect(ctx, kclient.Options{BootstrapServers: c.ListenAddrs()}, m.brokers[node])
	}
	var holds atomic.Bool
	holds.Store(true)
	all := newSenders(connect, holds.Load, func(time.Duration) {})
	t.Cleanup(all.close)
	var stop atomic.Bool
	for i, want := range []error{nil, errNotSent, nil} {
		holds.Store(want == nil)
		answered := make(chan error, 1)
		all.to(m.byName["t"].partitions[0].leader, 0).push(shipment{
			out: outBatch{topic: "t", topicID: m.byName["t"].id, bytes: kbatch.Builder{LeaderEpoch: -1}.Build(kbatch.Record{Timestamp: 1})}, stop: &stop,
			done: func(_ produceAnswer, err error) { answered <- err }, then: func() {},
		})
		if err := <-answered; !errors.Is(err, want) {
			t.Errorf("batch %d: %v, want %v", i, err, want)
		}
	}
	if end, err := listOffset(t.Context(), cl, "t", 0, -1); err != nil || end != 2 {
		t.Errorf("the log ends at %d, want 2: %v", end, err)
	}
}

// TestLease_LastsHalfASession: from the moment at which the request was sent that
// the group answered last.
func TestLease_LastsHalfASession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{}
		e.lease.start(6 * time.Second)
		at := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			if got := e.leaseHolds(); got != want {
				t.Errorf("%v after the start: the lease holds: %v, want %v", time.Since(e.lease.base), got, want)
			}
		}
		at(2900*time.Millisecond, true)
		const heartbeat = 12
		e.lease.OnBrokerE2E(kgo.BrokerMetadata{}, heartbeat, kgo.BrokerE2E{ReadWait: time.Second})
		at(1900*time.Millisecond, true)
		at(200*time.Millisecond, false)
	})
}

// TestSlot_TheBrokersMemoryCountsWhereTheTailIsGone: what retention took from the
// target was there, and the position is behind it. Where nothing is gone, the
// log alone counts: a leader also remembers what no replica had, and what its
// successor does not have. Where the leader moved, neither can be told.
func TestSlot_TheBrokersMemoryCountsWhereTheTailIsGone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		tail  fencedTail
		want  int64
		halts bool
	}{
		{"the beginning is gone", fencedTail{marker: 80, start: 75, holes: true}, 115, false},
		{"the log is whole", fencedTail{marker: 60}, 110, false},
		{"the log is whole and the leader moved", fencedTail{marker: 60, moved: true}, 110, false},
		{"something is gone and the leader moved", fencedTail{marker: 80, start: 75, holes: true, moved: true}, 110, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &slot{e: &Engine{o: Options{Name: "m"}, limits: newLimits(nil)}, log: slog.New(slog.DiscardHandler), ours: map[int64]struct{}{7: {}}}
			p := s.build(tp{[16]byte{1}, 0}, "t", "t", [16]byte{2}, 1<<20)
			ck := base()
			p.next, p.targetEnd = ck.Position, ck.TargetEnd
			s.witness = map[tp][]producerState{{p.targetID, 0}: {{id: 7, epoch: 3, lastSequence: 14}}}
			if err := s.readTail(t.Context(), p, &slotRecord{ck: ck, fenced: &tc.tail}); err != nil {
				t.Fatal(err)
			}
			if p.next != tc.want || (p.halt != nil) != tc.halts {
				t.Errorf("position %d, want %d; halt %v", p.next, tc.want, p.halt)
			}
		})
	}
}

// TestSlot_OldRecordsWaitForTheSessionOfWhoWasFenced: another take-over by the
// same worker, which needs no fence, does not end the wait, and neither does the
// death of the worker: its checkpoints are not quiescent before, so that the next
// owner fences and waits, too.
func TestSlot_OldRecordsWaitForTheSessionOfWhoWasFenced(t *testing.T) {
	t.Parallel()
	s := &slot{e: &Engine{o: Options{Name: "m"}, limits: newLimits(nil)}, log: slog.New(slog.DiscardHandler), primary: &producer{txn: "t", id: 7, epoch: 4}}
	p := s.build(tp{[16]byte{1}, 0}, "t", "t", [16]byte{2}, 1<<20)
	now := time.Now()
	p.now = func() time.Time { return now }
	p.oldFrom = now.Add(time.Second)
	if again := s.renew(p); !again.oldFrom.Equal(p.oldFrom) {
		t.Errorf("old records wait until %v, want %v", again.oldFrom, p.oldFrom)
	}
	for _, quiescent := range []bool{false, true} {
		p.wantQuiet = true
		if _, c := s.gather(p); c.ck == nil || c.ck.Quiescent != quiescent {
			t.Errorf("checkpoint %+v, want quiescent: %v", c.ck, quiescent)
		}
		now = p.oldFrom
	}
}

// TestGroupState_WritesNothingWithoutTheLease: a worker that stood still for long
// would write records over the newer ones of whoever leads now.
func TestGroupState_WritesNothingWithoutTheLease(t *testing.T) {
	t.Parallel()
	e := &Engine{}
	e.mu.cancels = map[int32]*ownedSlot{0: {}}
	e.lease.start(0)
	if err := e.TargetGroups().Write(t.Context(), map[string][]byte{prefixGroups + "r": []byte("x")}); !errors.Is(err, errLease) {
		t.Errorf("error %v, want %v", err, errLease)
	}
}

// TestRecordAccess_WritesNothingWithoutTheLease is the same for the records about
// access rules, the status of their keeper among them.
func TestRecordAccess_WritesNothingWithoutTheLease(t *testing.T) {
	t.Parallel()
	e := &Engine{}
	e.mu.cancels = map[int32]*ownedSlot{0: {}}
	e.lease.start(0)
	if err := e.RecordAccess(t.Context(), []AccessRecord{{Key: AccessStatusKey, Entry: []byte("{}")}}); !errors.Is(err, errLease) {
		t.Errorf("error %v, want %v", err, errLease)
	}
}

// TestLeadUntil_SaysWhenAnotherMayLead has a worker that leads, one that stood
// still, one that lost slot 0, and one that the group just said no to.
func TestLeadUntil_SaysWhenAnotherMayLead(t *testing.T) {
	t.Parallel()
	const session = time.Minute
	for name, c := range map[string]struct {
		slot     int32
		answered time.Duration // ago
		ends     time.Duration // the worker's time as the lead; 0: it does not end
		want     error
	}{
		"it leads":                      {0, 10 * time.Second, 0, nil},
		"it stood still":                {0, session / 2, 0, errLease},
		"it has another slot":           {1, 0, 0, errLease},
		"the group answered, with a no": {0, 0, time.Millisecond, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := &Engine{}
			e.mu.cancels = map[int32]*ownedSlot{c.slot: {}}
			e.lease.start(session)
			e.lease.at.Store(-int64(c.answered))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.ends > 0 {
				time.AfterFunc(c.ends, cancel)
			}
			until, err := e.LeadUntil(ctx)
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if left := time.Until(until); err == nil && (left > session-c.answered || left < session-c.answered-30*time.Second) {
				t.Errorf("surely leads for another %v", left)
			}
		})
	}
}
