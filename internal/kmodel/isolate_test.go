package kmodel

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An isolated broker answers reads from the log that it had, unless the client
// knows a later epoch, and takes nothing. When it is back it is as the others.
func TestAnIsolatedBrokerBelievesThatItLeads(t *testing.T) {
	inLab(t, three(), func(l *lab) {
		l.topic("t", 1)
		l.put("t", 0, newBatch(7, 0, 0, 3))
		old := l.leaderOf("t", 0)
		epoch := l.describe("t").Partitions[0].LeaderEpoch
		end := func(node int, epoch int32) (int64, error) {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Timestamp, rp.CurrentLeaderEpoch = latestOffset, epoch
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic, rt.Partitions = "t", append(rt.Partitions, rp)
			req := kmsg.NewPtrListOffsetsRequest()
			req.Topics = append(req.Topics, rt)
			resp, err := l.cl.Broker(node).Request(l.t.Context(), req)
			l.must(err)
			p := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
			return p.Offset, kerr.ErrorForCode(p.ErrorCode)
		}
		names := func(node int) int32 {
			resp, err := l.cl.Broker(node).Request(l.t.Context(), kmsg.NewPtrMetadataRequest())
			l.must(err)
			return resp.(*kmsg.MetadataResponse).Topics[0].Partitions[0].Leader
		}
		l.must(l.Isolate(old - 1))
		time.Sleep(time.Second)
		other := old%3 + 1
		now := int(names(other))
		if now == old || names(old) != int32(old) {
			t.Fatalf("broker %d names %d as the leader, and broker %d names %d", other, now, old, names(old))
		}
		if _, err := l.produce(now, "t", 0, newBatch(7, 0, 3, 2), time.Second); err != nil {
			t.Fatal(err)
		}
		if at, err := end(now, epoch+2); at != 5 || err != nil {
			t.Errorf("the leader says %d, %v", at, err)
		}
		if at, err := end(old, -1); at != 3 || err != nil {
			t.Errorf("the old leader says %d, %v", at, err)
		}
		_, err := end(old, epoch+2)
		l.wants("an epoch that it does not know", err, kerr.UnknownLeaderEpoch)
		if f := l.fetch(old, "t", 0, 0, nil); f.HighWatermark != 3 {
			t.Errorf("the old leader's high watermark is %d", f.HighWatermark)
		}
		_, err = l.produce(old, "t", 0, newBatch(8, 0, 0, 1), time.Second)
		l.wants("a write", err, kerr.NotLeaderForPartition)
		l.must(l.Reunite(old - 1))
		_, err = end(old, -1)
		l.wants("when it is back", err, kerr.NotLeaderForPartition)
	})
}
