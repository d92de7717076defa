package replicate_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/mirror"
	"github.com/anabranch/anabranch/internal/replicate"
)

// own leaves the settings of the target's topics alone.
func own(o *mirror.Options) { o.Settings = dr.SettingsOwn }

// owning is start with a keeper of the topics that leaves settings alone.
func (p pair) owning(t *testing.T, name string, topics ...string) *worker {
	t.Helper()
	return startWorker(t, name, "w1", p.src, p.tgt, only(topics...), own)
}

// halted waits until partition 0 of a topic is halted for the given reason.
func (w *worker) halted(t *testing.T, topic string, code dr.HaltCode, reason ...string) dr.PartitionStatus {
	t.Helper()
	limit := time.Now().Add(time.Minute) // brokers share processors with other tests
	for {
		st := w.topicOf(topic)
		if len(st.Partitions) > 0 && st.Partitions[0].State == dr.PartitionHalted && st.Partitions[0].Code == code && st.Code == code {
			p := st.Partitions[0]
			for _, r := range reason {
				if !strings.Contains(p.Reason, r) {
					t.Errorf("%s: reason %q lacks %q", topic, p.Reason, r)
				}
			}
			if st.State != dr.TopicHalted && code != dr.HaltTargetDeleted || st.Reason == "" {
				t.Errorf("%s: state %s code %s reason %q of the topic", topic, st.State, st.Code, st.Reason)
			}
			t.Logf("%s: %s: %s", topic, code, p.Reason)
			return p
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: not halted with %s: %+v", topic, code, st)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// topicState waits for the state and the code of a whole topic.
func (w *worker) topicState(t *testing.T, topic string, state dr.TopicState, code dr.HaltCode) {
	t.Helper()
	limit := time.Now().Add(time.Minute) // brokers share processors with other tests
	for {
		st := w.topicOf(topic)
		if st.State == state && st.Code == code {
			if st.Reason == "" && state != dr.TopicRunning {
				t.Errorf("%s: %s without a reason", topic, state)
			}
			t.Logf("%s: %s %s: %s", topic, state, code, st.Reason)
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: not %s %s: %+v", topic, state, code, st)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// goesOn checks that another topic of the same replicator is still copied, and
// that the replicator is in the wanted state.
func (p pair) goesOn(t *testing.T, w *worker, topic string, state dr.ReplicatorState) {
	t.Helper()
	p.write(t, topic, records(0, 20))
	w.caughtUp(t, topic, 10*time.Second)
	p.identical(t, topic, topic)
	w.awaitState(t, state, 5*time.Second)
}

func (w *worker) decide(t *testing.T, topic string, action dr.ResolveAction, offsets map[int32]int64) dr.ResolveResult {
	t.Helper()
	r, err := w.Resolve(t.Context(), dr.Resolution{Topic: topic, Action: action, Offsets: offsets})
	if err != nil {
		t.Fatalf("resolve %s: %s: %v", topic, action, err)
	}
	if r.Applied != (action != dr.ResolveMatch) || len(r.Partitions) == 0 {
		t.Fatalf("resolve %s: %s: %+v", topic, action, r)
	}
	return r
}

// holds checks the values of partition 0 of a target topic.
func holds(t *testing.T, b ktest.Broker, topic string, want ...int) {
	t.Helper()
	var got, all []string
	for _, r := range read(t, b, topic, kgo.ReadUncommitted())[0] {
		got = append(got, string(r.Value))
	}
	for i := 0; i < len(want); i += 2 { // ranges: from, to (exclusive)
		for n := want[i]; n < want[i+1]; n++ {
			all = append(all, fmt.Sprintf("v%d", n))
		}
	}
	if !slices.Equal(got, all) {
		t.Errorf("%s holds %d records, want %d:\ngot  %v\nwant %v", topic, len(got), len(all), got, all)
	}
}

func deleteTopic(t *testing.T, b ktest.Broker, topic string) {
	t.Helper()
	if _, err := kadm.NewClient(client(t, b)).DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
}

func alter(t *testing.T, b ktest.Broker, topic, key, value string) {
	t.Helper()
	r, err := kadm.NewClient(client(t, b)).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, topic)
	if err == nil {
		_, err = r.On(topic, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func deleteRecords(t *testing.T, b ktest.Broker, topic string, below int64) {
	t.Helper()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, below, -1)
	r, err := kadm.NewClient(client(t, b)).DeleteRecords(t.Context(), offsets)
	if cmp.Or(err, r.Error()) != nil {
		t.Fatal(cmp.Or(err, r.Error()))
	}
}

// TestReal_TrapsOfTopics proves what happens when topics and records vanish or
// are refused.
func TestReal_TrapsOfTopics(t *testing.T) {
	t.Parallel() // most of it is waiting
	p := pair{
		src: ktest.RealCluster(t, ktest.Options{Properties: map[string]string{"message.max.bytes": "3000000"}}),
		tgt: ktest.RealCluster(t, ktest.Options{}),
	}
	t.Run("records deleted while paused", func(t *testing.T) {
		w := p.begin(t, "gap", "gap")
		if err := w.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.awaitState(t, dr.ReplicatorPaused, 5*time.Second)
		p.write(t, "gap", records(10, 50))
		deleteRecords(t, p.src, "gap", 30)
		if err := w.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := w.halted(t, "gap", dr.HaltRetention, "source offsets 10 to 29 (20 records")
		if st.ReplicatedOffset != 10 || st.SourceLogStartOffset != 30 || st.SourceEndOffset != 60 {
			t.Errorf("offsets %+v", st)
		}
		p.goesOn(t, w, "gap-ok", dr.ReplicatorDegraded)
		holds(t, p.tgt, "gap", 0, 10)
		w.decide(t, "gap", dr.ResolveContinue, nil)
		w.caughtUp(t, "gap", 10*time.Second)
		holds(t, p.tgt, "gap", 0, 10, 30, 60)
		w.awaitState(t, dr.ReplicatorRunning, 5*time.Second)
	})
	t.Run("records deleted before a late start", func(t *testing.T) {
		createTopic(t, p.src, "late", 1, nil)
		createTopic(t, p.tgt, "late", 1, nil)
		p.write(t, "late", records(0, 10))
		w := p.start(t, "late", []string{"late"}, func(o *replicate.Options) { o.Start, o.Lead = replicate.Start{Latest: true}, nil })
		w.stop()
		p.write(t, "late", records(10, 10))
		deleteRecords(t, p.src, "late", 15)
		w = p.start(t, "late", []string{"late"}, func(o *replicate.Options) { o.Start = replicate.Start{Latest: true} })
		w.halted(t, "late", dr.HaltRetention, "source offsets 10 to 14")
		w.decide(t, "late", dr.ResolveContinue, nil)
		w.caughtUp(t, "late", 10*time.Second)
		holds(t, p.tgt, "late", 15, 20)
	})
	t.Run("source topic deleted and re-created", func(t *testing.T) {
		w := p.begin(t, "src-gone", "src-gone")
		deleteTopic(t, p.src, "src-gone")
		w.topicState(t, "src-gone", dr.TopicSourceDeleted, "")
		p.goesOn(t, w, "src-gone-ok", dr.ReplicatorRunning)
		holds(t, p.tgt, "src-gone", 0, 10)
		createTopic(t, p.src, "src-gone", 1, nil)
		p.write(t, "src-gone", records(100, 10))
		w.halted(t, "src-gone", dr.HaltSourceRecreated, "re-created")
		p.goesOn(t, w, "src-gone-ok", dr.ReplicatorDegraded)
		holds(t, p.tgt, "src-gone", 0, 10)
		w.decide(t, "src-gone", dr.ResolveRestart, nil)
		w.caughtUp(t, "src-gone", 10*time.Second)
		holds(t, p.tgt, "src-gone", 0, 10, 100, 110)
		w.awaitState(t, dr.ReplicatorRunning, 5*time.Second)
		w.stop()
		w = p.start(t, "src-gone", []string{"src-gone", "src-gone-ok"})
		p.write(t, "src-gone", records(110, 5))
		w.caughtUp(t, "src-gone", 10*time.Second)
		holds(t, p.tgt, "src-gone", 0, 10, 100, 115)
	})
	t.Run("target topic deleted", func(t *testing.T) {
		w := p.begin(t, "tgt-gone", "tgt-gone")
		deleteTopic(t, p.tgt, "tgt-gone")
		p.write(t, "tgt-gone", records(10, 10))
		w.topicState(t, "tgt-gone", dr.TopicTargetDeleted, dr.HaltTargetDeleted)
		p.goesOn(t, w, "tgt-gone-ok", dr.ReplicatorDegraded)
		time.Sleep(2 * time.Second)
		d, err := kadm.NewClient(client(t, p.tgt)).ListTopics(t.Context(), "tgt-gone")
		if err != nil || d.Has("tgt-gone") {
			t.Errorf("the topic is there again: %v, %v", d, err)
		}
		w.decide(t, "tgt-gone", dr.ResolveRecreate, nil)
		w.caughtUp(t, "tgt-gone", 15*time.Second)
		holds(t, p.tgt, "tgt-gone", 0, 20)
		w.awaitState(t, dr.ReplicatorRunning, 5*time.Second)
	})
	t.Run("target topic re-created", func(t *testing.T) {
		w := p.begin(t, "tgt-new", "tgt-new")
		deleteTopic(t, p.tgt, "tgt-new")
		w.halted(t, "tgt-new", dr.HaltTargetDeleted) // one that is made again at once may never be seen as deleted
		createTopic(t, p.tgt, "tgt-new", 1, nil)
		p.write(t, "tgt-new", records(10, 10))
		w.halted(t, "tgt-new", dr.HaltTargetRecreated, "re-created")
		p.goesOn(t, w, "tgt-new-ok", dr.ReplicatorDegraded)
		holds(t, p.tgt, "tgt-new")
		w.decide(t, "tgt-new", dr.ResolveRecreate, nil)
		w.caughtUp(t, "tgt-new", 15*time.Second)
		holds(t, p.tgt, "tgt-new", 0, 20)
		w.awaitState(t, dr.ReplicatorRunning, 5*time.Second)
	})
	t.Run("record too large", func(t *testing.T) {
		createTopic(t, p.src, "large", 1, nil)
		createTopic(t, p.src, "large-ok", 1, nil)
		w := p.owning(t, "large", "large", "large-ok")
		p.write(t, "large", records(0, 5))
		w.caughtUp(t, "large", 20*time.Second)
		p.write(t, "large", []*kgo.Record{record(5), {Value: random(1_500_000, 9)}, record(7)}, kgo.ProducerBatchMaxBytes(2_500_000), kgo.MaxBufferedBytes(10<<20))
		st := w.halted(t, "large", dr.HaltTooLarge, "source offset 6", "max.message.bytes")
		if st.ReplicatedOffset != 6 {
			t.Errorf("replicated offset %d, want 6", st.ReplicatedOffset)
		}
		p.goesOn(t, w, "large-ok", dr.ReplicatorDegraded)
		alter(t, p.tgt, "large", "max.message.bytes", "2000000")
		w.decide(t, "large", dr.ResolveContinue, nil)
		w.caughtUp(t, "large", 10*time.Second)
		p.identical(t, "large", "large")
	})
	t.Run("null key to a compacted target", func(t *testing.T) {
		createTopic(t, p.src, "keyless", 1, nil)
		createTopic(t, p.src, "keyless-ok", 1, nil)
		createTopic(t, p.tgt, "keyless", 1, map[string]*string{"cleanup.policy": new("compact")})
		w := p.owning(t, "keyless", "keyless", "keyless-ok")
		p.write(t, "keyless", records(0, 5))
		w.caughtUp(t, "keyless", 20*time.Second)
		p.write(t, "keyless", []*kgo.Record{{Value: []byte("v5")}})
		st := w.halted(t, "keyless", dr.HaltRefused, "source offsets from 5 on", "key")
		if st.ReplicatedOffset != 5 {
			t.Errorf("replicated offset %d, want 5", st.ReplicatedOffset)
		}
		p.write(t, "keyless", records(6, 5))
		p.goesOn(t, w, "keyless-ok", dr.ReplicatorDegraded)
		holds(t, p.tgt, "keyless", 0, 5)
		w.decide(t, "keyless", dr.ResolveContinue, nil) // nothing was changed: halts again
		time.Sleep(time.Second)
		w.halted(t, "keyless", dr.HaltRefused, "source offsets from 5 on")
		w.decide(t, "keyless", dr.ResolveStartAt, map[int32]int64{0: 6})
		w.caughtUp(t, "keyless", 10*time.Second)
		holds(t, p.tgt, "keyless", 0, 5, 6, 11)
	})
	t.Run("timestamps in the future", func(t *testing.T) {
		createTopic(t, p.src, "future", 1, map[string]*string{"message.timestamp.after.max.ms": new("9223372036854775807")})
		createTopic(t, p.src, "future-ok", 1, nil)
		w := p.start(t, "future", []string{"future", "future-ok"})
		r := record(0)
		r.Timestamp = time.Now().Add(48 * time.Hour)
		p.write(t, "future", []*kgo.Record{r, record(1)})
		w.halted(t, "future", dr.HaltRefused, "source offsets from 0 on", "imestamp")
		p.goesOn(t, w, "future-ok", dr.ReplicatorDegraded)
		alter(t, p.tgt, "future", "message.timestamp.after.max.ms", "9223372036854775807")
		w.decide(t, "future", dr.ResolveContinue, nil)
		w.caughtUp(t, "future", 10*time.Second)
		p.identical(t, "future", "future")
	})
	t.Run("existing records", func(t *testing.T) {
		createTopic(t, p.src, "exists", 1, nil)
		createTopic(t, p.src, "exists-ok", 1, nil)
		createTopic(t, p.tgt, "exists", 1, nil)
		p.write(t, "exists", records(0, 100))
		have := read(t, p.src, "exists", kgo.ReadCommitted())[0]
		copies := make([]*kgo.Record, 40)
		for i := range copies {
			copies[i] = &kgo.Record{Key: have[i].Key, Value: have[i].Value, Headers: have[i].Headers, Timestamp: have[i].Timestamp}
		}
		produceAll(t, p.tgt, "exists", copies)
		w := p.start2(t, "exists", "exists", "exists-ok")
		w.halted(t, "exists", dr.HaltExisting, "source offset 0 ")
		p.goesOn(t, w, "exists-ok", dr.ReplicatorDegraded)
		w.stop() // the halt survives a restart
		w = p.start2(t, "exists", "exists", "exists-ok")
		w.halted(t, "exists", dr.HaltExisting, "source offset 0 ")
		holds(t, p.tgt, "exists", 0, 40)
		translates(t, w, "exists", map[int64]int64{0: -1, 20: -1, 99: -1, 100: 40}) // what is there already is in nobody's map
		m := w.decide(t, "exists", dr.ResolveMatch, nil)
		if m.Partitions[0].SourceOffset != 40 || m.Partitions[0].Matched != 40 || m.Partitions[0].Note != "" {
			t.Errorf("match proposes %+v", m.Partitions[0])
		}
		holds(t, p.tgt, "exists", 0, 40)
		w.decide(t, "exists", dr.ResolveStartAt, map[int32]int64{0: m.Partitions[0].SourceOffset})
		w.caughtUp(t, "exists", 10*time.Second)
		p.identical(t, "exists", "exists")
		translates(t, w, "exists", map[int64]int64{0: -1, 39: -1, 40: 40 + markers(t, p.tgt, "exists", 40)})
	})
	t.Run("only what is halted can be resolved", func(t *testing.T) {
		w := p.begin(t, "fine", "fine")
		for _, r := range []dr.Resolution{{Topic: "fine", Action: dr.ResolveContinue}, {Topic: "nope", Action: dr.ResolveContinue}} {
			if _, err := w.Resolve(t.Context(), r); err == nil || dr.CodeOf(err) != dr.CodeConflict && dr.CodeOf(err) != dr.CodeNotFound {
				t.Errorf("resolve %s: %v", r.Topic, err)
			}
		}
	})
}

// translates checks translations of positions of partition 0 into the target, -1
// where there must be none. The state has them a moment after the target.
func translates(t *testing.T, w *worker, topic string, want map[int64]int64) {
	t.Helper()
	var list []dr.OffsetQuery
	for offset := range want {
		list = append(list, dr.OffsetQuery{Topic: topic, Offset: offset})
	}
	var got []dr.OffsetAnswer
	limit := time.Now().Add(5 * time.Second)
	for ok := false; !ok; time.Sleep(50 * time.Millisecond) {
		var err error
		if got, err = w.TranslateOffsets(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		ok = !slices.ContainsFunc(got, func(a dr.OffsetAnswer) bool { return a.Translated != want[a.Offset] })
		if !ok && time.Now().After(limit) {
			t.Fatalf("translations of %s: %+v, want %v", topic, got, want)
		}
	}
}

// markers returns how many offsets lie between an offset of partition 0 and the
// next record.
func markers(t *testing.T, b ktest.Broker, topic string, from int64) int64 {
	t.Helper()
	for _, r := range read(t, b, topic, kgo.ReadUncommitted())[0] {
		if r.Offset >= from {
			return r.Offset - from
		}
	}
	t.Fatalf("%s has no record behind offset %d", topic, from)
	return 0
}

// start2 starts a worker and does not wait for a state.
func (p pair) start2(t *testing.T, name string, topics ...string) *worker {
	t.Helper()
	return startWorker(t, name, "w1", p.src, p.tgt, only(topics...))
}

// begin starts a replicator for a topic and another one, NAME-ok, and copies
// ten records of it.
func (p pair) begin(t *testing.T, name, topic string) *worker {
	t.Helper()
	createTopic(t, p.src, topic, 1, nil)
	createTopic(t, p.src, topic+"-ok", 1, nil)
	p.write(t, topic, records(0, 10))
	w := p.start(t, name, []string{topic, topic + "-ok"})
	w.caughtUp(t, topic, 10*time.Second)
	return w
}

// cut drops the log from the n-th last batch of records on.
func cut(n int) func([]byte) []byte {
	return func(log []byte) []byte {
		var starts []int
		for rest := log; len(rest) > 0; {
			entry, r, _, err := kbatch.Next(rest)
			if err != nil {
				break // the file is allocated ahead
			}
			if h, err := kbatch.ParseHeader(entry); err == nil && !h.IsControl() {
				starts = append(starts, len(log)-len(rest))
			}
			rest = r
		}
		return log[:starts[len(starts)-n]]
	}
}

// flip changes one bit of the payload of the batch that holds an offset.
func flip(t *testing.T, offset int64) func([]byte) []byte {
	return func(log []byte) []byte {
		found := false
		_, _, err := kbatch.Walk(log, offset, func(h kbatch.Header, entry []byte) bool {
			found = h.BaseOffset <= offset
			entry[len(entry)-1] ^= 1
			return false
		})
		if err != nil || !found {
			t.Fatalf("no batch holds offset %d: %v", offset, err)
		}
		return log
	}
}

// big is records that each fill a batch that is never merged.
func big(from, n int) []*kgo.Record {
	out := records(from, n)
	for i, r := range out {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "pad", Value: random(100_000, uint64(from+i))})
	}
	return out
}

// each writes records in batches of their own.
func (p pair) each(t *testing.T, topic string, recs []*kgo.Record) {
	t.Helper()
	cl := client(t, p.src, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0))
	for _, r := range recs {
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReal_TrapsOfLogs proves what happens when logs are damaged or lose their
// ends, and that restarts alone look like neither.
func TestReal_TrapsOfLogs(all *testing.T) { // workers outlive the subtests
	all.Parallel() // most of it is waiting
	t := all
	p := pair{src: ktest.RealCluster(t, ktest.Options{}), tgt: ktest.RealCluster(t, ktest.Options{})}
	topics := []string{"flip-big", "flip-small", "cut", "refilled", "tgt-cut", "tgt-refilled", "fine"}
	for _, topic := range topics {
		createTopic(t, p.src, topic, 1, nil)
		if strings.HasPrefix(topic, "tgt") { // batches that are not merged, so that the target can lose the last ones
			p.each(t, topic, big(0, 10))
			continue
		}
		p.each(t, topic, records(0, 10))
	}
	w := p.start(t, "logs", topics)
	for _, topic := range topics {
		w.caughtUp(t, topic, 10*time.Second)
	}
	t.Run("restarts of both clusters are no trap", func(t *testing.T) {
		for _, c := range []*ktest.Cluster{p.tgt, p.src} {
			rewrite(t, c, func(string) {})
			p.write(t, "fine", records(10, 10))
			for _, topic := range topics {
				w.caughtUp(t, topic, 20*time.Second)
			}
			p.identical(t, "fine", "fine")
		}
		p.write(t, "fine", records(30, 10)) // answers that are lost: the tail is read in another leader epoch
		w.caughtUp(t, "fine", 20*time.Second)
		w.stop()
		rewrite(t, p.tgt, func(string) {})
		w = p.start(all, "logs", topics)
		for _, topic := range topics {
			w.caughtUp(t, topic, 20*time.Second)
		}
		p.write(t, "fine", records(40, 10))
		w.caughtUp(t, "fine", 20*time.Second)
		p.identical(t, "fine", "fine")
	})
	t.Run("damaged and truncated source", func(t *testing.T) {
		w.stop() // so that nothing is copied before it is damaged
		p.each(t, "flip-big", big(10, 5))
		p.each(t, "flip-small", records(10, 5))
		rewrite(t, p.src, func(dir string) {
			swap(t, dir, "flip-big", flip(t, 12))
			swap(t, dir, "flip-small", flip(t, 12))
			swap(t, dir, "cut", cut(3))
			swap(t, dir, "refilled", cut(3))
		})
		p.each(t, "refilled", records(100, 10))
		w = p.start2(all, "logs", topics...)
		st := w.halted(t, "cut", dr.HaltSourceTruncated, "source offset")
		if st.ReplicatedOffset != 10 {
			t.Errorf("cut: replicated offset %d, want 10", st.ReplicatedOffset)
		}
		w.halted(t, "refilled", dr.HaltSourceTruncated, "truncated")
		for _, topic := range []string{"flip-big", "flip-small"} {
			if st := w.halted(t, topic, dr.HaltCorrupt, "12"); st.ReplicatedOffset != 12 {
				t.Errorf("%s: replicated offset %d, want 12", topic, st.ReplicatedOffset)
			}
			holds(t, p.tgt, topic, 0, 12)
		}
		p.goesOn(t, w, "fine", dr.ReplicatorDegraded)
		w.stop() // halts survive a restart
		w = p.start2(all, "logs", topics...)
		for topic, code := range map[string]dr.HaltCode{"cut": dr.HaltSourceTruncated, "refilled": dr.HaltSourceTruncated, "flip-big": dr.HaltCorrupt, "flip-small": dr.HaltCorrupt} {
			w.halted(t, topic, code)
		}
		if r := w.decide(t, "cut", dr.ResolveContinue, nil).Partitions[0]; r.SourceOffset != 7 || !strings.Contains(r.Note, "source offset 7, where the source's log was cut") {
			t.Errorf("cut: goes on at %+v, want 7, where it was cut", r)
		}
		p.each(t, "cut", records(200, 5))
		w.caughtUp(t, "cut", time.Minute)
		holds(t, p.tgt, "cut", 0, 10, 200, 205)
		w.decide(t, "refilled", dr.ResolveContinue, nil) // from where the log was cut
		w.caughtUp(t, "refilled", time.Minute)
		holds(t, p.tgt, "refilled", 0, 10, 100, 110)
		for _, topic := range []string{"cut", "refilled"} {
			if at, _ := w.cuts(t, p.tgt, topic); len(at) != 1 || at[0].At != 7 {
				t.Errorf("%s: cuts of the source %+v, want one at 7", topic, at)
			}
		}
		for _, topic := range []string{"flip-big", "flip-small"} {
			w.decide(t, topic, dr.ResolveStartAt, map[int32]int64{0: 13})
			w.caughtUp(t, topic, time.Minute)
			holds(t, p.tgt, topic, 0, 12, 13, 15)
		}
		w.awaitState(t, dr.ReplicatorRunning, time.Minute)
	})
	t.Run("truncated target", func(t *testing.T) {
		for _, running := range []string{"running", "stopped"} {
			if running == "stopped" {
				w.stop()
			}
			rewrite(t, p.tgt, func(dir string) {
				swap(t, dir, "tgt-cut", cut(3))
				swap(t, dir, "tgt-refilled", cut(3))
			})
			cutAt := map[string]int64{"tgt-cut": end(t, p.tgt, "tgt-cut"), "tgt-refilled": end(t, p.tgt, "tgt-refilled")}
			natives := make([]*kgo.Record, 8)
			for i := range natives {
				natives[i] = &kgo.Record{Value: []byte("native")}
			}
			produceAll(t, p.tgt, "tgt-refilled", natives)
			if running == "stopped" {
				w = p.start2(all, "logs", topics...)
			}
			for _, topic := range []string{"tgt-cut", "tgt-refilled"} {
				st := w.halted(t, topic, dr.HaltTargetTruncated, "target offset")
				if want := fmt.Sprintf("target offsets %d to ", cutAt[topic]); !strings.Contains(st.Reason, want) {
					t.Errorf("%s: %q, want the range from %q on", topic, st.Reason, want)
				}
			}
			p.goesOn(t, w, "fine", dr.ReplicatorDegraded)
			m := w.decide(t, "tgt-cut", dr.ResolveMatch, nil)
			if m.Partitions[0].SourceOffset != 7 {
				t.Errorf("match proposes %+v, want source offset 7", m.Partitions[0])
			}
			for _, topic := range []string{"tgt-cut", "tgt-refilled"} {
				w.decide(t, topic, dr.ResolveStartAt, map[int32]int64{0: 7})
				w.caughtUp(t, topic, time.Minute)
				if _, at := w.cuts(t, p.tgt, topic); len(at) == 0 || at[len(at)-1].At != cutAt[topic] {
					t.Errorf("%s: cuts of the target %+v, want the last at %d", topic, at, cutAt[topic])
				}
			}
			holds(t, p.tgt, "tgt-cut", 0, 10)
			var ours []string
			for _, r := range read(t, p.tgt, "tgt-refilled", kgo.ReadUncommitted())[0] {
				if string(r.Value) != "native" {
					ours = append(ours, string(r.Value))
				}
			}
			if len(ours) != 10 {
				t.Errorf("tgt-refilled holds %v of the source", ours)
			}
		}
	})
}

// asClient is a secured cluster, used as the user who may do only what ACLs say.
type asClient struct{ *ktest.Cluster }

func (c asClient) ClientOptions() []kgo.Opt {
	a := c.Auth()
	tlsConfig, err := a.TLSConfig()
	if err != nil {
		panic("bug: " + err.Error())
	}
	return []kgo.Opt{kgo.SeedBrokers(c.BootstrapServers()...), kgo.DialTLSConfig(tlsConfig), kgo.SASL(plain.Auth{User: a.ClientUser, Pass: a.ClientPassword}.AsMechanism())}
}
