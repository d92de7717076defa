package mirror

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	createTopics     = 100  // topics in one request
	createPartitions = 2000 // partitions in one request; KRaft refuses above 10,000 records (QuorumController)

	brokerDefault     = -1 // replication factor of the target's brokers (KIP-464)
	replicationFactor = 3  // otherwise, or the number of brokers if that is smaller
	maxCreateAttempts = 3
	maxSettingsPasses = 2 // a setting may be valid only once another one is there
)

// creation is one topic on its way to the target.
type creation struct {
	change      Change
	settings    []Setting
	replication int16
	refused     []refusal

	err *topicError // of the last try, nil when it was created
}

// create creates topics. The ledger knows of each before the broker does, so
// that a crash in between is seen as one. It learns of the topic's id only when
// a broker lists the topic, see adopt: a controller answers before the brokers
// know the topic, on a busy cluster by seconds, and a topic that is in the
// ledger as created and that no broker knows counts as deleted.
func (t *Topics) create(ctx context.Context, changes []Change, failed *PartialError) error {
	before := make([]Entry, 0, len(changes))
	todo := make([]*creation, 0, len(changes))
	for _, c := range changes {
		before = append(before, c.entry(PhaseCreating))
		todo = append(todo, &creation{change: c, settings: c.Settings, replication: brokerDefault})
	}
	if err := t.record(ctx, before); err != nil {
		return err
	}
	for range maxCreateAttempts {
		if len(todo) == 0 {
			break
		}
		if err := t.createAll(ctx, todo, forReal); err != nil {
			return err
		}
		var err error
		if todo, err = t.settle(ctx, todo, failed); err != nil {
			return err
		}
	}
	for _, c := range todo {
		failed.add(c.change.Source, c.err)
	}
	return nil
}

// settle returns the topics that are worth another try, with what has to change
// for it.
func (t *Topics) settle(ctx context.Context, tried []*creation, failed *PartialError) ([]*creation, error) {
	var again, probe []*creation
	for _, c := range tried {
		switch {
		case c.err == nil:
			if len(c.refused) > 0 {
				t.setRefused(c.change.SourceTopicID, c.refused)
			}
			t.setAwaited(c.change.SourceTopicID)
			done := c.change
			done.Settings = c.settings
			t.logDone(ctx, "topic created", done)
		case c.err.code == kerr.TopicAlreadyExists.Code:
			// Created by somebody else, or by a try before whose answer was lost.
			t.setAwaited(c.change.SourceTopicID)
		case c.err.code == kerr.InvalidReplicationFactor.Code && c.replication == brokerDefault:
			again = append(again, c)
		case c.err.refusesSetting() && len(c.settings) > 0:
			probe = append(probe, c)
		default:
			failed.add(c.change.Source, c.err)
		}
	}
	if len(again) > 0 {
		n, err := t.fallbackReplication(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range again {
			c.replication = n
		}
	}
	if err := t.probeSettings(ctx, probe); err != nil {
		return nil, err
	}
	return append(again, probe...), nil
}

// fallbackReplication is for brokers that refuse the broker default: they are
// older than Kafka 2.4, or their default is more than they have brokers.
func (t *Topics) fallbackReplication(ctx context.Context) (int16, error) {
	v, err := readTopics(ctx, t.o.Target, onTarget, []string{})
	if err != nil {
		return 0, err
	}
	return int16(min(replicationFactor, max(1, len(v.brokers)))), nil
}

// probeSettings finds out which settings of each creation the target takes, by
// requests that only validate. It starts from none and adds one at a time for
// all topics at once; what is refused is tried again after the others, because
// some settings need another one first.
func (t *Topics) probeSettings(ctx context.Context, topics []*creation) error {
	if len(topics) == 0 {
		return nil
	}
	open := make(map[*creation][]Setting, len(topics))
	for _, c := range topics {
		open[c], c.settings, c.refused = c.settings, nil, nil
	}
	for range maxSettingsPasses {
		reasons := make(map[*creation][]refusal, len(topics))
		for i := 0; ; i++ {
			var tries []*creation
			for _, c := range topics {
				if i < len(open[c]) {
					c.settings = append(c.settings, open[c][i])
					tries = append(tries, c)
				}
			}
			if len(tries) == 0 {
				break
			}
			if err := t.createAll(ctx, tries, validateOnly); err != nil {
				return err
			}
			for _, c := range tries {
				if c.err != nil && c.err.refusesSetting() {
					last := len(c.settings) - 1
					reasons[c] = append(reasons[c], refusal{c.settings[last], c.err.Error()})
					c.settings = c.settings[:last]
				}
			}
		}
		for _, c := range topics {
			c.refused, open[c] = reasons[c], nil
			for _, r := range reasons[c] {
				open[c] = append(open[c], r.setting)
			}
		}
	}
	return nil
}

// createMode says whether a request creates or only asks.
type createMode int

const (
	forReal createMode = iota
	validateOnly
)

// createAll sends one round of requests and leaves each topic's answer in its
// creation.
func (t *Topics) createAll(ctx context.Context, topics []*creation, mode createMode) error {
	changes := make([]Change, 0, len(topics))
	byTarget := make(map[string]*creation, len(topics))
	for _, c := range topics {
		changes = append(changes, c.change)
		byTarget[c.change.Target] = c
	}
	for _, chunk := range cut(changes) {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.ValidateOnly = mode == validateOnly
		req.TimeoutMillis = int32(adminTimeout / time.Millisecond)
		for _, change := range chunk {
			c := byTarget[change.Target]
			c.err = &topicError{operation: "CREATE", topic: change.Target, cluster: onTarget, code: kerr.UnknownServerError.Code, message: "no answer for the topic"}
			req.Topics = append(req.Topics, c.request())
		}
		resp, err := request(ctx, t.o.Target, req.RequestWith)
		if err != nil {
			return requestError(onTarget, "create topics", err)
		}
		for _, rt := range resp.Topics {
			c, ok := byTarget[rt.Topic]
			switch {
			case !ok:
			case rt.ErrorCode == 0:
				c.err = nil
			default:
				c.err.code, c.err.message = rt.ErrorCode, deref(rt.ErrorMessage)
			}
		}
	}
	return nil
}

func (c *creation) request() kmsg.CreateTopicsRequestTopic {
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = c.change.Target, c.change.Partitions, c.replication
	for _, s := range c.settings {
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = s.Name, s.Value
		rt.Configs = append(rt.Configs, rc)
	}
	return rt
}

// cut splits changes into requests of a bounded number of topics and
// partitions. One topic is never split.
func cut(changes []Change) [][]Change {
	var out [][]Change
	for len(changes) > 0 {
		n, partitions := 0, 0
		for n < len(changes) && n < createTopics {
			partitions += int(changes[n].Partitions)
			if n > 0 && partitions > createPartitions {
				break
			}
			n++
		}
		out = append(out, slices.Clip(changes[:n]))
		changes = changes[n:]
	}
	return out
}
