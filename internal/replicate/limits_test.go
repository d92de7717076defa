package replicate_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// TestFake_NothingIsSentBeforeItIsKnownHowLongProducersAreRemembered has a target
// that does not answer what producer.id.expiration.ms is. Whoever takes Kafka's
// default for it sends old records like new ones, and a broker that forgets sooner
// forgets the fence.
func TestFake_NothingIsSentBeforeItIsKnownHowLongProducersAreRemembered(t *testing.T) {
	t.Parallel()
	src := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 1})
	tgt := ktest.FakeCluster(t, ktest.FakeOptions{Brokers: 2})
	createTopic(t, src, "t", 1, nil)
	produceAll(t, src, "t", records(0, 10))
	var silent atomic.Bool
	silent.Store(true)
	tgt.ControlKey(int16(kmsg.DescribeConfigs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		tgt.KeepControl()
		ofBroker := kreq.(*kmsg.DescribeConfigsRequest).Resources[0].ResourceType == kmsg.ConfigResourceTypeBroker
		return nil, errors.New("the connection breaks"), ofBroker && silent.Load()
	})
	w := startWorker(t, "ignorant", "w1", src, tgt, only("t"))
	await(t, "it says what it waits for", 30*time.Second, func() bool {
		return strings.Contains(w.Status().Reason, "how long the target remembers producers")
	})
	if n := end(t, tgt, "t"); there(t, tgt, "t") && n != 0 {
		t.Errorf("%d offsets are used on the target", n)
	}
	silent.Store(false)
	await(t, "all is copied", 30*time.Second, func() bool { return there(t, tgt, "t") && end(t, tgt, "t") == 10 })
	w.awaitState(t, dr.ReplicatorRunning, 30*time.Second)
}
