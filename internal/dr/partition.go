package dr

import (
	"cmp"
	"fmt"
	"strings"
)

// TopicPartition names one partition of a topic of a cluster.
type TopicPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

// String returns the name that Kafka's tools print.
func (p TopicPartition) String() string { return fmt.Sprintf("%s-%d", p.Topic, p.Partition) }

// ComparePartitions sorts partitions by topic and number.
func ComparePartitions(a, b TopicPartition) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}
