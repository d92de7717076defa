package replicate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/seeded"
)

// Times of what workers tell each other.
const (
	workerReport = 2 * time.Second
	workerAlive  = 8 * time.Second
	endsInterval = time.Second
	noteLife     = 6 * time.Second
)

// reportWorker writes what this worker does into the state topic, so that any
// worker can answer for the whole replicator.
func (e *Engine) reportWorker(ctx context.Context) error {
	defer e.reportEnd(ctx)
	for {
		if owned := e.acquiredSlots(); len(owned) > 0 || e.phaseIs(dr.ReplicatorCreating) {
			rep, in, lat := e.stats.rates()
			rec := workerRecord{V: stateVersion, Slots: owned, Version: e.o.Version, Latency: lat, Throughput: rep, BytesIn: in, Throttled: e.stats.throttles(), AtMs: time.Now().UnixMilli()}
			if err := e.writeControl(ctx, keyWorker(e.o.Name, e.o.WorkerID), encode(rec)); err != nil && ctx.Err() == nil {
				e.note("report to the other workers", err)
			}
		}
		if sleep(ctx, workerReport) != nil {
			return nil
		}
	}
}

func (e *Engine) phaseIs(s dr.ReplicatorState) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.phase == s
}

// views returns the newest view of every slot that this worker owns.
func (e *Engine) views() map[int32]*slotView {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[int32]*slotView, len(e.mu.slots))
	for n, s := range e.mu.slots {
		out[n] = s.view.Load()
	}
	return out
}

func (e *Engine) acquiredSlots() []int32 {
	var out []int32
	for n, v := range e.views() {
		if v.owned {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// followEnds keeps the ends of source partitions whose pipelines do not fetch
// here: halted ones, and those of other workers.
func (e *Engine) followEnds(ctx context.Context) error {
	for sleep(ctx, endsInterval) == nil {
		parts := map[string][]int32{}
		ids := map[string][16]byte{}
		m, still := e.source.meta(), e.paused() || e.standsStill()
		for id, v := range e.partitionViews() {
			if v.status.State == dr.PartitionRunning && v.status.Worker == e.o.WorkerID && !still {
				continue
			}
			if t := m.byName[v.topic]; t != nil && t.id == id.topicID {
				parts[v.topic] = append(parts[v.topic], id.partition)
				ids[v.topic] = id.topicID
			}
		}
		if len(parts) == 0 {
			continue
		}
		// What can't be asked now keeps its last value; the metadata shows
		// that the cluster is out of reach.
		starts, _ := kclient.ListOffsets(ctx, e.sourceControl, parts, -2)
		ends, _ := kclient.ListOffsets(ctx, e.sourceControl, parts, -1)
		out := map[tp][2]int64{}
		for topic, list := range ends {
			for p, end := range list {
				start, ok := starts[topic][p]
				if !ok {
					start = -1
				}
				out[tp{ids[topic], p}] = [2]int64{start, end}
			}
		}
		e.mu.Lock()
		e.mu.ends = out
		e.mu.Unlock()
	}
	return nil
}

// partitionViews merges what this worker serves with what the state topic says
// of the rest.
func (e *Engine) partitionViews() map[tp]partitionView {
	views := e.views()
	owners := map[int32]string{}
	for _, w := range e.workers() {
		for _, n := range w.Slots {
			owners[n] = w.ID
		}
	}
	out := map[tp]partitionView{}
	for n := range e.slots {
		owner := owners[n]
		if v := views[n]; v != nil && v.owned {
			if !v.resting {
				maps.Copy(out, v.partitions)
				continue
			}
			owner = e.o.WorkerID
		}
		raw := map[string][]byte{}
		prefix := prefixCheckpoint(e.o.Name)
		e.targetState.Range(n, prefix, func(k string, b []byte) { raw[k[len(prefix):]] = b })
		for k, b := range raw {
			id, err := parseKey(k)
			if err != nil {
				continue
			}
			if ck, err := decode[checkpoint](b); err == nil && !ck.Retired {
				v := ck.view()
				v.status.Worker = owner
				out[id] = v
			}
		}
	}
	return out
}

// view is what a checkpoint shows of a pipeline that another worker serves.
func (ck checkpoint) view() partitionView {
	st := dr.PartitionStatus{
		Partition: ck.Partition, State: dr.PartitionRunning, SourceLogStartOffset: ck.LogStart, SourceEndOffset: ck.HighWater,
		ReplicatedOffset: ck.Position, TargetEndOffset: ck.TargetEnd,
	}
	v := partitionView{topic: ck.Topic, target: ck.Target}
	if ck.Halt != nil {
		st.State, st.Code, st.Reason, v.behind = dr.PartitionHalted, ck.Halt.Code, ck.Halt.Reason, ck.Halt.Behind
	}
	v.status = st
	return v
}

// workers returns the workers that were heard of lately.
func (e *Engine) workers() []dr.WorkerStatus {
	raw := map[string][]byte{}
	prefix := prefixWorker(e.o.Name)
	e.targetState.Range(controlPartition, prefix, func(k string, b []byte) { raw[k[len(prefix):]] = b })
	out := []dr.WorkerStatus{}
	for id, b := range raw {
		if id == e.o.WorkerID {
			continue
		}
		r, err := decode[workerRecord](b)
		if at := time.UnixMilli(r.AtMs); err == nil && time.Since(at) < workerAlive {
			out = append(out, dr.WorkerStatus{ID: id, Slots: r.Slots, Version: r.Version, SeenAt: at})
		}
	}
	if owned := e.acquiredSlots(); len(owned) > 0 {
		out = append(out, dr.WorkerStatus{ID: e.o.WorkerID, Slots: owned, Version: e.o.Version, SeenAt: time.Now()})
	}
	slices.SortFunc(out, func(a, b dr.WorkerStatus) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Status returns what is known of the whole replicator. It may be called from
// any goroutine, before, during and after Run.
func (e *Engine) Status() dr.ReplicatorStatus {
	e.mu.Lock()
	st := dr.ReplicatorStatus{
		Name: e.o.Name, Source: e.o.Source.Name, Target: e.o.Target.Name, SourceClusterID: e.sourceID, TargetClusterID: e.targetID,
		State: e.mu.phase, Reason: e.mu.reason, Version: e.o.Version, Workers: []dr.WorkerStatus{}, Topics: []dr.TopicStatus{},
	}
	e.mu.Unlock()
	st.Delivery, st.Findings = e.promised()
	if !e.reached() || e.targetState.Partitions() == 0 {
		return st
	}
	st.Workers = e.workers()
	st.Topics = e.topicStatuses()
	for _, t := range st.Topics {
		st.MessageLag += t.MessageLag
	}
	st.ThroughputBytesPerSecond, st.BytesInPerSecond, st.ReplicationLatencySeconds = e.stats.rates()
	st.Throttled, st.RateLimit = e.stats.throttles(), e.limitNow()
	e.addOthers(&st)
	e.judgeState(&st)
	return st
}

// addOthers adds the rates of the other workers.
func (e *Engine) addOthers(st *dr.ReplicatorStatus) {
	for _, w := range st.Workers {
		if w.ID == e.o.WorkerID {
			continue
		}
		if r := controlRecord[workerRecord](e, keyWorker(e.o.Name, w.ID)); r != nil {
			st.ThroughputBytesPerSecond += r.Throughput
			st.BytesInPerSecond += r.BytesIn
			st.Throttled.Source, st.Throttled.Target = st.Throttled.Source+r.Throttled.Source, st.Throttled.Target+r.Throttled.Target
			st.ReplicationLatencySeconds = max(st.ReplicationLatencySeconds, r.Latency)
		}
	}
}

// judgeState decides the state of the replicator and says why.
func (e *Engine) judgeState(st *dr.ReplicatorStatus) {
	if st.State == dr.ReplicatorFailed {
		return
	}
	owned := map[int32]bool{}
	for _, w := range st.Workers {
		for _, n := range w.Slots {
			owned[n] = true
		}
	}
	var reasons []string
	for n, v := range e.views() {
		if v.reason != "" {
			reasons = append(reasons, fmt.Sprintf("slot %d: %s", n, v.reason))
		}
	}
	halted := 0
	for _, t := range st.Topics {
		if t.State == dr.TopicDegraded || t.State == dr.TopicHalted || t.State == dr.TopicTargetDeleted {
			halted++
		}
	}
	down := false
	for _, t := range []*topology{e.source, e.target} {
		if since, err := t.trouble(); err != nil && time.Since(since) > 2*time.Second {
			reasons = append(reasons, fmt.Sprintf("cluster %s can't be reached since %s: %v", t.cluster, since.UTC().Format(time.RFC3339), err))
			down = true
		}
	}
	e.mu.Lock()
	complete := len(owned) >= int(e.slots)
	if complete {
		e.mu.ran = true
	}
	ran := e.mu.ran
	for what, n := range e.mu.notes {
		if time.Since(n.at) > noteLife {
			delete(e.mu.notes, what)
			continue
		}
		reasons = append(reasons, n.text)
	}
	e.mu.Unlock()
	switch why, left := e.standstill(); {
	case why != "" && (left == 0 || e.orderOf(controlPartition).sealing):
		st.State = dr.ReplicatorStopped
		reasons = append(reasons, why)
		if left > 0 {
			reasons = append(reasons, fmt.Sprintf("%d of %d slots are not sealed yet", left, e.slots))
		}
	case why != "":
		st.State = dr.ReplicatorUpdating
		reasons = append(reasons, fmt.Sprintf("%s: %d of %d slots still have something under way", why, left, e.slots))
	case e.paused() && e.restless() == 0:
		st.State = dr.ReplicatorPaused
	case e.paused():
		st.State = dr.ReplicatorUpdating
		reasons = append(reasons, fmt.Sprintf("pausing: %d of %d slots still have something under way", e.restless(), e.slots))
	case !complete && !ran:
		st.State = dr.ReplicatorCreating
		reasons = append(reasons, fmt.Sprintf("%d of %d slots are taken over", len(owned), e.slots))
	case !complete && down:
		st.State = dr.ReplicatorDegraded
	case !complete:
		st.State = dr.ReplicatorUpdating
		reasons = append(reasons, fmt.Sprintf("%d of %d slots are taken over", len(owned), e.slots))
	case halted > 0 || down:
		st.State = dr.ReplicatorDegraded
		if halted > 0 {
			reasons = append(reasons, fmt.Sprintf("%d of %d topics are halted or have halted partitions", halted, len(st.Topics)))
		}
	case e.createdRecord() == nil:
		st.State = dr.ReplicatorCreating
		reasons = append(reasons, "the starting positions are not decided yet")
	default:
		st.State = dr.ReplicatorRunning
	}
	slices.Sort(reasons)
	st.Reason = strings.Join(reasons, "; ")
}

// topicStatuses builds the topics from the source's metadata, the pipelines and
// what the keeper of the topics reports.
func (e *Engine) topicStatuses() []dr.TopicStatus {
	m := e.source.meta()
	topics := map[string]*dr.TopicStatus{}
	get := func(name string) *dr.TopicStatus {
		t := topics[name]
		if t == nil {
			t = &dr.TopicStatus{Name: name, TargetName: e.o.Naming.Target(name), Partitions: []dr.PartitionStatus{}}
			topics[name] = t
		}
		return t
	}
	views := e.partitionViews()
	e.mu.Lock()
	ends := e.mu.ends
	e.mu.Unlock()
	rest := e.restState()
	for _, t := range e.selected(m) {
		st := get(t.name)
		for p := range t.partitions {
			id := tp{t.id, int32(p)}
			v, ok := views[id]
			if !ok {
				v.status = dr.PartitionStatus{Partition: int32(p), State: dr.PartitionStarting, SourceLogStartOffset: -1, SourceEndOffset: -1, ReplicatedOffset: -1, TargetEndOffset: -1}
			}
			delete(views, id)
			st.Partitions = append(st.Partitions, finish(v.status, ends[id], rest))
		}
	}
	for id, v := range views { // deleted or re-created at the source
		if !e.o.Filter.Match(v.topic) {
			continue
		}
		if t := m.byName[v.topic]; t != nil && v.status.State != dr.PartitionHalted {
			continue
		} else if t != nil {
			st := get(v.topic)
			st.Partitions = slices.DeleteFunc(st.Partitions, func(p dr.PartitionStatus) bool { return p.Partition == id.partition })
		}
		st := get(v.topic)
		st.Partitions = append(st.Partitions, finish(v.status, [2]int64{-1, -1}, rest))
		if m.byName[v.topic] == nil {
			switch e.sourceMissing.of(id.topicID) {
			case presenceGone:
				st.State, st.Reason = dr.TopicSourceDeleted, "the topic is gone at the source; the target keeps it"
			case presenceDenied:
				st.State, st.Code, st.Reason = dr.TopicHalted, dr.HaltUnauthorized, fmt.Sprintf("describe source topic %s: not allowed any more", v.topic)
			case presenceOpen: // not known yet
			}
		}
	}
	if e.o.Topics != nil {
		for _, r := range e.o.Topics() {
			report(get(r.Name), r)
		}
	}
	out := make([]dr.TopicStatus, 0, len(topics))
	for _, t := range topics {
		sumUp(t, rest)
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b dr.TopicStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// restState is the state of the partitions while all slots are at rest, empty while
// they are not.
func (e *Engine) restState() dr.PartitionState {
	switch why, left := e.standstill(); {
	case why != "" && (left == 0 || e.orderOf(controlPartition).sealing):
		return dr.PartitionStopped
	case e.paused() && e.restless() == 0:
		return dr.PartitionPaused
	default:
		return ""
	}
}

// finish fills in what only this worker knows of a partition. rest is its state
// if it rests, see restState.
func finish(st dr.PartitionStatus, ends [2]int64, rest dr.PartitionState) dr.PartitionStatus {
	if ends[1] > st.SourceEndOffset {
		st.SourceEndOffset = ends[1]
	}
	if ends[0] > st.SourceLogStartOffset && ends[1] > 0 {
		st.SourceLogStartOffset = ends[0]
	}
	if st.SourceEndOffset >= 0 {
		st.MessageLag = max(0, st.SourceEndOffset-max(st.ReplicatedOffset, st.SourceLogStartOffset, 0))
		if seeded.Bug("lag-from-log-start") {
			st.MessageLag = st.SourceEndOffset - max(st.SourceLogStartOffset, 0)
		}
	}
	if rest != "" && st.State == dr.PartitionRunning {
		st.State = rest
	}
	return st
}

// report merges what the keeper of the topics says.
func report(t *dr.TopicStatus, r TopicReport) {
	t.Drift = r.Drift
	if r.State == dr.TopicRunning && r.Code == "" {
		return
	}
	t.State, t.Code, t.Reason = r.State, r.Code, r.Reason
	if r.State == dr.TopicRunning {
		t.State = "" // the partitions decide; the reason stays visible
	}
}

// sumUp derives the topic's state and lag from its partitions.
func sumUp(t *dr.TopicStatus, rest dr.PartitionState) {
	slices.SortFunc(t.Partitions, func(a, b dr.PartitionStatus) int { return cmp.Compare(a.Partition, b.Partition) })
	halted, starting := 0, 0
	for _, p := range t.Partitions {
		t.MessageLag += p.MessageLag
		switch p.State {
		case dr.PartitionHalted:
			halted++
			if t.Reason == "" {
				t.Code, t.Reason = p.Code, fmt.Sprintf("partition %d: %s", p.Partition, p.Reason)
			}
		case dr.PartitionStarting:
			starting++
		case dr.PartitionRunning, dr.PartitionPaused, dr.PartitionStopped, dr.PartitionWaiting:
		}
	}
	switch {
	case t.State != "" && t.State != dr.TopicCreating:
	case halted > 0 && halted == len(t.Partitions):
		t.State = dr.TopicHalted
	case halted > 0:
		t.State = dr.TopicDegraded
	case rest == dr.PartitionStopped:
		t.State = dr.TopicStopped
	case rest == dr.PartitionPaused:
		t.State = dr.TopicPaused
	case starting > 0:
		t.State = dr.TopicCreating
	default:
		t.State = dr.TopicRunning
	}
}
