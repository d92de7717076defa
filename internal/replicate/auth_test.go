package replicate_test

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/twmb/franz-go/pkg/kadm"
)

// TestReal_AuthorisationWithdrawnAndGivenBack halts one topic only, says which
// permission is missing, and goes on by itself.
func TestReal_AuthorisationWithdrawnAndGivenBack(t *testing.T) {
	t.Parallel() // most of it is waiting
	p := pair{src: ktest.RealCluster(t, ktest.Options{Security: ktest.SASLSSL}), tgt: ktest.RealCluster(t, ktest.Options{Security: ktest.SASLSSL})}
	acl := func(c *ktest.Cluster, give bool, topic string, ops ...kadm.ACLOperation) {
		t.Helper()
		b := kadm.NewACLs().Allow("User:client").AllowHosts().Operations(ops...).ResourcePatternType(kadm.ACLPatternLiteral)
		if topic == "" {
			b.Topics("__anabranch_state", "__anabranch_probe").Groups("*").TransactionalIDs("*").Clusters()
		} else {
			b.Topics(topic)
		}
		adm := kadm.NewClient(client(t, c))
		if give {
			r, err := adm.CreateACLs(t.Context(), b)
			for _, x := range r {
				err = errors.Join(err, x.Err)
			}
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		r, err := adm.DeleteACLs(t.Context(), b)
		n := 0
		for _, x := range r {
			err = errors.Join(err, x.Err)
			n += len(x.Deleted)
		}
		if err != nil || n == 0 {
			t.Fatalf("%d ACLs deleted: %v", n, err)
		}
	}
	read := []kadm.ACLOperation{kadm.OpRead, kadm.OpDescribe, kadm.OpDescribeConfigs}
	write := append([]kadm.ACLOperation{kadm.OpWrite, kadm.OpAlter, kadm.OpAlterConfigs}, read...)
	topics := []string{"r", "r-all", "w", "w-all", "idle-w-all", "ok"}
	for _, c := range []*ktest.Cluster{p.src, p.tgt} {
		acl(c, true, "", kadm.OpAll)
		for _, topic := range topics {
			acl(c, true, topic, write...)
			createTopic(t, c, topic, 1, nil)
		}
	}
	for _, topic := range topics {
		p.write(t, topic, records(0, 10))
	}
	w := startWorker(t, "acl", "w1", asClient{p.src}, asClient{p.tgt}, only(topics...))
	for _, topic := range topics {
		w.caughtUp(t, topic, time.Minute)
	}
	acl(p.src, false, "r", kadm.OpRead)
	acl(p.src, false, "r-all", write...)
	acl(p.tgt, false, "w", kadm.OpWrite)
	acl(p.tgt, false, "w-all", write...)
	acl(p.tgt, false, "idle-w-all", write...)
	for _, topic := range []string{"r", "r-all", "w", "w-all"} {
		p.write(t, topic, records(10, 10))
	}
	w.halted(t, "r", dr.HaltUnauthorized, "source topic r")
	w.halted(t, "w", dr.HaltUnauthorized, "target topic w")
	for _, topic := range []string{"r-all", "w-all", "idle-w-all"} {
		w.topicState(t, topic, dr.TopicHalted, dr.HaltUnauthorized)
	}
	time.Sleep(4 * time.Second) // what is not allowed must never look deleted
	for _, topic := range []string{"r-all", "w-all", "idle-w-all"} {
		w.topicState(t, topic, dr.TopicHalted, dr.HaltUnauthorized)
	}
	before := epochs(t, asClient{p.tgt}, "acl")
	time.Sleep(20 * time.Second) // what is refused is asked for again and again, and interrupts nobody
	if after := epochs(t, asClient{p.tgt}, "acl"); !maps.Equal(before, after) {
		t.Errorf("slots were taken over for what is still not allowed: epochs %v, then %v", before, after)
	}
	p.write(t, "ok", records(10, 10))
	w.caughtUp(t, "ok", time.Minute)
	w.awaitState(t, dr.ReplicatorDegraded, time.Minute)
	acl(p.src, true, "r", kadm.OpRead)
	acl(p.src, true, "r-all", write...)
	acl(p.tgt, true, "w", kadm.OpWrite)
	acl(p.tgt, true, "w-all", write...)
	acl(p.tgt, true, "idle-w-all", write...)
	began := time.Now()
	for _, topic := range topics {
		w.caughtUp(t, topic, time.Minute)
		p.identical(t, topic, topic)
	}
	t.Logf("everything runs %v after the permissions were given back", time.Since(began))
	w.awaitState(t, dr.ReplicatorRunning, time.Minute)
}
