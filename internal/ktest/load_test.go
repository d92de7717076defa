package ktest

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var loadTopics = []struct {
	name  string
	kind  TopicKind
	codec kgo.CompressionCodec
}{
	{"plain", Plain, kgo.NoCompression()},
	{"gzip", Plain, kgo.GzipCompression()},
	{"snappy", Plain, kgo.SnappyCompression()},
	{"compacted", Compacted, kgo.Lz4Compression()},
	{"transactional", Transactional, kgo.ZstdCompression()},
}

// runLoad creates the topics, writes for a while, disturbs, and compares what
// readers see with what was recorded.
func runLoad(t *testing.T, b Broker, disturb func()) {
	t.Helper()
	adm := newAdmin(t, b.ClientOptions()...)
	var rec Recorder
	o := LoadOptions{Broker: b, Cluster: "one", Recorder: &rec, PerSecond: 400, MaxRecords: 1200, Seed: 1}
	for _, topic := range loadTopics {
		if _, err := adm.CreateTopic(t.Context(), 2, -1, map[string]*string{"cleanup.policy": policy(topic.kind)}, topic.name); err != nil {
			t.Fatal(err)
		}
		o.Topics = append(o.Topics, LoadTopic{Name: topic.name, Partitions: 2, Kind: topic.kind, Codec: &topic.codec})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- RunLoad(ctx, o) }()
	disturb()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	h.Compacted = map[string]bool{"compacted": true}
	for _, topic := range loadTopics {
		if n := h.Count(topic.name, Acknowledged); n < 50 {
			t.Errorf("%s: only %d records", topic.name, n)
		}
		known, err := told(t.Context(), b, h, topic.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, isolation := range []Isolation{ReadUncommitted, ReadCommitted} {
			log, err := Read(t.Context(), b, topic.name, isolation)
			if err != nil {
				t.Fatal(err)
			}
			vs := Check(known, "one", log)
			if isolation == ReadUncommitted && topic.kind != Compacted {
				vs = append(vs, CheckGaps(log)...)
			}
			if len(vs) != 0 {
				t.Errorf("%s, %s: %s", topic.name, isolation, Summary(vs))
			}
		}
	}
	if h.Count("transactional", Aborted) == 0 {
		t.Error("no transaction was aborted")
	}
	log, err := Read(t.Context(), b, "transactional", ReadUncommitted)
	if err != nil {
		t.Fatal(err)
	}
	if len(log.Partitions[0].Controls) == 0 {
		t.Error("no markers were read")
	}
	// The readers are not blind: a record that is taken out is missed.
	log.Partitions[0].Records = slices.Delete(log.Partitions[0].Records, 0, 1)
	if len(CheckGaps(log)) == 0 {
		t.Error("a record that was taken out is not missed")
	}
}

// told returns what the writers of a topic know, without what a real broker told
// them wrongly: a broker that comes back may leave out markers, see Unmarked.
func told(ctx context.Context, b Broker, h History, topic string) (History, error) {
	c, ok := b.(*Cluster)
	if !ok {
		return h, nil
	}
	text, err := os.ReadFile(c.LogFile(0))
	if err != nil {
		return h, err
	}
	committed, err := Read(ctx, b, topic, ReadCommitted)
	if err != nil {
		return h, err
	}
	h, _ = Doubt(h, "one", committed, Unmarked(text), loadID)
	return h, nil
}

func policy(kind TopicKind) *string {
	s := "delete"
	if kind == Compacted {
		s = "compact"
	}
	return &s
}

func TestLoadIsReadBackFromFakeKafka(t *testing.T) {
	t.Parallel()
	runLoad(t, FakeCluster(t, FakeOptions{}), func() {})
}

func TestLoadIsReadBackFromRealKafka(t *testing.T) {
	t.Parallel()
	c := RealCluster(t, Options{})
	runLoad(t, c, func() {})
}

func TestLoadSurvivesABrokerRestart(t *testing.T) {
	Long(t) // the kill test of internal/replicate restarts brokers under this load
	t.Parallel()
	c := RealCluster(t, Options{})
	runLoad(t, c, func() {
		time.Sleep(time.Second)
		if err := c.KillBroker(0); err != nil {
			t.Error(err)
		}
		if err := c.StartBroker(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
}

func TestReadStartsBehindDeletedRecords(t *testing.T) {
	t.Parallel()
	c := RealCluster(t, Options{Version: Oldest})
	adm := newAdmin(t, c.ClientOptions()...)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, "cut"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		produceOne(t, c, "cut", "x")
	}
	var offsets kadm.Offsets
	offsets.AddOffset("cut", 0, 2, -1)
	if _, err := adm.DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
	log, err := Read(t.Context(), c, "cut", ReadUncommitted)
	if err != nil {
		t.Fatal(err)
	}
	if p := log.Partitions[0]; p.Start != 2 || p.End != 3 || len(p.Records) != 1 || p.Records[0].Offset != 2 {
		t.Errorf("log %+v", p)
	}
	if vs := CheckGaps(log); len(vs) != 0 {
		t.Error(Summary(vs))
	}
}
