package replicate

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestWalkLog_EndsWhereTheLogWasDeleted has a log whose beginning is deleted while
// it is read: what was read does not join what is left, and nobody waits for it.
func TestWalkLog_EndsWhereTheLogWasDeleted(t *testing.T) {
	t.Parallel()
	b := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.DefaultProduceTopic("t"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	topo := newTopology("c", cl, time.Second, slog.New(slog.DiscardHandler))
	m, err := fetchMetadata(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	topo.publish(m, nil)
	target := fenceTarget{topic: "t", topicID: m.byName["t"].id}
	// The log begins at 5 when it is fetched, and still at 0 when it was asked for.
	b.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		var offsets kadm.Offsets
		offsets.AddOffset("t", 0, 5, -1)
		b.SleepControl(func() {
			other, err := kgo.NewClient(b.ClientOptions()...)
			if err != nil {
				t.Error(err)
				return
			}
			defer other.Close()
			if r, err := kadm.NewClient(other).DeleteRecords(context.Background(), offsets); err != nil || r.Error() != nil {
				t.Error(err, r.Error())
			}
		})
		return nil, nil, false
	})
	count := func(until int64) (n int, start int64, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start, err = walkLog(ctx, cl, topo, target, 0, until, func(kbatch.Header, []byte) bool {
			n++
			return true
		})
		return n, start, err
	}
	if n, _, err := count(10); !errors.Is(err, kerr.OffsetOutOfRange) || n != 0 {
		t.Errorf("%d batches, %v", n, err)
	}
	if n, start, err := count(10); err != nil || n != 5 || start != 5 {
		t.Errorf("%d batches of what is left from %d on, %v", n, start, err)
	}
}
