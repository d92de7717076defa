package kmodel

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topic is one life of a topic: made again under its name, it is another one.
type topic struct {
	c          *Cluster
	name       string
	id         [16]byte
	configs    map[string]string // those that were set
	partitions []*partition
	leaderless map[int32]bool // kept without a leader by a fault
	deleted    bool
}

func (t *topic) partition(num int32) *partition {
	if num < 0 || int(num) >= len(t.partitions) {
		return nil
	}
	return t.partitions[num]
}

func (c *Cluster) sortedTopics() []*topic {
	out := slices.Collect(maps.Values(c.topics))
	slices.SortFunc(out, func(x, y *topic) int { return strings.Compare(x.name, y.name) })
	return out
}

// newTopic makes a topic. Its leaders answer for it a little later.
func (c *Cluster) newTopic(name string, partitions, replicas int, configs map[string]string) *topic {
	t := &topic{c: c, name: name, id: c.newUUID(), configs: configs, leaderless: map[int32]bool{}}
	c.grow(t, partitions, replicas)
	c.topics[name], c.ids[t.id] = t, t
	return t
}

// grow adds partitions up to a number.
func (c *Cluster) grow(t *topic, partitions, replicas int) {
	var alive []int32
	for _, b := range c.brokers {
		if b.running {
			alive = append(alive, b.node)
		}
	}
	replicas = min(max(replicas, c.o.Replicas), len(alive))
	shift := c.rng.IntN(len(alive))
	for num := len(t.partitions); num < partitions; num++ {
		var on []int32
		for i := range replicas {
			on = append(on, alive[(shift+num+i)%len(alive)])
		}
		p := newPartition(t, int32(num), on)
		p.fresh = c.rng.IntN(2) == 0
		wait := c.within(c.o.Delays.Ready)
		p.readyAt = time.Now().Add(wait)
		t.partitions = append(t.partitions, p)
		c.after(wait, func() {
			p.fresh = false
			p.wake()
		})
	}
}

func (c *Cluster) deleteTopic(t *topic) {
	t.deleted = true
	delete(c.topics, t.name)
	delete(c.ids, t.id)
	for _, p := range t.partitions {
		p.fail(kerr.UnknownTopicOrPartition)
	}
	for _, g := range c.groups {
		maps.DeleteFunc(g.offsets, func(pl place, _ commit) bool { return pl.topic == t.name })
	}
}

func validName(name string) bool {
	return name != "" && len(name) <= 249 && name != "." && name != ".." && !strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r)
	})
}

func (c *Cluster) createTopics(_ *request, req *kmsg.CreateTopicsRequest) kmsg.Response {
	resp := answerTo[kmsg.CreateTopicsResponse](req)
	for _, rt := range req.Topics {
		at := kmsg.NewCreateTopicsResponseTopic()
		at.Topic, at.NumPartitions, at.ReplicationFactor = rt.Topic, -1, -1
		t, bad := c.createTopic(rt, req.ValidateOnly)
		switch {
		case bad != nil:
			at.ErrorCode, at.ErrorMessage = bad.err.Code, &bad.message
		case t != nil:
			at.TopicID, at.NumPartitions, at.ReplicationFactor = t.id, int32(len(t.partitions)), int16(len(t.partitions[0].replicas))
			for _, name := range topicConfigNames() {
				ac := kmsg.NewCreateTopicsResponseTopicConfig()
				value, source := t.configWithSource(name)
				ac.Name, ac.Value, ac.Source = name, &value, int8(source)
				at.Configs = append(at.Configs, ac)
			}
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

func (c *Cluster) createTopic(rt kmsg.CreateTopicsRequestTopic, dry bool) (*topic, *refusal) {
	partitions, replicas := int(rt.NumPartitions), int(rt.ReplicationFactor)
	if len(rt.ReplicaAssignment) > 0 {
		partitions, replicas = len(rt.ReplicaAssignment), len(rt.ReplicaAssignment[0].Replicas)
	}
	if partitions == -1 {
		partitions = int(c.intProperty("num.partitions"))
	}
	if replicas == -1 {
		replicas = int(c.intProperty("default.replication.factor"))
	}
	switch {
	case c.denied(Create, rt.Topic):
		return nil, refuse(kerr.TopicAuthorizationFailed, "Authorization failed.")
	case c.topics[rt.Topic] != nil:
		return nil, refuse(kerr.TopicAlreadyExists, "Topic '"+rt.Topic+"' already exists.")
	case !validName(rt.Topic):
		return nil, refuse(kerr.InvalidTopicException, "Topic name is invalid.")
	case partitions <= 0:
		return nil, refuse(kerr.InvalidPartitions, "Number of partitions must be larger than 0.")
	case replicas <= 0 || replicas > len(c.brokers):
		return nil, refuse(kerr.InvalidReplicationFactor, "Unable to replicate the partition: there are not enough brokers.")
	}
	configs := map[string]string{}
	for _, rc := range rt.Configs {
		if rc.Value == nil || !validTopicConfig(rc.Name, *rc.Value) {
			return nil, refuse(kerr.InvalidConfig, "Invalid value of configuration "+rc.Name)
		}
		configs[rc.Name] = *rc.Value
	}
	if dry {
		return nil, nil
	}
	return c.newTopic(rt.Topic, partitions, replicas, configs), nil
}

func (c *Cluster) deleteTopics(_ *request, req *kmsg.DeleteTopicsRequest) kmsg.Response {
	resp := answerTo[kmsg.DeleteTopicsResponse](req)
	asked := req.Topics
	for _, name := range req.TopicNames {
		asked = append(asked, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	for _, rt := range asked {
		at := kmsg.NewDeleteTopicsResponseTopic()
		at.Topic, at.TopicID = rt.Topic, rt.TopicID
		name := ""
		if rt.Topic != nil {
			name = *rt.Topic
		}
		t, err := c.topicOf(name, rt.TopicID, rt.Topic == nil)
		switch {
		case err != nil:
		case c.denied(Delete, t.name):
			err = kerr.TopicAuthorizationFailed
		default:
			at.Topic, at.TopicID = &t.name, t.id
			c.deleteTopic(t)
		}
		if err != nil {
			at.ErrorCode = err.Code
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

func (c *Cluster) createPartitions(_ *request, req *kmsg.CreatePartitionsRequest) kmsg.Response {
	resp := answerTo[kmsg.CreatePartitionsResponse](req)
	for _, rt := range req.Topics {
		at := kmsg.NewCreatePartitionsResponseTopic()
		at.Topic = rt.Topic
		t, err := c.topicOf(rt.Topic, [16]byte{}, false)
		switch {
		case c.denied(Alter, rt.Topic):
			err = kerr.TopicAuthorizationFailed
		case err != nil:
		case int(rt.Count) <= len(t.partitions):
			err = kerr.InvalidPartitions
		case !req.ValidateOnly:
			c.grow(t, int(rt.Count), len(t.partitions[0].replicas))
		}
		if err != nil {
			at.ErrorCode = err.Code
		}
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

func (c *Cluster) metadata(r *request, req *kmsg.MetadataRequest) kmsg.Response {
	resp := answerTo[kmsg.MetadataResponse](req)
	resp.ClusterID, resp.ControllerID = &c.o.ID, -1
	for i, b := range c.brokers {
		if !b.running {
			continue
		}
		if resp.ControllerID < 0 {
			resp.ControllerID = b.node
		}
		ab := kmsg.NewMetadataResponseBroker()
		ab.NodeID, ab.Host, ab.Port = b.node, c.addrs[i].IP.String(), int32(c.addrs[i].Port)
		resp.Brokers = append(resp.Brokers, ab)
	}
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		for _, t := range c.sortedTopics() {
			if !c.denied(Describe, t.name) {
				resp.Topics = append(resp.Topics, c.describeTopic(r.b, t))
			}
		}
		return resp
	}
	for _, rt := range req.Topics {
		name := ""
		if rt.Topic != nil {
			name = *rt.Topic
		}
		t, err := c.topicOf(name, rt.TopicID, rt.Topic == nil)
		switch {
		case err == nil && c.denied(Describe, t.name), err != nil && rt.Topic != nil && c.denied(Describe, name):
			err = kerr.TopicAuthorizationFailed
		case err != nil && rt.Topic != nil && !validName(name):
			err = kerr.InvalidTopicException
		case err == nil:
			resp.Topics = append(resp.Topics, c.describeTopic(r.b, t))
			continue
		}
		at := kmsg.NewMetadataResponseTopic()
		at.Topic, at.TopicID, at.ErrorCode = rt.Topic, rt.TopicID, err.Code
		resp.Topics = append(resp.Topics, at)
	}
	return resp
}

func (c *Cluster) describeTopic(b *broker, t *topic) kmsg.MetadataResponseTopic {
	at := kmsg.NewMetadataResponseTopic()
	at.Topic, at.TopicID, at.IsInternal = &t.name, t.id, strings.HasPrefix(t.name, "__consumer_offsets") || strings.HasPrefix(t.name, "__transaction_state")
	at.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.partitions))
	for i, p := range t.partitions {
		p = p.seenBy(b)
		ap := &at.Partitions[i]
		ap.Default()
		ap.Partition, ap.Leader, ap.LeaderEpoch, ap.Replicas = p.num, p.leader, p.epoch, p.replicas
		for _, r := range p.replicas {
			switch {
			case !c.alive(r):
				ap.OfflineReplicas = append(ap.OfflineReplicas, r)
			case slices.Contains(p.isr, r):
				ap.ISR = append(ap.ISR, r)
			}
		}
		if p.leader < 0 {
			ap.ErrorCode = kerr.LeaderNotAvailable.Code
		}
	}
	return at
}

func (c *Cluster) describeCluster(_ *request, req *kmsg.DescribeClusterRequest) kmsg.Response {
	resp := answerTo[kmsg.DescribeClusterResponse](req)
	resp.ClusterID, resp.ControllerID, resp.EndpointType = c.o.ID, -1, 1
	for i, b := range c.brokers {
		if !b.running {
			continue
		}
		if resp.ControllerID < 0 {
			resp.ControllerID = b.node
		}
		ab := kmsg.NewDescribeClusterResponseBroker()
		ab.NodeID, ab.Host, ab.Port = b.node, c.addrs[i].IP.String(), int32(c.addrs[i].Port)
		resp.Brokers = append(resp.Brokers, ab)
	}
	return resp
}
