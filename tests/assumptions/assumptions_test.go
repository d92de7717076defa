package assumptions

import (
	"context"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

// environment is a broker version with a level of transaction.version, real or
// as internal/kmodel has it.
type environment struct {
	name     string
	version  string
	features map[string]int
	model    bool
}

// The level is fixed when the storage is formatted. Kafka 3.9 knows the
// feature but offers no level above 0.
var environments = []environment{
	{"kafka-3.9-tv0", ktest.Oldest, nil, false},
	{"kafka-4.4-tv1", ktest.Newest, map[string]int{"transaction.version": 1}, false},
	{"kafka-4.4-tv2", ktest.Newest, map[string]int{"transaction.version": 2}, false},
	{"model-3.9-tv0", kmodel.Oldest, nil, true},
	{"model-4.4-tv1", kmodel.Newest, map[string]int{"transaction.version": 1}, true},
	{"model-4.4-tv2", kmodel.Newest, map[string]int{"transaction.version": 2}, true},
}

// cluster is what real clusters and the model have in common here.
type cluster interface {
	ktest.Broker
	StopBroker(i int) error
	KillBroker(i int) error
	StartBroker(ctx context.Context, i int) error
}

// start starts the environment with one broker.
func (e environment) start(t *testing.T, properties map[string]string) cluster {
	t.Helper()
	if !e.model {
		return ktest.RealCluster(t, ktest.Options{Version: e.version, Features: e.features, Properties: properties})
	}
	c, err := kmodel.New(kmodel.Options{Version: e.version, Features: e.features, Properties: properties})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// assumption is one group of facts; prove runs in the order of the table and
// may restart the broker.
type assumption struct {
	name  string
	prove func(*testing.T, *bench)
}

var assumptions = []assumption{
	{"marker-without-data", markerWithoutData},
	{"fencing-is-per-partition", fencing},
	{"plain-batches-under-a-transactional-id", plainBatches},
	{"end-of-transaction-versions", endTxnVersions},
	{"an-open-transaction", openTransaction},
	{"write-txn-markers", writeTxnMarkers},
	{"validation-of-batches", validation},
	{"codecs", codecs},
	{"topic-ids", topicIDs},
	{"cleaner", cleaner},
	{"restart", restart},
	// Last, because it changes the expiry of the whole broker.
	{"expiry-by-record-time", expiryByRecordTime},
}

func TestAssumptions(t *testing.T) {
	for _, env := range environments {
		t.Run(env.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, env, env.start(t, map[string]string{
				// Internal settings: how often expired producers are dropped,
				// and how soon the cleaner looks again.
				"producer.id.expiration.check.interval.ms": "1000",
				"log.cleaner.backoff.ms":                   "200",
				"log.initial.task.delay.ms":                "500",
			}))
			for _, a := range assumptions {
				t.Run(a.name, func(t *testing.T) { a.prove(t, b) })
			}
		})
	}
}

// TestTransactionalIDExpires proves that an idle transactional id comes back
// with another producer id, so that its marker fences nothing of the old one.
func TestTransactionalIDExpires(t *testing.T) {
	for _, env := range environments {
		t.Run(env.name, func(t *testing.T) {
			t.Parallel()
			s := newBench(t, env, env.start(t, map[string]string{
				"transactional.id.expiration.ms":                             "4000",
				"transaction.remove.expired.transaction.cleanup.interval.ms": "500",
			})).scope(t)
			topic := s.topic(2)
			old := s.newProducer()
			kept := s.newProducer()
			s.accepts("first batch", topic, 0, old.batch(0, 2))
			s.fence(old, topic, 0)
			s.accepts("batch after the marker", topic, 0, old.batch(2, 2))
			sequence := int32(4)
			for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
				// What keeps an id alive is a transaction, not plain batches.
				s.fence(kept, topic, 1)
				s.accepts("plain batch of the idle id", topic, 0, old.batch(sequence, 1))
				sequence++
			}
			next := s.initProducer(old.id)
			if next.pid == old.pid || next.epoch != 0 {
				t.Errorf("the idle id came back as (%d, %d) after (%d, %d), want another producer id at epoch 0",
					next.pid, next.epoch, old.pid, old.epoch)
			}
			s.fence(next, topic, 0)
			s.accepts("zombie of the expired id after the new id's marker", topic, 0, old.batch(sequence, 1))
			if again := s.initProducer(kept.id); again.pid != kept.pid {
				t.Errorf("the id in use came back as %d after %d", again.pid, kept.pid)
			}
		})
	}
}
