package app

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/verify"
)

// TestReal_Verify compares copies of every kind of log between the oldest and the
// newest Kafka, both ways at once, and then logs into which mistakes were put on the
// disk of the target.
func TestReal_Verify(t *testing.T) {
	t.Parallel() // most of it is waiting
	cleaner := map[string]string{"log.cleaner.backoff.ms": "100"}
	east := ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest, Properties: cleaner})
	west := ktest.RealCluster(t, ktest.Options{Version: ktest.Newest, Properties: cleaner})
	text, file := bothWays(t, east, west)
	w := &verified{t: t, east: kafka(t, east), west: kafka(t, west)}
	w.topics()
	stop := w.run(text)
	w.fill()
	w.equal(file)
	stop()
	// What was stopped is compared as well.
	w.equal(file)
	w.mistakes(west, file)
}

type verified struct {
	t          *testing.T
	east, west *kgo.Client
}

func kafka(t *testing.T, b ktest.Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(b.ClientOptions(), append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(100*time.Millisecond))...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// codecTopics are topics of one codec each.
var codecTopics = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func (w *verified) topics() {
	w.t.Helper()
	create := func(name string, parts int32, settings map[string]string) {
		configs := map[string]*string{}
		for k, v := range settings {
			configs[k] = &v
		}
		if r, err := kadm.NewClient(w.east).CreateTopic(w.t.Context(), parts, 1, configs, name); err != nil || r.Err != nil {
			w.t.Fatal(err, r.Err)
		}
	}
	for name := range codecTopics {
		create(name, 2, nil)
	}
	create("transactions", 1, nil)
	create("trimmed", 1, nil)
	create("both", 2, nil)
	create("append-time", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	create("compacted", 1, map[string]string{"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "100"})
	create("edited", 1, nil)
}

// run starts a worker and waits until both directions have all topics.
func (w *verified) run(text string) (stop func()) {
	log := &logBuffer{}
	a := build(w.t, log, text)
	if _, err := a.Listen(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	ended := false
	stop = func() {
		if cancel(); !ended {
			ended = true
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		}
		if w.t.Failed() {
			w.t.Logf("log:\n%s", log)
		}
	}
	w.t.Cleanup(stop)
	for _, r := range a.replicators {
		eventually(w.t, func() error {
			running := 0
			st := r.status()
			for _, topic := range st.Topics {
				if topic.State == dr.TopicRunning {
					running++
				}
			}
			if st.State != dr.ReplicatorRunning || running != len(codecTopics)+6 {
				return fmt.Errorf("%s: %s, %d topics run", r.name, st.State, running)
			}
			return nil
		})
	}
	return stop
}

// data makes records with everything that a record can have.
func data(topic string, partition int32, n int) []*kgo.Record {
	out := make([]*kgo.Record, n)
	for i := range out {
		r := &kgo.Record{Topic: topic, Partition: partition, Key: fmt.Append(nil, "key ", i%17), Value: fmt.Appendf(nil, "%s %d %d", topic, i, rand.Uint64())}
		switch i % 7 {
		case 1:
			r.Value = []byte{}
		case 2:
			r.Headers = []kgo.RecordHeader{{Key: "a", Value: nil}, {Key: "a", Value: []byte{}}, {Key: "", Value: []byte("x")}}
		case 3:
			r.Timestamp = time.UnixMilli(int64(1_600_000_000_000 + i))
		}
		out[i] = r
	}
	return out
}

func (w *verified) write(cl *kgo.Client, list ...*kgo.Record) {
	w.t.Helper()
	if err := cl.ProduceSync(w.t.Context(), list...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *verified) fill() {
	t := w.t
	for name, codec := range codecTopics {
		opts, err := kgo.NewClient(append(w.east.Opts(), kgo.ProducerBatchCompression(codec))...)
		if err != nil {
			t.Fatal(err)
		}
		for p := range int32(2) {
			w.write(opts, data(name, p, 1500)...)
		}
		opts.Close()
	}
	w.write(w.east, data("append-time", 0, 500)...)
	w.write(w.east, data("trimmed", 0, 900)...)
	for range 4 {
		for p := range int32(2) {
			w.write(w.east, data("both", p, 150)...)
			w.write(w.west, data("both", p, 100)...)
		}
	}
	for range 3 {
		w.write(w.east, data("compacted", 0, 300)...)
		w.write(w.east, &kgo.Record{Topic: "compacted", Key: []byte("gone"), Value: nil})
		time.Sleep(700 * time.Millisecond) // a segment each
	}
	w.transactions()
	for i, d := range data("edited", 0, 300) {
		w.write(w.east, d)
		if i == 150 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	w.trim(w.east, 100)
}

func (w *verified) transactions() {
	opts := append(w.east.Opts(), kgo.TransactionalID("t"))
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	for i := range 30 {
		if err := cl.BeginTransaction(); err != nil {
			w.t.Fatal(err)
		}
		w.write(cl, data("transactions", 0, 1+i%5)...)
		if err := cl.EndTransaction(w.t.Context(), kgo.TransactionEndTry(i%3 != 0)); err != nil {
			w.t.Fatal(err)
		}
		w.write(w.east, data("transactions", 0, i%2)...)
	}
}

func (w *verified) trim(cl *kgo.Client, before int64) {
	var o kadm.Offsets
	o.AddOffset("trimmed", 0, before, -1)
	if _, err := kadm.NewClient(cl).DeleteRecords(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

// equal compares both directions.
func (w *verified) equal(file string) {
	w.t.Helper()
	for _, replicator := range []string{"east-west", "west-east"} {
		got := compareClusters(w.t, file, replicator, verify.Options{Wait: 30 * time.Second, Selected: func(string) bool { return true }})
		if got.State != dr.VerifyEqual {
			for _, p := range got.Partitions {
				if p.State != dr.VerifyEqual {
					w.t.Errorf("%s: %+v", replicator, p)
				}
			}
		}
		records := map[string]int64{}
		for _, p := range got.Partitions {
			records[p.Topic] += p.Records
			for _, r := range p.Ranges {
				if r.SourceDigest != r.TargetDigest || r.SourceRecords != r.TargetRecords {
					w.t.Errorf("%s, topic %s partition %d: %+v", replicator, p.Topic, p.Partition, r)
				}
			}
		}
		compacted := records["compacted"]
		delete(records, "compacted")
		want := map[string]int64{"both": 800}
		if replicator == "east-west" {
			want = map[string]int64{"append-time": 500, "trimmed": 800, "both": 1200, "edited": 300, "transactions": committed()}
			for name := range codecTopics {
				want[name] = 3000
			}
			if compacted == 0 {
				w.t.Error("nothing of the compacted topic was compared")
			}
		}
		for name, n := range records {
			if n == 0 {
				delete(records, name)
			}
		}
		if diff := cmp.Diff(want, records); diff != "" {
			w.t.Errorf("%s: records compared (-want +got):\n%s", replicator, diff)
		}
		w.t.Logf("%s: %d records, not judged %+v", replicator, got.Records, got.Unjudged)
	}
}

// committed is how many records of the topic of transactions count.
func committed() int64 {
	n := 0
	for i := range 30 {
		if n += i % 2; i%3 != 0 {
			n += 1 + i%5
		}
	}
	return int64(n)
}

// mistakes edits a log on the target and has each mistake found.
func (w *verified) mistakes(west *ktest.Cluster, file string) {
	t := w.t
	if err := west.StopBroker(0); err != nil {
		t.Fatal(err)
	}
	content := map[int64]kbatch.Record{}
	err := west.RewriteOnDisk(0, "edited", 0, func(e []byte) []byte {
		if err := kbatch.Parse(e, func(r kbatch.Record) error { content[r.Offset] = r.Clone(); return nil }); err != nil {
			t.Fatal(err)
		}
		return e
	})
	if err != nil {
		t.Fatal(err)
	}
	become := func(r *kbatch.Record, other kbatch.Record) {
		r.Key, r.Value, r.Headers, r.Timestamp = other.Key, other.Value, other.Headers, other.Timestamp
	}
	err = west.RewriteOnDisk(0, "edited", 0, func(e []byte) []byte {
		h, err := kbatch.ParseHeader(e)
		if err != nil {
			t.Fatal(err)
		}
		var list []kbatch.Record
		if h.IsControl() {
			return e
		}
		if err := kbatch.Parse(e, func(r kbatch.Record) error { list = append(list, r.Clone()); return nil }); err != nil {
			t.Fatal(err)
		}
		first, n := h.BaseOffset, len(list)
		for i := range list {
			r := &list[i]
			switch at := first + int64(i); at {
			case 10: // one bit of the value
				r.Value = slices.Clone(r.Value)
				r.Value[len(r.Value)-1] ^= 1
			case 20:
				r.Key = append(slices.Clone(r.Key), 'x')
			case 30:
				r.Headers = append(r.Headers, kbatch.RecordHeader{Key: []byte("new")})
			case 40:
				r.Timestamp++
			case 61: // what was before it, once more
				become(r, content[60])
			case 70:
				become(r, content[71])
			case 71:
				become(r, content[70])
			}
		}
		stamp := kbatch.Stamp{ProducerID: h.ProducerID, Epoch: h.ProducerEpoch, BaseSequence: h.BaseSequence}
		b := kbatch.Builder{LeaderEpoch: h.LeaderEpoch, Stamp: &stamp, BaseOffset: first}
		if i := slices.IndexFunc(list, func(r kbatch.Record) bool { return r.Offset == 50 }); i >= 0 { // dropped
			list = slices.Delete(list, i, i+1)
			switch {
			case len(list) == 0:
				b.TailGap = int32(n - 1)
			case i == 0:
				b.HeadGap = 1
			case i == n-1:
				b.TailGap = 1
			}
		}
		return b.Build(list...)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := west.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	got := compareClusters(t, file, "east-west", verify.Options{Topics: func(topic string) bool { return topic == "edited" }})
	want := []dr.Difference{
		{Kind: dr.DiffChanged, SourceOffset: 10, TargetOffset: 10, Detail: "value"},
		{Kind: dr.DiffChanged, SourceOffset: 20, TargetOffset: 20, Detail: "key"},
		{Kind: dr.DiffChanged, SourceOffset: 30, TargetOffset: 30, Detail: "headers"},
		{Kind: dr.DiffChanged, SourceOffset: 40, TargetOffset: 40, Detail: "timestamp"},
		{Kind: dr.DiffMissing, SourceOffset: 50, TargetOffset: -1},
		{Kind: dr.DiffMissing, SourceOffset: 61, TargetOffset: -1},
		{Kind: dr.DiffDuplicated, SourceOffset: 60, TargetOffset: 61},
		{Kind: dr.DiffReordered, SourceOffset: 71, TargetOffset: 70, Detail: "its place is target offset 71"},
		{Kind: dr.DiffReordered, SourceOffset: 70, TargetOffset: 71, Detail: "its place is target offset 70"},
	}
	if len(got.Partitions) != 1 || got.State != dr.VerifyDifferent {
		t.Fatalf("%+v", got)
	}
	t.Logf("%+v", got.Partitions[0].Differences)
	for i, d := range got.Partitions[0].Differences {
		if d.Kind == dr.DiffChanged { // the rest are numbers
			got.Partitions[0].Differences[i].Detail, _, _ = strings.Cut(d.Detail, ":")
		}
	}
	if diff := cmp.Diff(want, got.Partitions[0].Differences); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}
