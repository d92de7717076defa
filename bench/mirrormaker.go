package main

import (
	"context"
	"strconv"

	"github.com/anabranch/anabranch/internal/ktest"
)

const mirrorHeapMB = 2048

// mirrorOptions says what a MirrorMaker 2 is started for.
type mirrorOptions struct {
	name     string // of its group and its internal topics
	topics   string // pattern
	codec    string // of its producers
	lingerMS int    // of its producers
}

// startMirrorMaker starts MirrorMaker 2 from the source to the target. It is
// paused while others are measured; its group session outlives that.
func (s *stage) startMirrorMaker(ctx context.Context, o mirrorOptions) (*ktest.Process, error) {
	return ktest.MirrorMaker(ctx, ktest.MirrorMakerOptions{
		Dir: s.dir, HeapMB: mirrorHeapMB, JavaArgs: []string{"-Xms1g"},
		Properties: mirrorProperties(s.source.addr(), s.target.addr(), o),
	})
}

// mirrorProperties is mm2.properties, tuned for throughput as the sections on
// MirrorMaker and on producer and consumer settings of Kafka's documentation
// say. bench/README.md explains each line.
func mirrorProperties(source, target string, o mirrorOptions) map[string]string {
	p := map[string]string{
		"clusters":                              "primary,secondary",
		"primary.bootstrap.servers":             source,
		"secondary.bootstrap.servers":           target,
		"primary->secondary.enabled":            "true",
		"secondary->primary.enabled":            "false",
		"primary->secondary.topics":             o.topics,
		"replication.policy.class":              "org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
		"tasks.max":                             strconv.Itoa(partitions),
		"refresh.topics.enabled":                "true",
		"refresh.topics.interval.seconds":       "1",
		"refresh.groups.enabled":                "false",
		"sync.topic.acls.enabled":               "false",
		"sync.topic.configs.enabled":            "false",
		"emit.heartbeats.enabled":               "false",
		"emit.checkpoints.enabled":              "false",
		"sync.group.offsets.enabled":            "false",
		"offset-syncs.topic.location":           "source",
		"replication.factor":                    "1",
		"offset-syncs.topic.replication.factor": "1",
		"heartbeats.topic.replication.factor":   "1",
		"checkpoints.topic.replication.factor":  "1",
		"config.storage.replication.factor":     "1",
		"offset.storage.replication.factor":     "1",
		"status.storage.replication.factor":     "1",
		"offset.storage.partitions":             "5",
		"status.storage.partitions":             "1",
		"secondary.group.id":                    "mm2-" + o.name,
		"secondary.config.storage.topic":        "mm2-configs-" + o.name,
		"secondary.offset.storage.topic":        "mm2-offsets-" + o.name,
		"secondary.status.storage.topic":        "mm2-status-" + o.name,
		// The worker's group survives being frozen while others are measured.
		"secondary.session.timeout.ms":               "300000",
		"secondary.rebalance.timeout.ms":             "60000",
		"secondary.scheduled.rebalance.max.delay.ms": "0",
	}
	for k, v := range map[string]string{
		"max.poll.records":          "10000",
		"max.partition.fetch.bytes": "4194304",
		"fetch.max.bytes":           "52428800",
		"fetch.min.bytes":           "1",
		"receive.buffer.bytes":      "1048576",
	} {
		p["primary.consumer."+k] = v
	}
	for k, v := range map[string]string{
		"compression.type":  o.codec,
		"batch.size":        "524288",
		"linger.ms":         strconv.Itoa(o.lingerMS),
		"buffer.memory":     "67108864",
		"max.request.size":  "4194304",
		"send.buffer.bytes": "1048576",
	} {
		p["secondary.producer."+k] = v
	}
	return p
}
