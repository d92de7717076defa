package app

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/groups"
	"github.com/anabranch/anabranch/internal/replicate"
)

// metric describes one metric. docs/metrics.md repeats the table.
type metric struct {
	name, kind, help string
	labels           []string
}

// The metrics of the replicators. Names, labels and units only grow.
var (
	mLatency    = metric{"anabranch_replication_latency_seconds", "histogram", "Time from the timestamp of a batch's newest record to its acknowledgement by the target, per batch.", []string{"replicator"}}
	mTopicLag   = metric{"anabranch_message_lag", "gauge", "Records of a topic that are not replicated yet; an upper bound where offsets have gaps.", []string{"replicator", "topic"}}
	mLag        = metric{"anabranch_replicator_message_lag", "gauge", "Records of all topics that are not replicated yet.", []string{"replicator"}}
	mBytes      = metric{"anabranch_replicator_bytes_total", "counter", "Bytes of record batches that the target acknowledged.", []string{"replicator"}}
	mBytesIn    = metric{"anabranch_replicator_bytes_in_total", "counter", "Bytes of record batches read from the source, also of those that were filtered out.", []string{"replicator"}}
	mRecords    = metric{"anabranch_replicator_records_total", "counter", "Records that the target acknowledged.", []string{"replicator"}}
	mFailures   = metric{"anabranch_replication_failures_total", "counter", "Failures by class.", []string{"replicator", "class"}}
	mThrottle   = metric{"anabranch_throttle_time_seconds_total", "counter", "Time that brokers asked to wait because of quotas, all connections together.", []string{"replicator", "side"}}
	mAuth       = metric{"anabranch_authentication_errors_total", "counter", "Connections on which a cluster refused the credentials.", []string{"replicator", "cluster"}}
	mState      = metric{"anabranch_replicator_state", "gauge", "1 for the state that the replicator is in, 0 for the others.", []string{"replicator", "state"}}
	mTopicState = metric{"anabranch_topic_state", "gauge", "1 for the state that the topic is in, 0 for the others.", []string{"replicator", "topic", "state"}}
	mHalted     = metric{"anabranch_partitions_halted", "gauge", "Partitions that are halted, by the code of the reason; left out where there are none.", []string{"replicator", "code"}}
	mDelivery   = metric{"anabranch_replicator_delivery", "gauge", "1 for what the replicator promises (exactly_once or at_least_once), 0 for the other.", []string{"replicator", "delivery"}}
	mFindings   = metric{"anabranch_replicator_findings", "gauge", "1 for each finding about the replicator; left out where there are none.", []string{"replicator", "code"}}
	mACLFail    = metric{"anabranch_acl_sync_failures_total", "counter", "Times that access rules or client quotas could not be read, or one of them not be made.", []string{"replicator"}}
	mACLStaged  = metric{"anabranch_acl_staged", "gauge", "Access rules that let clients write, kept for a failover.", []string{"replicator"}}
	mACLDrift   = metric{"anabranch_acl_drift", "gauge", "Access rules and client quotas that differ on the target and stay so.", []string{"replicator"}}
	mGroups     = metric{"anabranch_consumer_group_count", "gauge", "Consumer groups that are carried.", []string{"replicator"}}
	mGroupState = metric{"anabranch_consumer_groups", "gauge", "Consumer groups by their state.", []string{"replicator", "state"}}
	mGroupFails = metric{"anabranch_group_sync_failures_total", "counter", "Failures to carry positions of consumer groups, by class.", []string{"replicator", "class"}}
	mGroupAge   = metric{"anabranch_group_sync_age_seconds", "gauge", "Time since the last round in which all consumer groups were looked at.", []string{"replicator"}}
	mGroupLag   = metric{"anabranch_group_lag", "gauge", "Offsets that a consumer group has not read, in all partitions, at the source and on the target.", []string{"replicator", "group", "side"}}
	mGroupMax   = metric{"anabranch_group_max_offset_lag", "gauge", "The same of the partition in which it is largest.", []string{"replicator", "group", "side"}}
	mGroupRest  = metric{"anabranch_group_lag_left_out", "gauge", "Consumer groups whose lag is not among the metrics, because there are too many.", []string{"replicator"}}
	mVerified   = metric{"anabranch_verify_records_total", "counter", "Records of the source that audits compared with their copies.", []string{"replicator"}}
	mAuditFails = metric{"anabranch_verify_failures_total", "counter", "Audits that could not be done.", []string{"replicator"}}
	mDiffers    = metric{"anabranch_verify_differences", "gauge", "Differences that the last audit found.", []string{"replicator", "kind"}}
	mAuditAge   = metric{"anabranch_verify_age_seconds", "gauge", "Time since an audit was done last; left out where none was.", []string{"replicator"}}
	mWorkers    = metric{"anabranch_workers", "gauge", "Workers that own slots of the replicator.", []string{"replicator"}}
)

func metrics() []metric {
	return []metric{mLatency, mTopicLag, mLag, mBytes, mBytesIn, mRecords, mFailures, mThrottle, mAuth, mState, mTopicState, mHalted, mDelivery, mFindings, mACLFail, mACLStaged, mACLDrift, mWorkers, mGroups, mGroupState, mGroupFails, mGroupAge, mGroupLag, mGroupMax, mGroupRest, mVerified, mAuditFails, mDiffers, mAuditAge}
}

func replicatorStates() []dr.ReplicatorState {
	return []dr.ReplicatorState{
		dr.ReplicatorCreating, dr.ReplicatorRunning, dr.ReplicatorPaused, dr.ReplicatorStopped, dr.ReplicatorUpdating, dr.ReplicatorDeleting, dr.ReplicatorFailed, dr.ReplicatorDegraded,
	}
}

func topicStates() []dr.TopicState {
	return []dr.TopicState{
		dr.TopicCreating, dr.TopicRunning, dr.TopicPaused, dr.TopicStopped, dr.TopicDegraded, dr.TopicHalted, dr.TopicSourceDeleted, dr.TopicTargetDeleted,
	}
}

func groupStates() []dr.GroupState {
	return []dr.GroupState{
		dr.GroupSynced, dr.GroupBehind, dr.GroupAhead, dr.GroupActive, dr.GroupHeld, dr.GroupUnmapped, dr.GroupUnsupported, dr.GroupFailed,
	}
}

// collector asks the replicators at every scrape: all numbers exist already.
type collector struct {
	replicators []source
	auth        func() map[authKey]uint64
	descs       map[string]*prometheus.Desc
}

// source is what a collector asks of one replicator.
type source struct {
	name     string
	clusters []string
	status   func() dr.ReplicatorStatus
	stats    func() replicate.Stats
	failures func() uint64               // of the access rules
	groups   func() (groups.Stats, bool) // false: this worker does not carry the groups
	audits   func() auditStats
}

func newCollector(a *App) *collector {
	var list []source
	for _, r := range a.replicators {
		list = append(list, source{r.name, []string{r.settings.Source, r.settings.Target}, r.status, r.stats, r.accessFailures, r.groupStats, r.auditStats})
	}
	return collectorOf(list, a.auth.snapshot)
}

func collectorOf(list []source, auth func() map[authKey]uint64) *collector {
	c := &collector{replicators: list, auth: auth, descs: map[string]*prometheus.Desc{}}
	for _, m := range metrics() {
		c.descs[m.name] = prometheus.NewDesc(m.name, m.help, m.labels, nil)
	}
	return c
}

// Describe sends the descriptions of all metrics.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect sends the present values.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	auth := c.auth()
	for _, r := range c.replicators {
		c.collectStats(ch, r.name, r.stats())
		c.collectStatus(ch, r.name, r.status())
		c.send(ch, mACLFail, float64(r.failures()), r.name)
		c.collectGroups(ch, r)
		c.collectAudits(ch, r)
		for _, cluster := range r.clusters {
			c.send(ch, mAuth, float64(auth[authKey{r.name, cluster}]), r.name, cluster)
		}
	}
}

func (c *collector) send(ch chan<- prometheus.Metric, m metric, v float64, labels ...string) {
	kind := prometheus.GaugeValue
	if m.kind == "counter" {
		kind = prometheus.CounterValue
	}
	ch <- prometheus.MustNewConstMetric(c.descs[m.name], kind, v, labels...)
}

func (c *collector) collectStats(ch chan<- prometheus.Metric, name string, s replicate.Stats) {
	buckets := make(map[float64]uint64, len(s.LatencyBounds))
	var count uint64
	for i, n := range s.LatencyCounts {
		count += n
		if i < len(s.LatencyBounds) {
			buckets[s.LatencyBounds[i]] = count
		}
	}
	ch <- prometheus.MustNewConstHistogram(c.descs[mLatency.name], count, s.LatencySum, buckets, name)
	c.send(ch, mBytes, float64(s.BytesReplicated), name)
	c.send(ch, mBytesIn, float64(s.BytesIn), name)
	c.send(ch, mRecords, float64(s.RecordsReplicated), name)
	c.send(ch, mThrottle, s.ThrottledSource.Seconds(), name, "source")
	c.send(ch, mThrottle, s.ThrottledTarget.Seconds(), name, "target")
	for _, class := range slices.Sorted(maps.Keys(s.Failures)) {
		c.send(ch, mFailures, float64(s.Failures[class]), name, class)
	}
}

func (c *collector) collectStatus(ch chan<- prometheus.Metric, name string, st dr.ReplicatorStatus) {
	c.send(ch, mLag, float64(st.MessageLag), name)
	c.send(ch, mWorkers, float64(len(st.Workers)), name)
	for _, s := range replicatorStates() {
		c.send(ch, mState, oneIf(s == st.State), name, string(s))
	}
	for _, d := range []dr.Delivery{dr.DeliveryExactlyOnce, dr.DeliveryAtLeastOnce} {
		c.send(ch, mDelivery, oneIf(d == st.Delivery), name, string(d))
	}
	for _, f := range st.Findings {
		c.send(ch, mFindings, 1, name, f.Code)
	}
	if st.Access != nil {
		c.send(ch, mACLStaged, float64(st.Access.Staged), name)
		c.send(ch, mACLDrift, float64(st.Access.Drift), name)
	}
	halted := map[dr.HaltCode]int{}
	for _, t := range st.Topics {
		c.send(ch, mTopicLag, float64(t.MessageLag), name, t.Name)
		for _, s := range topicStates() {
			c.send(ch, mTopicState, oneIf(s == t.State), name, t.Name, string(s))
		}
		for _, p := range t.Partitions {
			if p.State == dr.PartitionHalted {
				halted[p.Code]++
			}
		}
	}
	for code, n := range halted {
		c.send(ch, mHalted, float64(n), name, string(code))
	}
}

func (c *collector) collectAudits(ch chan<- prometheus.Metric, r source) {
	st := r.audits()
	c.send(ch, mVerified, float64(st.records), r.name)
	c.send(ch, mAuditFails, float64(st.failures), r.name)
	if st.last == nil {
		return
	}
	c.send(ch, mAuditAge, time.Since(st.last.FinishedAt).Seconds(), r.name)
	for _, k := range dr.DifferenceKinds() {
		c.send(ch, mDiffers, float64(st.last.Counts[k]), r.name, string(k))
	}
}

// maxGroupSeries bounds the groups of a replicator whose lag is among the
// metrics. The names come first in order, so that a scrape has the same ones as
// the scrape before.
const maxGroupSeries = 1000

func (c *collector) collectGroups(ch chan<- prometheus.Metric, r source) {
	st, leads := r.groups()
	for _, class := range groups.Classes() { // a class that has not failed counts 0, so that the first failure is a change
		c.send(ch, mGroupFails, float64(st.Failures[class]), r.name, class)
	}
	// The rest is of the whole replicator, and only who carries the groups knows it.
	if !leads || st.CompleteAt.IsZero() {
		return
	}
	c.send(ch, mGroupAge, time.Since(st.CompleteAt).Seconds(), r.name)
	c.send(ch, mGroups, float64(st.Groups), r.name)
	for _, s := range groupStates() {
		c.send(ch, mGroupState, float64(st.States[s]), r.name, string(s))
	}
	shown := map[string]bool{}
	for _, l := range slices.SortedFunc(slices.Values(st.Lags), func(a, b groups.Lag) int { return strings.Compare(a.Group, b.Group) }) {
		// A label is valid UTF-8; a name comes from the network, and two may look alike then.
		name := strings.ToValidUTF8(l.Group, "\uFFFD")
		if len(shown) == maxGroupSeries || shown[name] {
			continue
		}
		shown[name] = true
		if l.Source >= 0 { // else it is not known
			c.send(ch, mGroupLag, float64(l.Source), r.name, name, "source")
			c.send(ch, mGroupMax, float64(l.SourceMax), r.name, name, "source")
		}
		c.send(ch, mGroupLag, float64(l.Target), r.name, name, "target")
		c.send(ch, mGroupMax, float64(l.TargetMax), r.name, name, "target")
	}
	c.send(ch, mGroupRest, float64(len(st.Lags)-len(shown)), r.name)
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
