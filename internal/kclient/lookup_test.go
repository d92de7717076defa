package kclient

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// answerLookUps has the brokers of a fake cluster answer look-ups by id.
func answerLookUps(c *kfake.Cluster, fn func(node int32, id [16]byte) *kerr.Error) {
	c.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.MetadataRequest)
		if len(req.Topics) == 0 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		for _, rt := range req.Topics {
			is := kmsg.NewMetadataResponseTopic()
			is.TopicID = rt.TopicID
			if err := fn(c.CurrentNode(), rt.TopicID); err != nil {
				is.ErrorCode = err.Code
			}
			resp.Topics = append(resp.Topics, is)
		}
		return resp, nil, true
	})
}

// TestLookUpTopics_GoneNeedsEveryBroker: one broker that does not know an id
// proves nothing, and neither does one that does not answer.
func TestLookUpTopics_GoneNeedsEveryBroker(t *testing.T) {
	t.Parallel()
	c, cl := threeBrokers(t)
	gone, lagging, hidden := [16]byte{1}, [16]byte{2}, [16]byte{3}
	answerLookUps(c, func(node int32, id [16]byte) *kerr.Error {
		switch {
		case node == 2 && id == lagging:
			return nil
		case node == 2 && id == hidden:
			return kerr.TopicAuthorizationFailed
		}
		return kerr.UnknownTopicID
	})
	ids := [][16]byte{gone, lagging, hidden}
	for name, tc := range map[string]struct {
		brokers []int32
		want    [3]Presence
	}{
		"all answer":     {[]int32{0, 1, 2}, [3]Presence{TopicGone, TopicOpen, TopicDenied}},
		"one that lags":  {[]int32{0, 1}, [3]Presence{TopicGone, TopicGone, TopicGone}},
		"one is missing": {[]int32{0, 1, 2, 99}, [3]Presence{TopicOpen, TopicOpen, TopicDenied}},
		"none":           {nil, [3]Presence{}},
	} {
		found := LookUpTopics(t.Context(), cl, tc.brokers, ids, 5*time.Second)
		if d := cmp.Diff(tc.want, [3]Presence{found[gone], found[lagging], found[hidden]}); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestLookUpTopics_AsksForManyInSeveralRequests counts what one request has.
func TestLookUpTopics_AsksForManyInSeveralRequests(t *testing.T) {
	t.Parallel()
	c, cl := threeBrokers(t)
	seen := make(chan int, 10)
	c.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if n := len(kreq.(*kmsg.MetadataRequest).Topics); n > 1 {
			seen <- n
		}
		return nil, nil, false
	})
	answerLookUps(c, func(int32, [16]byte) *kerr.Error { return kerr.UnknownTopicID })
	ids := make([][16]byte, 2*idChunk+7)
	for i := range ids {
		ids[i] = [16]byte{1, byte(i), byte(i >> 8)}
	}
	if found := LookUpTopics(t.Context(), cl, []int32{1}, ids, 5*time.Second); len(found) != len(ids) || found[ids[len(ids)-1]] != TopicGone {
		t.Errorf("%d of %d are gone", len(found), len(ids))
	}
	if got := [4]int{<-seen, <-seen, <-seen, len(seen)}; got != [4]int{idChunk, idChunk, 7, 0} {
		t.Errorf("requests had %v topics", got)
	}
}
