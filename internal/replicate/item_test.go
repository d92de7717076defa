package replicate

import (
	"bytes"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// TestPipeline_EachItemRemembersTheEpochBeforeIt: batches of several leader
// epochs that are put together leave as several. Each remembers the epoch of the
// source record before it: with one that had ended before its position, the
// source would call its own log diverged.
func TestPipeline_EachItemRemembersTheEpochBeforeIt(t *testing.T) {
	t.Parallel()
	prod := &producer{txn: "t", id: 1}
	p := newPipeline(pipelineOptions{
		id: tp{[16]byte{1}, 0}, maxBytes: 1000, codec: kbatch.CodecSource, expiry: time.Hour, bench: &workbench{}, now: time.Now,
		provenance: func(tp, kbatch.Header, evidence) (verdict, *producer, error) { return verdictCopy, prod, nil },
	})
	p.beginEpoch(prod)
	p.last = 3
	var log []byte
	for i, epoch := range []int32{4, 4, 6, 7} {
		b := kbatch.Builder{LeaderEpoch: epoch}.Build(kbatch.Record{Offset: int64(i), Timestamp: time.Now().UnixMilli(), Value: bytes.Repeat([]byte{1}, 600)})
		log = append(log, b...)
	}
	p.feed(fetched{bytes: log, highWater: 4})
	p.pump()
	var got []int32
	for _, it := range p.ready {
		got = append(got, it.before)
	}
	want := []int32{3, 4, 4, 6}
	if len(got) != len(want) {
		t.Fatalf("%d items: %v", len(got), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("epochs before the items are %v, want %v", got, want)
			break
		}
	}
}
