package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kprobe"
)

const (
	maxClockSkew = 5 * time.Second  // between any two clocks
	clocksKept   = 10 * time.Second // a gate asks many times
)

// clockReading is what one broker's clock said at a moment of this host's that
// lies between two others.
type clockReading struct {
	cluster          string
	broker           int32
	at               time.Time // the broker's
	earliest, latest time.Time // this host's
}

// apart is by how much the broker's clock is ahead of this host's, at least and at
// most.
func (r clockReading) apart() (least, most time.Duration) {
	return r.at.Sub(r.latest), r.at.Sub(r.earliest)
}

// surely is the smallest amount of a difference that lies between two: what is
// within the doubt counts as none.
func surely(least, most time.Duration) time.Duration { return max(least, -most, 0) }

// judgeClocks says which clocks differ for sure. It is pure.
func judgeClocks(list []clockReading) (ev []dr.Evidence, worst time.Duration) {
	limit := fmt.Sprintf("<= %v", maxClockSkew)
	for i, r := range list {
		least, most := r.apart()
		by := surely(least, most)
		worst = max(worst, by)
		why := ""
		if by > maxClockSkew {
			why = "ahead of the clock of this host"
			if most < 0 {
				why = "behind the clock of this host"
			}
		}
		subject := fmt.Sprintf("broker %d of %s", r.broker, r.cluster)
		ev = append(ev, evidence("clock", subject, by <= maxClockSkew, fmt.Sprintf("%v from this host's", by.Round(time.Millisecond)), limit, why))
		for _, o := range list[:i] {
			oleast, omost := o.apart()
			if by := surely(least-omost, most-oleast); by > maxClockSkew {
				worst = max(worst, by)
				ev = append(ev, evidence("clocks_apart", subject, false, by.Round(time.Millisecond).String(), limit, fmt.Sprintf("from the clock of broker %d of %s", o.broker, o.cluster)))
			}
		}
	}
	return ev, worst
}

// clockLook is a look at the clocks of one cluster that is kept for a while.
type clockLook struct {
	list []clockReading
	err  error
	at   time.Time
}

// clocks reads the clocks of the brokers of a cluster that lead a partition of a
// topic. The client library knows no request for a broker's time. But the marker
// that ends a transaction has the clock of the leader that writes it
// (KafkaApis.handleWriteTxnMarkersRequest, MemoryRecords.withEndTransactionMarker),
// whatever the topic's timestamp type is: so a transaction of one record in each
// partition is aborted, and its markers are read. Nobody ever reads its records.
func (m *moves) clocks(ctx context.Context, s *pairSide, topic string) ([]clockReading, error) {
	m.clockMu.Lock()
	defer m.clockMu.Unlock()
	key := s.name + " " + topic
	if l, ok := m.clockSeen[key]; ok && time.Since(l.at) < clocksKept {
		return l.list, l.err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	l := clockLook{at: time.Now()}
	l.list, l.err = m.readClocks(ctx, s, topic)
	if errors.Is(l.err, kerr.UnknownTopicOrPartition) {
		return nil, l.err // a drill makes the topic in a moment
	}
	if m.clockSeen == nil {
		m.clockSeen = map[string]clockLook{}
	}
	m.clockSeen[key] = l
	return l.list, l.err
}

func (m *moves) readClocks(ctx context.Context, s *pairSide, topic string) ([]clockReading, error) {
	leaders, err := s.leaders(ctx, topic)
	if err != nil {
		return nil, err
	}
	// A transactional id of the replicator's prefix, which it may write.
	cl, err := kclient.New(s.reach, append(writerOptions(), kgo.TransactionalID("anabranch-"+m.replicator(s)+"-clock"), kgo.TransactionTimeout(10*time.Second))...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		return nil, fmt.Errorf("begin a transaction: %w", err)
	}
	one := map[int32]bool{}
	var batch []*kgo.Record
	for p, leader := range leaders {
		if !one[leader] {
			one[leader] = true
			batch = append(batch, &kgo.Record{Topic: topic, Partition: int32(p), Value: []byte("clock")})
		}
	}
	err = cl.ProduceSync(ctx, batch...).FirstErr()
	earliest := m.pairs.o.Now()
	if err := errors.Join(err, cl.EndTransaction(ctx, kgo.TryAbort)); err != nil {
		return nil, fmt.Errorf("abort a transaction in topic %s: %w", topic, err)
	}
	parts := map[int32]kgo.Offset{}
	for _, r := range batch {
		parts[r.Partition] = kgo.NewOffset().At(r.Offset)
	}
	reader, err := kclient.New(s.reach, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: parts}), kgo.KeepControlRecords(),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	var out []clockReading
	for len(parts) > 0 {
		fs := reader.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("wait for the markers in topic %s: %w", topic, err)
		}
		for _, e := range fs.Errors() {
			if !kerr.IsRetriable(e.Err) {
				return nil, fmt.Errorf("read topic %s: %w", topic, e.Err)
			}
		}
		latest := m.pairs.o.Now()
		fs.EachRecord(func(r *kgo.Record) {
			if _, ok := parts[r.Partition]; ok && r.Attrs.IsControl() && r.ProducerID == batch[0].ProducerID {
				delete(parts, r.Partition)
				out = append(out, clockReading{cluster: s.name, broker: leaders[r.Partition], at: r.Timestamp, earliest: earliest, latest: latest})
			}
		})
	}
	return out, nil
}

// clockEvidence looks at the clocks of both clusters, in the topic of drills, which
// has a partition for each broker; before the first drill in the one in which
// brokers are tried, of one partition. A look that could not be made is told, with
// what mends it, and closes nothing. worst is -1 where nothing was measured.
func (m *moves) clockEvidence(ctx context.Context, sides ...*pairSide) (ev []dr.Evidence, worst float64) {
	var list []clockReading
	drill := "anabranch switchover " + m.name + " --drill"
	for _, s := range sides {
		one, err := m.clocks(ctx, s, dr.CanaryName(m.name))
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			if one, err = m.clocks(ctx, s, kprobe.Topic); err == nil {
				ev = append(ev, evidence("clocks", "cluster "+s.name, false, fmt.Sprintf("of %d broker only", len(one)), "", "a drill looks at all of them: "+drill))
			}
		}
		if err != nil {
			ev = append(ev, evidence("clocks", "cluster "+s.name, false, "not known", "", fmt.Sprintf("%v; a drill makes the topic for it: %s", err, drill)))
		}
		list = append(list, one...)
	}
	if len(list) == 0 {
		return ev, -1
	}
	more, by := judgeClocks(list)
	return append(ev, more...), by.Seconds()
}
