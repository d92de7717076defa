package preflight

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// stateTopic is the topic in which replicators keep their state; see kstate.
const stateTopic = dr.InternalPrefix + "_state"

var internalTopics = resource{option: "--topic", name: dr.InternalPrefix, prefixed: true}

// within returns the topics that belong to a resource.
func within(topics map[string]topic, r resource) []topic {
	var out []topic
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		if r.covers(name) {
			out = append(out, topics[name])
		}
	}
	return out
}

// checkSource looks at what is read: the selected topics and the registry.
func (c *cluster) checkSource(ctx context.Context) {
	if c.client == nil {
		return
	}
	all, err := c.listTopics(ctx)
	if err != nil {
		c.checkFailed(err)
		return
	}
	c.topics = map[string]topic{}
	for name, t := range all {
		if t.code == 0 && c.rep.Filter.Match(name) {
			c.topics[name] = t
		}
	}
	c.report.Topics = len(c.topics)
	ops := []string{opRead, opDescribeConfigs}
	for _, r := range topicResources(c.rep.Include, dr.Naming{}) {
		c.checkTopics(ctx, need{r, ops, "the topics to copy"}, within(c.topics, r), 0)
	}
	c.checkTopics(ctx, need{internalTopics, []string{opRead}, "the registry of replicators that write here"}, within(all, internalTopics), 0)
	lacking := len(c.report.MissingGrants)
	c.checkGroups(ctx)
	if len(c.topics) == 0 && lacking == 0 {
		c.found("no_topics", dr.SeverityInfo, c.subject(), "", "no topic is selected yet; those created later are found by themselves")
	}
	c.checkStateTopic(ctx, all)
	if c.rep.ACLs || c.rep.Quotas {
		c.checkRules(ctx, c.clusterOps(ctx))
	}
}

// checkTarget looks at what is written there. src may not be connected; then
// only what does not depend on its topics is checked.
func (c *cluster) checkTarget(ctx context.Context, src *cluster) {
	if c.client == nil {
		return
	}
	names := map[string]string{} // target name -> source name
	for name := range src.topics {
		names[c.rep.Naming.Target(name)] = name
	}
	selected, err := c.describeTopics(ctx, slices.Sorted(maps.Keys(names)))
	if err != nil {
		c.checkFailed(err)
		return
	}
	c.topics = map[string]topic{}
	for name, t := range selected {
		if t.code == 0 {
			c.topics[name] = t
		}
	}
	c.report.Topics = len(c.topics)
	clusterOps := c.clusterOps(ctx)
	ops := []string{opRead, opWrite, opCreate, opAlter, opAlterConfigs}
	if c.rep.Settings == dr.SettingsOwn {
		// Nothing is altered but the number of partitions.
		ops = []string{opRead, opWrite, opCreate, opAlter, opDescribeConfigs}
	}
	if c.rep.DeletedTopics == dr.DeleteFollow {
		ops = append(ops, opDelete)
	}
	for _, r := range topicResources(c.rep.Include, c.rep.Naming) {
		c.checkTopics(ctx, need{r, ops, "the topics to write"}, within(selected, r), clusterOps)
	}
	internal, err := c.describeTopics(ctx, []string{stateTopic})
	if err != nil {
		c.checkFailed(err)
		return
	}
	c.checkTopics(ctx, need{internalTopics, []string{opRead, opWrite, opCreate}, "the state of the replicator"}, within(internal, internalTopics), clusterOps)
	c.checkTransactionalID(ctx)
	c.checkGroup(ctx)
	c.checkGroups(ctx)
	c.checkRules(ctx, clusterOps)
	c.checkStateTopic(ctx, internal)
	c.checkBrokerSettings(ctx)
	c.checkRecordSizes(ctx, src, names)
	c.probe(ctx)
}

// retentionNote completes what is said of settings that may not be read, where
// groups are carried; see the renewal in package groups.
func (c *cluster) retentionNote() string {
	if c.rep.Groups == nil {
		return ""
	}
	return "; and offsets.retention.minutes for 168h: where it is shorter than a quarter of that, positions of groups that stand still expire on the target"
}

// describeConfigs returns the settings of resources of one type by name. What
// may not be described is left out.
func (c *cluster) describeConfigs(ctx context.Context, kind kmsg.ConfigResourceType, names []string) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	for chunk := range slices.Chunk(names, 250) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, n := range chunk {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName = kind, n
			req.Resources = append(req.Resources, r)
		}
		// Requests about brokers go to each of them, so there may be several
		// answers.
		for _, shard := range c.client.RequestSharded(ctx, req) {
			if shard.Err != nil {
				return nil, shard.Err
			}
			resp, ok := shard.Resp.(*kmsg.DescribeConfigsResponse)
			if !ok {
				continue
			}
			for _, r := range resp.Resources {
				if r.ErrorCode != 0 {
					continue
				}
				values := map[string]string{}
				for _, cfg := range r.Configs {
					if cfg.Value != nil {
						values[cfg.Name] = *cfg.Value
					}
				}
				out[r.ResourceName] = values
			}
		}
	}
	return out, nil
}

// checkStateTopic looks at how safely the state is kept, if it exists.
func (c *cluster) checkStateTopic(ctx context.Context, topics map[string]topic) {
	t, ok := topics[stateTopic]
	if !ok || t.code != 0 {
		return
	}
	subject := "topic " + stateTopic + " on cluster " + c.o.Name
	if want := min(3, len(c.report.Brokers)); t.replicas < want {
		c.found("state_topic_replication", dr.SeverityWarning, subject, "raise its replication factor to "+strconv.Itoa(want)+" with kafka-reassign-partitions.sh",
			"has %d replicas: its loss stops the replicator and makes every position unknown", t.replicas)
	}
	configs, err := c.describeConfigs(ctx, kmsg.ConfigResourceTypeTopic, []string{stateTopic})
	if err != nil {
		c.checkFailed(err)
		return
	}
	values, ok := configs[stateTopic]
	if !ok {
		return
	}
	if n, err := strconv.Atoi(values["min.insync.replicas"]); err == nil && n < 2 && t.replicas > 1 {
		c.found("state_topic_min_insync", dr.SeverityWarning, subject, "set min.insync.replicas=2 on it",
			"min.insync.replicas is %d: one broker that fails can take acknowledged state with it", n)
	}
	if values["unclean.leader.election.enable"] == "true" {
		c.found("state_topic_unclean_election", dr.SeverityWarning, subject, "set unclean.leader.election.enable=false on it",
			"unclean leader elections can lose acknowledged state")
	}
	if v := values["cleanup.policy"]; v != "" && v != "compact" {
		c.found("state_topic_cleanup", dr.SeverityError, subject, "set cleanup.policy=compact on it", "cleanup.policy is %s: state would be deleted by age", v)
	}
}

// checkBrokerSettings looks at settings of the target's brokers that weaken the
// guarantees or get in the way.
func (c *cluster) checkBrokerSettings(ctx context.Context) {
	if len(c.report.Brokers) == 0 {
		return
	}
	id := strconv.Itoa(int(c.report.Brokers[0].ID))
	configs, err := c.describeConfigs(ctx, kmsg.ConfigResourceTypeBroker, []string{id})
	if err != nil {
		c.checkFailed(err)
		return
	}
	values, ok := configs[id]
	if !ok {
		line := c.command(resource{option: "--cluster"}, []string{opDescribeConfigs})
		c.found("broker_settings_unknown", dr.SeverityInfo, c.subject(), line, "%s may not read the brokers' settings, so some checks were left out", c.report.Principal)
		// The defaults of replicate; see limits there.
		c.found("expiration_assumed", dr.SeverityWarning, c.subject(), line,
			"workers may not read how long the brokers remember producers, and take producer.id.expiration.ms for 24h and transactional.id.expiration.ms for 168h (Kafka's defaults): "+
				"where the first is shorter, records that are older than half of it are not sent with the care that they need, and may be doubled; "+
				"where the second is shorter, slots that stand still lose their producer ids and begin one session later%s", c.retentionNote())
		return
	}
	millis := func(key string) time.Duration {
		n, err := strconv.ParseInt(values[key], 10, 64)
		if err != nil {
			return -1
		}
		return time.Duration(n) * time.Millisecond
	}
	if d := millis("producer.id.expiration.ms"); d >= 0 && d < time.Hour {
		c.found("producer_id_expiration_short", dr.SeverityWarning, c.subject(), "set producer.id.expiration.ms=86400000 on the brokers",
			"producer.id.expiration.ms is %s: brokers soon forget which batches they hold, so that the position must be found again more often, and more slowly while old data is copied", d)
	}
	if d := millis("transactional.id.expiration.ms"); d >= 0 && d < 24*time.Hour {
		c.found("transactional_id_expiration_short", dr.SeverityWarning, c.subject(), "set transactional.id.expiration.ms=604800000 on the brokers",
			"transactional.id.expiration.ms is %s: a replicator that stood still for longer must wait until producers of its former run are surely gone", d)
	}
	if d := millis("group.min.session.timeout.ms"); d > c.rep.SessionTimeout {
		c.found("session_timeout_too_short", dr.SeverityError, c.subject(), "set session_timeout of the replicator to "+d.String()+" or more, or lower group.min.session.timeout.ms on the brokers",
			"group.min.session.timeout.ms is %s, session_timeout of the replicator is %s: workers would be refused", d, c.rep.SessionTimeout)
	}
	if values["auto.create.topics.enable"] == "true" {
		c.found("auto_create_topics", dr.SeverityWarning, c.subject(), "set auto.create.topics.enable=false on the brokers",
			"auto.create.topics.enable is true: a client that comes too early makes topics with other settings and partitions than the source's")
	}
}

// checkRecordSizes finds topics whose records may be too large for the target.
// Where settings follow, the replicator adjusts the topics itself.
func (c *cluster) checkRecordSizes(ctx context.Context, src *cluster, names map[string]string) {
	if c.rep.Settings != dr.SettingsOwn || len(c.topics) == 0 || src.client == nil {
		return
	}
	there, err := c.describeConfigs(ctx, kmsg.ConfigResourceTypeTopic, slices.Sorted(maps.Keys(c.topics)))
	if err != nil {
		c.checkFailed(err)
		return
	}
	here, err := src.describeConfigs(ctx, kmsg.ConfigResourceTypeTopic, slices.Sorted(maps.Keys(src.topics)))
	if err != nil {
		src.checkFailed(err)
		return
	}
	var small []string
	for name, values := range there {
		a, errA := strconv.Atoi(here[names[name]]["max.message.bytes"])
		b, errB := strconv.Atoi(values["max.message.bytes"])
		if errA == nil && errB == nil && b < a {
			small = append(small, name+": "+strconv.Itoa(b)+" < "+strconv.Itoa(a))
		}
	}
	if len(small) > 0 {
		c.found("max_message_bytes_smaller", dr.SeverityWarning, c.subject(), "raise max.message.bytes of these topics to the source's, or set topic_settings: follow",
			"topics take smaller batches than the source's (%s): larger ones are split, and a single record that is too large halts its partition", someOf(small))
	}
}
