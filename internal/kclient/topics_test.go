package kclient

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// threeBrokers returns a fake cluster and a client of it.
func threeBrokers(t *testing.T) (*kfake.Cluster, *kgo.Client) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := New(Options{BootstrapServers: c.ListenAddrs()[:1]}, kgo.RequestRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return c, cl
}

func TestCreateTopic_AsksForWhatIsWanted(t *testing.T) {
	t.Parallel()
	c, cl := threeBrokers(t)
	type asked struct {
		Name        string
		Partitions  int32
		Replication int16
		Configs     [][2]string
		Millis      int32
	}
	seen := make(chan asked, 1)
	c.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
		req := r.(*kmsg.CreateTopicsRequest)
		a := asked{req.Topics[0].Topic, req.Topics[0].NumPartitions, req.Topics[0].ReplicationFactor, nil, req.TimeoutMillis}
		for _, kv := range req.Topics[0].Configs {
			a.Configs = append(a.Configs, [2]string{kv.Name, *kv.Value})
		}
		seen <- a
		return nil, nil, false
	})
	configs := map[string]string{"retention.ms": "1000", "cleanup.policy": "delete", "min.insync.replicas": "1"}
	if err := CreateTopic(t.Context(), cl, "stock", 4, 2, configs, 7*time.Second); err != nil {
		t.Fatal(err)
	}
	want := asked{"stock", 4, 2, [][2]string{{"cleanup.policy", "delete"}, {"min.insync.replicas", "1"}, {"retention.ms", "1000"}}, 7000}
	if d := cmp.Diff(want, <-seen); d != "" {
		t.Errorf("request (-want +got):\n%s", d)
	}
	if info := c.TopicInfo("stock"); info == nil {
		t.Error("there is no topic")
	}
}

func TestCreateTopic_SaysWhyNot(t *testing.T) {
	t.Parallel()
	c, cl := threeBrokers(t)
	if err := CreateTopic(t.Context(), cl, "orders", 1, 1, nil, time.Second); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Errorf("error %v, want one that the topic is there", err)
	}
	c.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
		resp := r.ResponseKind().(*kmsg.CreateTopicsResponse)
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.ErrorCode, rt.ErrorMessage = "stock", kerr.PolicyViolation.Code, new("names begin with a team")
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	if err := CreateTopic(t.Context(), cl, "stock", 1, 1, nil, time.Second); !errors.Is(err, kerr.PolicyViolation) || !strings.HasSuffix(err.Error(), ": names begin with a team") {
		t.Errorf("error %v, want the policy's and its words", err)
	}
}

func TestLiveBrokers(t *testing.T) {
	t.Parallel()
	c, cl := threeBrokers(t)
	if n, err := LiveBrokers(t.Context(), cl); n != 3 || err != nil {
		t.Errorf("%d brokers, %v; want 3", n, err)
	}
	c.Close()
	if _, err := LiveBrokers(t.Context(), cl); err == nil || !strings.HasPrefix(err.Error(), "count brokers: ") {
		t.Errorf("error %v of a cluster that is gone", err)
	}
}
