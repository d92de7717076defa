package kmodel

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicDefaults are the settings of topics with their defaults (LogConfig).
var topicDefaults = map[string]string{
	"cleanup.policy":                          "delete",
	"compression.gzip.level":                  "-1",
	"compression.lz4.level":                   "9",
	"compression.type":                        "producer",
	"compression.zstd.level":                  "3",
	"delete.retention.ms":                     "86400000",
	"file.delete.delay.ms":                    "60000",
	"flush.messages":                          "9223372036854775807",
	"flush.ms":                                "9223372036854775807",
	"follower.replication.throttled.replicas": "",
	"index.interval.bytes":                    "4096",
	"leader.replication.throttled.replicas":   "",
	"local.retention.bytes":                   "-2",
	"local.retention.ms":                      "-2",
	"max.compaction.lag.ms":                   "9223372036854775807",
	"max.message.bytes":                       "1048588",
	"message.timestamp.after.max.ms":          "3600000",
	"message.timestamp.before.max.ms":         "9223372036854775807",
	"message.timestamp.type":                  "CreateTime",
	"min.cleanable.dirty.ratio":               "0.5",
	"min.compaction.lag.ms":                   "0",
	"min.insync.replicas":                     "1",
	"preallocate":                             "false",
	"remote.storage.enable":                   "false",
	"retention.bytes":                         "-1",
	"retention.ms":                            "604800000",
	"segment.bytes":                           "1073741824",
	"segment.index.bytes":                     "10485760",
	"segment.jitter.ms":                       "0",
	"segment.ms":                              "604800000",
	"unclean.leader.election.enable":          "false",
}

// brokerDefaults are the settings of brokers that the model has.
var brokerDefaults = map[string]string{
	"auto.create.topics.enable":                                   "false",
	"default.replication.factor":                                  "1",
	"group.initial.rebalance.delay.ms":                            "0",
	"group.max.session.timeout.ms":                                "1800000",
	"group.min.session.timeout.ms":                                "6000",
	"log.cleaner.backoff.ms":                                      "15000",
	"log.initial.task.delay.ms":                                   "30000",
	"log.retention.check.interval.ms":                             "300000",
	"message.max.bytes":                                           "1048588",
	"num.partitions":                                              "1",
	"offset.metadata.max.bytes":                                   "4096",
	"offsets.retention.check.interval.ms":                         "600000",
	"offsets.retention.minutes":                                   "10080",
	"producer.id.expiration.check.interval.ms":                    "600000",
	"producer.id.expiration.ms":                                   "86400000",
	"transaction.abort.timed.out.transaction.cleanup.interval.ms": "10000",
	"transaction.max.timeout.ms":                                  "900000",
	"transaction.remove.expired.transaction.cleanup.interval.ms":  "3600000",
	"transactional.id.expiration.ms":                              "604800000",
}

func topicConfigNames() []string { return slices.Sorted(maps.Keys(topicDefaults)) }

// config returns a setting of a topic.
func (t *topic) config(name string) string {
	v, _ := t.configWithSource(name)
	return v
}

func (t *topic) configWithSource(name string) (string, kmsg.ConfigSource) {
	if v, ok := t.configs[name]; ok {
		return v, kmsg.ConfigSourceDynamicTopicConfig
	}
	if name == "max.message.bytes" {
		if v, ok := t.c.props["message.max.bytes"]; ok {
			return v, kmsg.ConfigSourceStaticBrokerConfig
		}
	}
	if name == "message.timestamp.after.max.ms" && t.c.o.Version == Oldest {
		return "9223372036854775807", kmsg.ConfigSourceDefaultConfig
	}
	return topicDefaults[name], kmsg.ConfigSourceDefaultConfig
}

func (t *topic) intConfig(name string) int64 {
	n, ok := number(t.config(name))
	if !ok {
		panic("bug: configuration " + name + " is no number")
	}
	return n
}

func (t *topic) compacted() bool { return strings.Contains(t.config("cleanup.policy"), "compact") }
func (t *topic) deletes() bool   { return strings.Contains(t.config("cleanup.policy"), "delete") }

func validTopicConfig(name, value string) bool {
	otherwise, known := topicDefaults[name]
	if !known {
		return false
	}
	if _, isNumber := number(otherwise); isNumber {
		_, ok := number(value)
		return ok
	}
	switch name {
	case "cleanup.policy":
		for v := range strings.SplitSeq(value, ",") {
			if v = strings.TrimSpace(v); v != "compact" && v != "delete" {
				return false
			}
		}
	case "min.cleanable.dirty.ratio":
		f, err := strconv.ParseFloat(value, 64)
		return err == nil && f >= 0 && f <= 1
	case "message.timestamp.type":
		return value == "CreateTime" || value == "LogAppendTime"
	case "compression.type":
		return slices.Contains([]string{"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"}, value)
	}
	return true
}

func (c *Cluster) describeConfigs(_ *request, req *kmsg.DescribeConfigsRequest) kmsg.Response {
	resp := answerTo[kmsg.DescribeConfigsResponse](req)
	for _, rr := range req.Resources {
		ar := kmsg.NewDescribeConfigsResponseResource()
		ar.ResourceType, ar.ResourceName = rr.ResourceType, rr.ResourceName
		add := func(name, value string, source kmsg.ConfigSource) {
			if rr.ConfigNames != nil && !slices.Contains(rr.ConfigNames, name) {
				return
			}
			ac := kmsg.NewDescribeConfigsResponseResourceConfig()
			ac.Name, ac.Value, ac.Source = name, &value, source
			ac.IsDefault = source == kmsg.ConfigSourceDefaultConfig
			ar.Configs = append(ar.Configs, ac)
		}
		switch rr.ResourceType {
		case kmsg.ConfigResourceTypeTopic:
			t, err := c.topicOf(rr.ResourceName, [16]byte{}, false)
			if c.denied(DescribeConfigs, rr.ResourceName) {
				err = kerr.TopicAuthorizationFailed
			}
			if err != nil {
				ar.ErrorCode = err.Code
				break
			}
			for _, name := range topicConfigNames() {
				value, source := t.configWithSource(name)
				add(name, value, source)
			}
		case kmsg.ConfigResourceTypeBroker:
			if c.denied(DescribeClusterConfigs, "") {
				ar.ErrorCode = kerr.ClusterAuthorizationFailed.Code
				break
			}
			for _, name := range slices.Sorted(maps.Keys(brokerDefaults)) {
				source := kmsg.ConfigSourceDefaultConfig
				if _, set := c.props[name]; set {
					source = kmsg.ConfigSourceStaticBrokerConfig
				}
				add(name, c.property(name), source)
			}
		default:
			ar.ErrorCode = kerr.InvalidRequest.Code
		}
		resp.Resources = append(resp.Resources, ar)
	}
	return resp
}

func (c *Cluster) incrementalAlterConfigs(_ *request, req *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	resp := answerTo[kmsg.IncrementalAlterConfigsResponse](req)
	for _, rr := range req.Resources {
		ar := kmsg.NewIncrementalAlterConfigsResponseResource()
		ar.ResourceType, ar.ResourceName = rr.ResourceType, rr.ResourceName
		var err *kerr.Error
		switch rr.ResourceType {
		case kmsg.ConfigResourceTypeTopic:
			var t *topic
			t, err = c.topicOf(rr.ResourceName, [16]byte{}, false)
			if c.denied(AlterConfigs, rr.ResourceName) {
				err = kerr.TopicAuthorizationFailed
			}
			if err == nil {
				err = alter(t.configs, rr.Configs, t.config, validTopicConfig, req.ValidateOnly)
			}
		case kmsg.ConfigResourceTypeBroker:
			if c.denied(AlterCluster, "") {
				err = kerr.ClusterAuthorizationFailed
				break
			}
			err = alter(c.props, rr.Configs, c.property, validProperty, req.ValidateOnly)
		default:
			err = kerr.InvalidRequest
		}
		if err != nil {
			ar.ErrorCode = err.Code
		}
		resp.Resources = append(resp.Resources, ar)
	}
	return resp
}

func validProperty(name, value string) bool {
	otherwise, known := brokerDefaults[name]
	if _, isNumber := number(otherwise); isNumber {
		_, known = number(value)
	}
	return known
}

// alter changes settings, all or none.
func alter(configs map[string]string, changes []kmsg.IncrementalAlterConfigsRequestResourceConfig, current func(string) string, valid func(name, value string) bool, dry bool) *kerr.Error {
	next := maps.Clone(configs)
	for _, ch := range changes {
		value := ""
		if ch.Value != nil {
			value = *ch.Value
		}
		list := strings.FieldsFunc(current(ch.Name), func(r rune) bool { return r == ',' })
		switch ch.Op {
		case kmsg.IncrementalAlterConfigOpSet:
		case kmsg.IncrementalAlterConfigOpDelete:
			delete(next, ch.Name)
			continue
		case kmsg.IncrementalAlterConfigOpAppend:
			value = strings.Join(append(list, value), ",")
		case kmsg.IncrementalAlterConfigOpSubtract:
			value = strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == value }), ",")
		}
		if !valid(ch.Name, value) {
			return kerr.InvalidConfig
		}
		next[ch.Name] = value
	}
	if !dry {
		clear(configs)
		maps.Copy(configs, next)
	}
	return nil
}
