package replicate_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cmpdiff "github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// codecs are all codecs of the record-batch format.
var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// pair is two clusters that the subtests share.
type pair struct{ src, tgt *ktest.Cluster }

// only limits a worker to topics.
func only(topics ...string) func(*replicate.Options) {
	return func(o *replicate.Options) {
		f, err := dr.NewTopicFilter(topics, nil)
		if err != nil {
			panic("bug: " + err.Error())
		}
		o.Filter = f
	}
}

// start makes a worker of its own replicator for some topics.
func (p pair) start(t *testing.T, name string, topics []string, more ...func(*replicate.Options)) *worker {
	t.Helper()
	w := startWorker(t, name, "w1", p.src, p.tgt, func(o *replicate.Options) {
		only(topics...)(o)
		for _, m := range more {
			m(o)
		}
	})
	w.awaitState(t, dr.ReplicatorRunning, time.Minute)
	return w
}

// topicOf returns the status of a topic, the zero value if there is none.
func (w *worker) topicOf(name string) dr.TopicStatus {
	for _, t := range w.Status().Topics {
		if t.Name == name {
			return t
		}
	}
	return dr.TopicStatus{}
}

// caughtUp waits until a topic runs without lag.
func (w *worker) caughtUp(t *testing.T, topic string, d time.Duration) {
	t.Helper()
	limit := time.Now().Add(ktest.Patience(d))
	due := end(t, w.src, topic)
	for {
		st := w.topicOf(topic)
		ok := st.State == dr.TopicRunning && st.MessageLag == 0 && len(st.Partitions) > 0
		reached := int64(0)
		for _, p := range st.Partitions {
			ok = ok && p.State == dr.PartitionRunning && p.SourceEndOffset == p.ReplicatedOffset
			reached += p.ReplicatedOffset
		}
		if ok && reached >= due {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("topic %s not copied within %v: %+v", topic, d, st)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// identical checks that a topic is on the target as read-committed readers of
// the source see it, for readers that see everything.
func (p pair) identical(t *testing.T, topic, target string) int {
	t.Helper()
	want, got := read(t, p.src, topic, kgo.ReadCommitted()), read(t, p.tgt, target, kgo.ReadUncommitted())
	sameRecords(t, topic, want, got)
	return total(want)
}

func sameRecords(t *testing.T, topic string, want, got map[int32][]*kgo.Record) {
	t.Helper()
	for p := range got {
		if len(got[p]) > 0 && len(want[p]) == 0 {
			t.Errorf("%s partition %d: %d records on the target, none on the source", topic, p, len(got[p]))
		}
	}
	for p := range want {
		if len(want[p]) != len(got[p]) {
			t.Errorf("%s partition %d: %d records on the source, %d on the target", topic, p, len(want[p]), len(got[p]))
		}
		for i := range min(len(want[p]), len(got[p])) {
			if a, b := show(want[p][i]), show(got[p][i]); a != b {
				t.Errorf("%s partition %d record %d:\nsource %s\ntarget %s", topic, p, i, a, b)
				return
			}
		}
	}
}

// show renders all that belongs to a record, so that null and empty differ.
func show(r *kgo.Record) string {
	var b strings.Builder
	text := func(v []byte) {
		switch {
		case v == nil:
			b.WriteString("<null> ")
		case len(v) > 100:
			fmt.Fprintf(&b, "%q...%d:%x ", v[:20], len(v), checksum(v))
		default:
			fmt.Fprintf(&b, "%q ", v)
		}
	}
	fmt.Fprintf(&b, "%d ", r.Timestamp.UnixMilli())
	text(r.Key)
	text(r.Value)
	for _, h := range r.Headers {
		fmt.Fprintf(&b, "%s=", h.Key)
		text(h.Value)
	}
	return b.String()
}

func checksum(v []byte) (h uint64) {
	for _, c := range v {
		h = h*1099511628211 ^ uint64(c)
	}
	return h
}

func (p pair) write(t *testing.T, topic string, recs []*kgo.Record, opts ...kgo.Opt) {
	t.Helper()
	produceAll(t, p.src, topic, recs, opts...)
}

func produceAll(t *testing.T, b ktest.Broker, topic string, recs []*kgo.Record, opts ...kgo.Opt) {
	t.Helper()
	cl := client(t, b, append([]kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(1 << 20)}, opts...)...)
	if err := cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
		t.Fatalf("write %s: %v", topic, err)
	}
}

func records(from, n int) []*kgo.Record {
	out := make([]*kgo.Record, n)
	for i := range out {
		out[i] = record(from + i)
	}
	return out
}

// random is data that no codec makes smaller.
func random(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestReal_EveryKindOfDataArrivesAsItIs copies every kind of record that a log
// can hold between clusters of both versions. One target forgets its idempotent
// producers while their records are still coming in.
func TestReal_EveryKindOfDataArrivesAsItIs(t *testing.T) {
	t.Parallel() // most of it is waiting
	began := time.Now()
	cleaner := map[string]string{"log.cleaner.backoff.ms": "100"}
	newest := ktest.RealCluster(t, ktest.Options{Properties: cleaner})
	oldest := ktest.RealCluster(t, ktest.Options{Version: ktest.Oldest, Properties: cleaner})
	forgetful := ktest.RealCluster(t, ktest.Options{Properties: map[string]string{"producer.id.expiration.ms": "2000", "producer.id.expiration.check.interval.ms": "500"}})
	t.Logf("clusters after %v", time.Since(began))
	var workers []*worker
	kinds := map[*ktest.Cluster]map[string]func(*testing.T, pair, string){}
	directions := []struct {
		name  string
		p     pair
		names dr.TopicNames
	}{
		{"4.4 to 4.4", pair{newest, forgetful}, dr.NamesIdentical},
		{"4.4 to 3.9", pair{newest, oldest}, dr.NamesPrefixed},
		{"3.9 to 4.4", pair{oldest, forgetful}, dr.NamesPrefixed},
	}
	kinds[newest], kinds[oldest] = pair{src: newest}.writeEveryKind(t), pair{src: oldest}.writeEveryKind(t)
	t.Logf("written after %v", time.Since(began))
	for i, d := range directions {
		topics := slices.Collect(maps.Keys(kinds[d.p.src]))
		workers = append(workers, d.p.start(t, fmt.Sprintf("kinds-%d", i), topics, func(o *replicate.Options) { o.Naming = dr.Naming{Mode: d.names, Source: "from"} }))
	}
	check := func(t *testing.T, i int) {
		d := directions[i]
		naming := dr.Naming{Mode: d.names, Source: "from"}
		for topic, check := range kinds[d.p.src] {
			workers[i].caughtUp(t, topic, 30*time.Second)
			if check != nil {
				check(t, d.p, naming.Target(topic))
				continue
			}
			n := d.p.identical(t, topic, naming.Target(topic))
			if n < 12 {
				t.Errorf("%s: %d records are too few to test anything", topic, n)
			}
			t.Logf("%s: %d records", topic, n)
		}
	}
	for i, d := range directions {
		t.Run(d.name, func(t *testing.T) { check(t, i) })
	}
	for _, c := range []*ktest.Cluster{newest, oldest} { // the pipelines go on behind all of that
		for topic := range kinds[c] {
			produceAll(t, c, topic, []*kgo.Record{{Key: []byte("last"), Value: []byte("one more")}})
		}
	}
	for i, d := range directions {
		t.Run(d.name+" goes on", func(t *testing.T) { check(t, i) })
	}
}

// writeEveryKind fills topics on the source. Topics whose source log changes by
// itself come with a check of their own.
func (p pair) writeEveryKind(t *testing.T) map[string]func(*testing.T, pair, string) {
	out := map[string]func(*testing.T, pair, string){}
	topic := func(name string, configs map[string]*string) string {
		createTopic(t, p.src, name, 1, configs)
		out[name] = nil
		return name
	}
	out["magic"] = p.legacy(t, topic("magic", map[string]*string{"retention.ms": new("-1")}))
	out["cleaned"] = p.cleaned(t, topic("cleaned", map[string]*string{
		"cleanup.policy": new("compact"), "segment.ms": new("50"), "min.cleanable.dirty.ratio": new("0.01"),
		"delete.retention.ms": new("100"), "min.compaction.lag.ms": new("0"),
	}))
	for name, codec := range codecs {
		n := topic("codec-"+name, nil)
		p.write(t, n, records(0, 2000), kgo.ProducerBatchCompression(codec))
		p.write(t, n, []*kgo.Record{{Value: random(900_000, 1)}, {Value: random(1_040_000, 2)}, {Value: make([]byte, 5_000_000/8)}}, kgo.ProducerBatchCompression(codec))
	}
	n := topic("odd", nil)
	p.write(t, n, odd())
	for _, r := range odd() { // each in a batch of its own
		p.write(t, n, []*kgo.Record{r})
	}
	n = topic("one-by-one", nil)
	cl := client(t, p.src, kgo.DefaultProduceTopic(n), kgo.ProducerLinger(0))
	for i := range 300 {
		if err := cl.ProduceSync(t.Context(), record(i)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	p.transactions(t, topic("transactions", nil))
	old := records(0, 500)
	for i, r := range old {
		r.Timestamp = time.Now().Add(-72 * time.Hour).Add(time.Duration(i) * time.Second)
	}
	n = topic("old", map[string]*string{"retention.ms": new("-1")})
	for chunk := 0; chunk < len(old); chunk += 20 {
		p.write(t, n, old[chunk:chunk+20])
	}
	n = topic("append-time", map[string]*string{"message.timestamp.type": new("LogAppendTime")})
	late := records(0, 300)
	for i, r := range late {
		r.Timestamp = time.Unix(1_000_000_000+int64(i), 0)
	}
	p.write(t, n, late[:200])
	p.write(t, n, late[200:], kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	return out
}

// odd is records with nulls, empty bytes and unusual headers.
func odd() []*kgo.Record {
	return []*kgo.Record{
		{},
		{Key: []byte{}, Value: []byte{}},
		{Key: nil, Value: []byte("v")},
		{Key: []byte("k"), Value: nil},
		{Key: []byte("h"), Headers: []kgo.RecordHeader{{Key: "a", Value: nil}, {Key: "a", Value: []byte{}}, {Key: "a", Value: []byte("x")}, {Key: "", Value: []byte("y")}}},
		{Key: []byte{0, 255, 254}, Value: []byte{0}, Timestamp: time.UnixMilli(1)},
		{Value: []byte("before 1970"), Timestamp: time.UnixMilli(0)},
	}
}

// transactions writes with two transactional producers whose transactions
// overlap; some abort.
func (p pair) transactions(t *testing.T, topic string) {
	var cls []*kgo.Client
	for i := range 2 {
		cls = append(cls, client(t, p.src, kgo.DefaultProduceTopic(topic), kgo.TransactionalID(fmt.Sprintf("txn-%d", i))))
	}
	n := 0
	for round := range 20 {
		for _, cl := range cls {
			if err := cl.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			for i, cl := range cls {
				r := record(n)
				if n++; (round+i)%3 == 0 {
					r.Value = []byte("aborted")
				}
				if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, cl := range cls {
			if err := cl.EndTransaction(t.Context(), kgo.TransactionEndTry((round+i)%3 != 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// legacy puts segments of magic 0 and 1 under the stopped broker. The check:
// every record is on the target with the timestamp that Kafka's own readers
// give it. (kgo gives the records in a wrapper with LogAppendTime their own.)
func (p pair) legacy(t *testing.T, topic string) func(*testing.T, pair, string) {
	const stamp, appended = 1_600_000_000_000, 1_600_000_000_777
	var want []string
	rec := func(o, seen int64) kbatch.Record {
		r := kbatch.Record{Offset: o, Timestamp: stamp + o, Key: fmt.Appendf(nil, "k%d", o), Value: fmt.Appendf(nil, "old %d", o)}
		want = append(want, fmt.Sprintf("%d %s=%s", seen, r.Key, r.Value))
		return r
	}
	own := func(o int64) kbatch.Record { return rec(o, stamp+o) }
	var log []byte
	log = append(log, kbatch.Builder{}.Legacy(0, rec(0, -1), rec(1, -1))...)
	log = append(log, kbatch.Builder{Codec: kbatch.CodecGzip}.Legacy(0, rec(2, -1), rec(3, -1), rec(5, -1))...)
	log = append(log, kbatch.Builder{}.Legacy(1, own(6), own(8))...)
	log = append(log, kbatch.Builder{Codec: kbatch.CodecLz4}.Legacy(1, own(9), own(10), own(11))...)
	log = append(log, kbatch.Builder{Codec: kbatch.CodecSnappy, Attributes: kbatch.AttrLogAppendTime, Time: appended}.Legacy(1, rec(12, appended), rec(13, appended))...)
	rewrite(t, p.src, func(dir string) {
		swap(t, dir, topic, func([]byte) []byte { return log })
	})
	return func(t *testing.T, p pair, target string) {
		var got []string
		for _, r := range read(t, p.tgt, target, kgo.ReadUncommitted())[0] {
			if string(r.Key) != "last" {
				got = append(got, fmt.Sprintf("%d %s=%s", r.Timestamp.UnixMilli(), r.Key, r.Value))
			}
		}
		if d := cmpdiff.Diff(want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", topic, d)
		}
	}
}

// rewrite stops a single broker, changes its files and starts it again.
func rewrite(t *testing.T, c *ktest.Cluster, change func(dir string)) {
	t.Helper()
	if err := c.StopBroker(0); err != nil {
		t.Fatal(err)
	}
	change(c.DataDir(0))
	if err := c.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// swap changes the bytes of the newest segment of partition 0 of a topic. Where
// their number changes, the indexes are removed, and the broker makes them
// again; it looks at checksums while it does so.
func swap(t *testing.T, dir, topic string, change func([]byte) []byte) {
	t.Helper()
	part := filepath.Join(dir, topic+"-0")
	segments, err := filepath.Glob(filepath.Join(part, "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments of %s: %v, %v", topic, segments, err)
	}
	path := segments[len(segments)-1]
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := len(raw)
	raw = change(raw)
	t.Logf("%s: %d bytes become %d", path, size, len(raw))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if len(raw) == size {
		return
	}
	for _, pattern := range []string{"*.index", "*.timeindex", "*.snapshot", "*.txnindex"} {
		files, err := filepath.Glob(filepath.Join(part, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// cleaned writes few keys many times and waits until the cleaner of the source
// made gaps. The check: what the source still holds is on the target, in order,
// nothing is there twice, and every key has its newest value.
func (p pair) cleaned(t *testing.T, topic string) func(*testing.T, pair, string) {
	n := 0
	cl := client(t, p.src, kgo.DefaultProduceTopic(topic))
	for round := range 12 {
		var recs []*kgo.Record
		for k := range 60 {
			if (k+round)%3 == 0 {
				continue // so that the survivors lie apart
			}
			v := fmt.Appendf(nil, "v%d", n)
			if k%7 == 0 && round%2 == 1 {
				v = nil
			}
			recs = append(recs, &kgo.Record{Key: fmt.Appendf(nil, "k%d", k), Value: v, Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, n)}}})
			n++
		}
		if err := cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Millisecond)
	}
	await(t, "the cleaner of the source", 20*time.Second, func() bool { return total(read(t, p.src, topic, kgo.ReadCommitted())) < n/3 })
	return func(t *testing.T, p pair, target string) {
		src, tgt := read(t, p.src, topic, kgo.ReadCommitted())[0], read(t, p.tgt, target, kgo.ReadUncommitted())[0]
		at, newest := map[string]int{}, map[string]string{}
		for i, r := range tgt {
			id := show(r)
			if _, twice := at[id]; twice {
				t.Errorf("twice on the target: %s", id)
			}
			at[id], newest[string(r.Key)] = i, id
		}
		last := -1
		for _, r := range src {
			i, ok := at[show(r)]
			if !ok || i <= last {
				t.Fatalf("missing on the target or out of order: %s (index %d after %d)", show(r), i, last)
			}
			last = i
		}
		for _, r := range src {
			if newest[string(r.Key)] == "" {
				t.Errorf("key %s is missing", r.Key)
			}
		}
		t.Logf("%s: %d of %d records left on the source, %d on the target", topic, len(src), n, len(tgt))
	}
}

// TestReal_SettingsOfAReplicator proves names, starting positions, compression
// and what appears later.
func TestReal_SettingsOfAReplicator(t *testing.T) {
	t.Parallel() // most of it is waiting
	p := pair{src: ktest.RealCluster(t, ktest.Options{}), tgt: ktest.RealCluster(t, ktest.Options{})}
	prefixed := func(alias string) func(*replicate.Options) {
		return func(o *replicate.Options) { o.Naming = dr.Naming{Mode: dr.NamesPrefixed, Source: alias} }
	}
	t.Run("compression", func(t *testing.T) {
		createTopic(t, p.src, "packed", 1, nil)
		for _, codec := range codecs {
			p.write(t, "packed", records(0, 300), kgo.ProducerBatchCompression(codec))
			p.write(t, "packed", []*kgo.Record{{Value: random(200_000, 3)}, {Value: make([]byte, 800_000)}}, kgo.ProducerBatchCompression(codec))
		}
		workers := map[string]*worker{}
		for i, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
			codec, err := kbatch.ParseCodec(name)
			if err != nil || int(codec) != i {
				t.Fatalf("codec %s: %d, %v", name, codec, err)
			}
			workers[name] = startWorker(t, "c-"+name, "w1", p.src, p.tgt, func(o *replicate.Options) {
				only("packed")(o)
				prefixed(name)(o)
				o.Compression = codec
			})
		}
		for i, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
			workers[name].caughtUp(t, "packed", 20*time.Second)
			p.identical(t, "packed", name+".packed")
			for _, r := range read(t, p.tgt, name+".packed", kgo.ReadUncommitted())[0] {
				if int(r.Attrs.CompressionType()) != i {
					t.Fatalf("%s: the record at offset %d has codec %d", name, r.Offset, r.Attrs.CompressionType())
				}
			}
			workers[name].stop()
		}
	})
	t.Run("starting positions", func(t *testing.T) {
		createTopic(t, p.src, "start", 1, nil)
		base := time.Now().Add(-time.Hour).Truncate(time.Second)
		early := records(0, 100)
		for i, r := range early {
			r.Timestamp = base.Add(time.Duration(i) * time.Second)
		}
		p.write(t, "start", early)
		for _, c := range []struct {
			alias string
			start replicate.Start
			first int
		}{
			{"earliest", replicate.Start{}, 0},
			{"latest", replicate.Start{Latest: true}, 100},
			{"middle", replicate.Start{At: base.Add(40 * time.Second)}, 40},
			{"future", replicate.Start{At: time.Now().Add(time.Hour)}, 100},
		} {
			w := p.start(t, "s-"+c.alias, []string{"start", "later-.*"}, prefixed(c.alias), func(o *replicate.Options) { o.Start = c.start })
			have := len(read(t, p.src, "start", kgo.ReadCommitted())[0])
			if c.first == 100 {
				c.first = have
			}
			p.write(t, "start", records(have, 10))
			w.caughtUp(t, "start", 10*time.Second)
			want := read(t, p.src, "start", kgo.ReadCommitted())
			want[0] = want[0][c.first:]
			sameRecords(t, c.alias, want, read(t, p.tgt, c.alias+".start", kgo.ReadUncommitted()))

			later := "later-" + c.alias
			createTopic(t, p.src, later, 2, nil)
			p.write(t, later, records(0, 50))
			began := time.Now()
			await(t, later+" from its first record", 5*time.Second, func() bool {
				return end(t, p.tgt, c.alias+"."+later) >= 50
			})
			took := time.Since(began)
			if took > 2*time.Second && !ktest.Overloaded(t) {
				t.Errorf("a new topic took %v", took)
			}
			t.Logf("%s: a new topic took %v", c.alias, took)
			p.identical(t, later, c.alias+"."+later)
			w.stop()
		}
	})
	t.Run("partitions added under load", func(t *testing.T) {
		createTopic(t, p.src, "grows", 2, nil)
		w := p.start(t, "grows", []string{"grows"}, func(o *replicate.Options) { o.Start = replicate.Start{Latest: true} })
		w.caughtUp(t, "grows", 10*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int)
		go func() {
			cl := client(t, p.src, kgo.DefaultProduceTopic("grows"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(200*time.Millisecond))
			n := 0
			for ; ctx.Err() == nil; n++ {
				if err := cl.ProduceSync(context.Background(), record(n)).FirstErr(); err != nil {
					t.Errorf("write: %v", err)
				}
			}
			done <- n
		}()
		time.Sleep(time.Second)
		adm := kadm.NewClient(client(t, p.src))
		if r, err := adm.UpdatePartitions(t.Context(), 7, "grows"); cmp.Or(err, r.Error()) != nil {
			t.Fatal(cmp.Or(err, r.Error()))
		}
		time.Sleep(2500 * time.Millisecond)
		cancel()
		n := <-done
		await(t, "seven partitions", 5*time.Second, func() bool { return len(w.topicOf("grows").Partitions) == 7 })
		w.caughtUp(t, "grows", 10*time.Second)
		if got := p.identical(t, "grows", "grows"); got != n {
			t.Errorf("%d records, %d were written", got, n)
		}
		if got := read(t, p.tgt, "grows", kgo.ReadUncommitted()); len(got[6]) == 0 {
			t.Error("the newest partition holds nothing: the test did not test it")
		}
	})
}

// end returns the sum of the end offsets of a topic, 0 if it is missing.
func end(t *testing.T, b ktest.Broker, topic string) (n int64) {
	t.Helper()
	ends, err := kadm.NewClient(client(t, b)).ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			n += o.Offset
		}
	})
	return n
}
