package assumptions

import (
	"slices"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestUncleanElections lets the two replicas of a partition get logs that differ:
// each leads alone for a while, and was not there while the other did. It proves
// what a leader answers to who knows the other log, and what it remembers of a
// producer that wrote to both.
func TestUncleanElections(t *testing.T) {
	for _, env := range []environment{
		{"kafka-3.9", ktest.Oldest, nil, false},
		{"kafka-4.4", ktest.Newest, nil, false},
		{"model-3.9", kmodel.Oldest, nil, true},
		{"model-4.4", kmodel.Newest, nil, true},
	} {
		t.Run(env.name, func(t *testing.T) {
			if env.model { // Real brokers are three a cluster: one cluster at a time.
				t.Parallel()
			}
			if env.version == ktest.Oldest && !env.model {
				ktest.Long(t) // what elections do has been the same since
			}
			divide(t, env).prove()
		})
	}
}

// divided is a topic of two replicas in a cluster of three brokers: the third one
// keeps the controllers a majority.
type divided struct {
	*scope
	topic string
	model *kmodel.Cluster // nil: it is real
}

func divide(t *testing.T, env environment) *divided {
	t.Helper()
	d := &divided{}
	var c cluster
	if env.model {
		m, err := kmodel.New(kmodel.Options{Version: env.version, Brokers: 3, Replicas: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		d.model, c = m, m
	} else {
		c = ktest.RealCluster(t, ktest.Options{Version: env.version, Brokers: 3})
	}
	d.scope = newBench(t, env, c).scope(t)
	d.topic = "divided"
	yes, one := "true", "1"
	d.eventually("the topic's creation", func() bool {
		_, err := d.adm.CreateTopic(d.ctx(), 1, 2, map[string]*string{"unclean.leader.election.enable": &yes, "min.insync.replicas": &one}, d.topic)
		return err == nil
	})
	return d
}

// The records of each call of appends are one second older than the next one's.
func (d *divided) prove() {
	t := d.t
	p, q := producer{pid: d.producerID()}, producer{pid: d.producerID()}
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	first, one := d.lead(-1)
	for i := range int32(3) {
		d.accepts("batch for both replicas", d.topic, 0, p.batchAt(i*2, 2, at.Add(time.Duration(i)*time.Second)))
	}
	lost := at.Add(3 * time.Second)
	second, two := d.elect(one, func() {
		d.accepts("batch for the first leader alone", d.topic, 0, p.batchAt(6, 2, lost))
		d.accepts("batch for the first leader alone", d.topic, 0, p.batchAt(8, 1, lost.Add(time.Second)))
	}, 6)
	if second == first {
		t.Fatalf("broker %d leads still", first)
	}
	t.Run("the-replica-that-lacks-the-end-leads", func(t *testing.T) {
		d.during(t).lacks(p, q, one, two, lost)
	})
	// The second leader has p's sequences 0 to 7 now, and one record of q at 8.
	third, three := d.elect(two, nil, 9)
	if third != first {
		t.Fatalf("broker %d leads, want %d", third, first)
	}
	t.Run("the-replica-that-has-another-end-leads", func(t *testing.T) {
		d.during(t).hasAnother(p, q, one, two, three, lost)
	})
	t.Run("the-other-one-follows-it", func(t *testing.T) {
		d := d.during(t)
		want := d.read(d.topic, 0, 0)
		fourth, _ := d.hand(three)
		if fourth != second {
			t.Fatalf("broker %d leads, want %d", fourth, second)
		}
		d.eventually("the high watermark", func() bool { return d.end(d.topic, 0) == want[len(want)-1].LastOffset()+1 })
		if got := d.read(d.topic, 0, 0); !slices.EqualFunc(got, want, func(a, b entry) bool { return a.Header == b.Header && string(a.raw) == string(b.raw) }) {
			t.Errorf("its log is %+v, want %+v", got, want)
		}
		d.knows(p, 9)
		d.refuses("the sequence after what only it had", d.topic, 0, p.batch(8, 2), kerr.OutOfOrderSequenceNumber)
	})
}

// lacks proves what a leader answers that lacks the offsets 6 to 8 and the
// sequences 6 to 8 of a producer.
func (d *divided) lacks(p, q producer, one, two int32, lost time.Time) {
	d.epochEnds("of the first leader", one, one, 6)
	d.epochEnds("its own", two, two, 6)
	d.epochEnds("of the future", two+5, -1, -1)
	d.stale(one, two)
	d.diverges("who read all of the first leader", 9, one, one, 6)
	d.agrees("who read what both have", 6, one)
	d.fetchFails("at an offset that is gone, without an epoch", 9, -1, -1, kerr.OffsetOutOfRange)
	d.listed("latest", -1, 6, two)
	d.listed("earliest", -2, 0, one)
	d.listed("the time of what is gone", lost.UnixMilli(), -1, -1)
	d.knows(p, 5)
	d.refuses("the sequence after what is gone", d.topic, 0, p.batch(9, 1), kerr.OutOfOrderSequenceNumber)
	d.refuses("the last sequence that is gone", d.topic, 0, p.batch(8, 1), kerr.OutOfOrderSequenceNumber)
	d.deduplicates("the last batch that both have", d.topic, 0, p.batch(4, 2), 4)
	// What was acknowledged at 6 and is gone is appended when it is sent again.
	d.accepts("the first batch that is gone", d.topic, 0, p.batchAt(6, 2, lost))
	d.accepts("any sequence of a producer that is not known", d.topic, 0, q.batch(40, 1))
	d.epochEnds("of the first leader, once there is more", one, one, 6)
	d.diverges("who read the first leader up to where this log ends", 9, one, one, 6)
	d.agrees("who read this log", 9, two)
	d.listed("the time of what was sent again", lost.UnixMilli(), 6, two)
}

// hasAnother proves what a leader answers whose log has other records than the
// one before it from offset 6 on.
func (d *divided) hasAnother(p, q producer, one, two, three int32, lost time.Time) {
	d.epochEnds("of the first leader", one, one, 9)
	// The epoch that is not in this log: the one before it.
	d.epochEnds("of the second leader", two, one, 9)
	d.epochEnds("its own", three, three, 9)
	d.stale(two, three)
	d.diverges("who read the second leader up to where this log ends", 9, two, one, 9)
	// The answer names an offset behind the reader's: nothing says from where on
	// the reader has other records.
	d.diverges("who read a part of the second leader", 8, two, one, 9)
	d.agrees("who read this log", 9, one)
	d.agrees("who read what both have", 6, one)
	d.listed("latest", -1, 9, three)
	d.listed("the time of what is back", lost.Add(time.Second).UnixMilli(), 8, one)
	if log := d.read(d.topic, 0, 6); len(log) != 2 || log[0].BaseOffset != 6 || log[0].LeaderEpoch != one || log[1].ProducerID != p.pid || log[1].LeaderEpoch != one {
		d.t.Errorf("from offset 6 on the log has %+v, want two batches of epoch %d", log, one)
	}
	d.knows(p, 8)
	if a, ok := d.described(d.topic, 0, q.pid); ok {
		d.t.Errorf("the producer that wrote to the other log alone is listed: %+v", a)
	}
	d.deduplicates("the last batch of this log", d.topic, 0, p.batch(8, 1), 8)
	d.accepts("the sequence after the last of this log", d.topic, 0, p.batch(9, 1))
	d.accepts("the sequence after the last of the other log, whose producer is not known", d.topic, 0, q.batch(41, 1))
}

// during is the same for a subtest.
func (d *divided) during(t *testing.T) *divided {
	s := *d.scope
	s.t = t
	return &divided{scope: &s, topic: d.topic, model: d.model}
}

func (d *divided) producerID() int64 {
	d.t.Helper()
	req, id := kmsg.NewPtrInitProducerIDRequest(), int64(-1)
	req.ProducerID, req.ProducerEpoch = -1, -1
	d.eventually("a producer id", func() bool {
		resp, err := req.RequestWith(d.ctx(), d.pinned)
		if err != nil || resp.ErrorCode != 0 {
			return false
		}
		id = resp.ProducerID
		return resp.ProducerEpoch == 0
	})
	return id
}

// lead waits for a leader of a newer epoch that serves all of its log, and asks
// that one from then on.
func (d *divided) lead(after int32) (node int, epoch int32) {
	d.t.Helper()
	d.connect()
	d.until("a leader", func(p kmsg.MetadataResponseTopicPartition) bool {
		d.node, epoch = int(p.Leader), p.LeaderEpoch
		if p.Leader <= 0 || epoch <= after {
			return false
		}
		o := d.list(-1, epoch)
		return o != nil && o.ErrorCode == 0
	})
	return d.node, epoch
}

// elect writes while only the leader is there, and has the other replica, whose
// log ends at an offset that both have or at one of its own, lead after it.
func (d *divided) elect(epoch int32, alone func(), end int64) (int, int32) {
	d.t.Helper()
	leader := d.node
	if d.model != nil {
		if alone != nil {
			alone()
			d.must(d.model.Unclean(d.topic, 0, end), "elect")
		} else {
			d.must(d.model.Relapse(d.topic, 0), "elect")
		}
		return d.lead(epoch)
	}
	other := d.follower(leader)
	if alone != nil {
		d.must(d.cluster.KillBroker(other-1), "kill the follower")
		d.until("the follower is out of sync", func(p kmsg.MetadataResponseTopicPartition) bool { return len(p.ISR) == 1 })
		d.connect()
		alone()
	}
	d.must(d.cluster.KillBroker(leader-1), "kill the leader")
	d.must(d.cluster.StartBroker(d.t.Context(), other-1), "start the other replica")
	return d.lead(epoch)
}

// hand starts the other replica, and has it lead once it has all of the log.
func (d *divided) hand(epoch int32) (int, int32) {
	d.t.Helper()
	if d.model != nil {
		d.must(d.model.MoveLeader(d.topic, 0), "move the leader")
		return d.lead(epoch)
	}
	leader := d.node
	d.must(d.cluster.StartBroker(d.t.Context(), d.follower(leader)-1), "start the follower")
	d.until("the follower is in sync", func(p kmsg.MetadataResponseTopicPartition) bool { return len(p.ISR) == 2 })
	d.must(d.cluster.StopBroker(leader-1), "stop the leader")
	return d.lead(epoch)
}

// until looks at the partition until it is as wanted. Brokers may need long to
// start and to elect.
func (d *divided) until(what string, as func(kmsg.MetadataResponseTopicPartition) bool) kmsg.MetadataResponseTopicPartition {
	d.t.Helper()
	var last kmsg.MetadataResponseTopicPartition
	for over := time.Now().Add(2 * time.Minute); time.Now().Before(over); time.Sleep(50 * time.Millisecond) {
		req, rt := kmsg.NewPtrMetadataRequest(), kmsg.NewMetadataRequestTopic()
		rt.Topic = &d.topic
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(d.ctx(), d.free)
		if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			continue
		}
		if last = resp.Topics[0].Partitions[0]; as(last) {
			return last
		}
	}
	d.t.Fatalf("%s: not within 2 minutes; the partition is %+v", what, last)
	return last
}

func (d *divided) follower(leader int) int {
	d.t.Helper()
	replicas := d.until("two replicas", func(p kmsg.MetadataResponseTopicPartition) bool { return len(p.Replicas) == 2 }).Replicas
	return int(replicas[1-slices.Index(replicas, int32(leader))])
}

// epochEnd asks where a leader epoch ends.
func (d *divided) epochEnd(epoch, current int32) kmsg.OffsetForLeaderEpochResponseTopicPartition {
	d.t.Helper()
	req, rt, rp := kmsg.NewPtrOffsetForLeaderEpochRequest(), kmsg.NewOffsetForLeaderEpochRequestTopic(), kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	req.ReplicaID, rp.LeaderEpoch, rp.CurrentLeaderEpoch = -1, epoch, current
	rt.Topic, rt.Partitions = d.topic, append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(d.ctx(), d.pinned.Broker(d.node))
	d.must(err, "ask where an epoch ends")
	return resp.Topics[0].Partitions[0]
}

func (d *divided) epochEnds(whose string, epoch, wantEpoch int32, wantEnd int64) {
	d.t.Helper()
	e := d.epochEnd(epoch, -1)
	if e.ErrorCode != 0 || e.LeaderEpoch != wantEpoch || e.EndOffset != wantEnd {
		d.t.Errorf("the end of epoch %d, %s: %d in epoch %d, %v, want %d in %d",
			epoch, whose, e.EndOffset, e.LeaderEpoch, kerr.ErrorForCode(e.ErrorCode), wantEnd, wantEpoch)
	}
}

// stale proves that every question of who knows an older leader, or one of the
// future, is refused.
func (d *divided) stale(before, now int32) {
	d.t.Helper()
	for current, want := range map[int32]*kerr.Error{before: kerr.FencedLeaderEpoch, now + 1: kerr.UnknownLeaderEpoch} {
		if e := d.epochEnd(before, current); e.ErrorCode != want.Code {
			d.t.Errorf("where an epoch ends, asked in epoch %d of %d: %v, want %v", current, now, kerr.ErrorForCode(e.ErrorCode), want)
		}
		if o := d.list(-1, current); o == nil || o.ErrorCode != want.Code {
			d.t.Errorf("the latest offset, asked in epoch %d of %d: %+v, want %v", current, now, o, want)
		}
		d.fetchFails("in an epoch that is not the leader's", 0, -1, current, want)
	}
}

func (d *divided) fetchAs(offset int64, last, current int32) kmsg.FetchResponseTopicPartition {
	d.t.Helper()
	req := d.fetchRequest(d.topic, 0, offset)
	rp := &req.Topics[0].Partitions[0]
	rp.LastFetchedEpoch, rp.CurrentLeaderEpoch = last, current
	return d.fetch(d.pinned, req)
}

func (d *divided) diverges(who string, offset int64, last, wantEpoch int32, wantEnd int64) {
	d.t.Helper()
	f := d.fetchAs(offset, last, -1)
	if f.ErrorCode != 0 || f.DivergingEpoch.Epoch != wantEpoch || f.DivergingEpoch.EndOffset != wantEnd || len(f.RecordBatches) != 0 {
		d.t.Errorf("%s: diverging %+v, %v, %d bytes, want the end %d of epoch %d",
			who, f.DivergingEpoch, kerr.ErrorForCode(f.ErrorCode), len(f.RecordBatches), wantEnd, wantEpoch)
	}
}

func (d *divided) agrees(who string, offset int64, last int32) {
	d.t.Helper()
	if f := d.fetchAs(offset, last, -1); f.ErrorCode != 0 || f.DivergingEpoch.EndOffset >= 0 {
		d.t.Errorf("%s: diverging %+v, %v", who, f.DivergingEpoch, kerr.ErrorForCode(f.ErrorCode))
	}
}

func (d *divided) fetchFails(what string, offset int64, last, current int32, want *kerr.Error) {
	d.t.Helper()
	if f := d.fetchAs(offset, last, current); f.ErrorCode != want.Code {
		d.t.Errorf("fetch %s: %v, want %v", what, kerr.ErrorForCode(f.ErrorCode), want)
	}
}

// list asks for the offset of a timestamp, nil if nobody answers.
func (d *divided) list(timestamp int64, current int32) *kmsg.ListOffsetsResponseTopicPartition {
	req, rt, rp := kmsg.NewPtrListOffsetsRequest(), kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	req.ReplicaID, rp.Timestamp, rp.CurrentLeaderEpoch = -1, timestamp, current
	rt.Topic, rt.Partitions = d.topic, append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(d.ctx(), d.pinned.Broker(d.node))
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil
	}
	return &resp.Topics[0].Partitions[0]
}

func (d *divided) listed(what string, timestamp, want int64, wantEpoch int32) {
	d.t.Helper()
	o := d.list(timestamp, -1)
	if o == nil || o.ErrorCode != 0 || o.Offset != want || o.LeaderEpoch != wantEpoch {
		d.t.Errorf("offset of %s: %+v, want %d in epoch %d", what, o, want, wantEpoch)
	}
}

// knows demands what the leader says of a producer of epoch 0.
func (d *divided) knows(p producer, lastSequence int32) {
	d.t.Helper()
	a, ok := d.described(d.topic, 0, p.pid)
	if !ok || a.ProducerEpoch != 0 || a.LastSequence != lastSequence || a.CurrentTxnStartOffset != -1 {
		d.t.Errorf("the producer is listed: %v, %+v, want last sequence %d", ok, a, lastSequence)
	}
}
