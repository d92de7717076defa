package assumptions

import (
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/ktest"
)

// environment is a broker version with a level of transaction.version.
type environment struct {
	name     string
	version  string
	features map[string]int
}

// The level is fixed when the storage is formatted. Kafka 3.9 knows the
// feature but offers no level above 0.
var environments = []environment{
	{"kafka-3.9-tv0", ktest.Oldest, nil},
	{"kafka-4.4-tv1", ktest.Newest, map[string]int{"transaction.version": 1}},
	{"kafka-4.4-tv2", ktest.Newest, map[string]int{"transaction.version": 2}},
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
			b := newBench(t, ktest.Options{Version: env.version, Features: env.features, Properties: map[string]string{
				// Internal settings: how often expired producers are dropped,
				// and how soon the cleaner looks again.
				"producer.id.expiration.check.interval.ms": "1000",
				"log.cleaner.backoff.ms":                   "200",
				"log.initial.task.delay.ms":                "500",
			}})
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
			s := newBench(t, ktest.Options{Version: env.version, Features: env.features, Properties: map[string]string{
				"transactional.id.expiration.ms":                             "4000",
				"transaction.remove.expired.transaction.cleanup.interval.ms": "500",
			}}).scope(t)
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
