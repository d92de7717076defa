package replicate

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestRegistry_SaysWhyItCannotLookUp withholds the end of the registry, so that
// no id can be called native, and gives it back.
func TestRegistry_SaysWhyItCannotLookUp(t *testing.T) {
	t.Parallel()
	b := ktest.FakeCluster(t, ktest.FakeOptions{})
	cl, err := kgo.NewClient(append(b.ClientOptions(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if _, err := kstate.Ensure(t.Context(), cl, kstate.Layout{Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	table := kstate.NewTable(kstate.TableOptions{Dial: func(o ...kgo.Opt) (*kgo.Client, error) {
		o = append(o, b.ClientOptions()...)
		return kgo.NewClient(o...)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	told := make(chan error, 100)
	r := newRegistry(table, func(err error) { told <- err })
	ask := func(id int64) (known bool) {
		done := make(chan struct{})
		r.resolve(ctx, id, func() { close(done) })
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("the registry was not read")
		}
		_, known = r.lookup(id)
		return known
	}
	denied := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Topic: kstate.Topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	if ask(7) {
		t.Error("the id is known although the registry could not be read")
	}
	select {
	case err := <-told:
		if !errors.Is(err, kerr.TopicAuthorizationFailed) {
			t.Errorf("told %v, want why", err)
		}
	default:
		t.Error("nothing was told")
	}
	denied.Remove()
	if !ask(7) || len(told) > 0 {
		t.Errorf("not native in an empty registry, and %d times trouble", len(told))
	}
	newer := &kgo.Record{Topic: kstate.Topic, Key: []byte(keyRegistration(8)), Value: []byte(`{"v":99}`)}
	if err := cl.ProduceSync(ctx, newer).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if ask(8) || len(told) != 1 {
		t.Errorf("an entry that a newer version wrote: %d times trouble, want one, and not known", len(told))
	}
}
