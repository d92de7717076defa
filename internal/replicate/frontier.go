package replicate

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kstate"
)

// Frontier is how far a replicator got, as the state of its target says: no
// engine and no source is needed to know it.
type Frontier struct {
	Source     string              // cluster id of the source; empty: the replicator never ran
	Paused     bool                // somebody paused it
	Workers    []dr.WorkerStatus   // those that were heard of lately
	Latency    float64             // seconds, the worst that a live worker reports; 0: none does
	Partitions []FrontierPartition // of pipelines that are not over, sorted by topic and number
}

// FrontierPartition is how far one pipeline got.
type FrontierPartition struct {
	TopicID       [16]byte // at the source
	Topic, Target string
	Partition     int32
	Position      int64 // next source offset: all below is on the target or rightly skipped
	SourceEnd     int64 // high watermark as the pipeline saw it last
	TargetEnd     int64
	Quiescent     bool // nothing was sent behind the position
	Code          dr.HaltCode
	Reason        string
	At            time.Time // of the checkpoint
}

// ReadFrontier reads how far a replicator got. The table is that of its target,
// refreshed by the caller. It tells what it could not understand, and what
// somebody deleted.
func ReadFrontier(table *kstate.Table, replicator string, now time.Time) (Frontier, error) {
	var f Frontier
	for n := range table.Partitions() {
		if below, lost := table.Lost(n); lost {
			return f, fmt.Errorf("read how far replicator %s got: %s begins at offset %d: somebody deleted records of the state", replicator, stateOf(n), below)
		}
	}
	if b, ok := table.Get(controlPartition, keyCreated(replicator)); ok {
		r, err := decode[createdRecord](b)
		if err != nil {
			return f, err
		}
		f.Source = r.Source
	}
	if b, ok := table.Get(controlPartition, keyPause(replicator)); ok {
		r, err := decode[pauseRecord](b)
		if err != nil {
			return f, err
		}
		f.Paused = r.Paused
	}
	f.Workers, f.Latency = liveWorkers(table, replicator, now)
	raw := map[string][]byte{}
	prefix := prefixCheckpoint(replicator)
	for n := range table.Partitions() {
		table.Range(n, prefix, func(k string, b []byte) { raw[k[len(prefix):]] = b })
	}
	for k, b := range raw {
		id, err := parseKey(k)
		if err != nil {
			return f, err
		}
		ck, err := decode[checkpoint](b)
		if err != nil {
			return f, err
		}
		if ck.Retired {
			continue
		}
		p := FrontierPartition{
			TopicID: id.topicID, Topic: ck.Topic, Target: ck.Target, Partition: id.partition, Position: ck.Position,
			SourceEnd: ck.HighWater, TargetEnd: ck.TargetEnd, Quiescent: ck.Quiescent, At: time.UnixMilli(ck.AtMs),
		}
		if ck.Halt != nil {
			p.Code, p.Reason = ck.Halt.Code, ck.Halt.Reason
		}
		f.Partitions = append(f.Partitions, p)
	}
	slices.SortFunc(f.Partitions, func(a, b FrontierPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return f, nil
}

// liveWorkers returns the workers that were heard of lately, by id, and the worst
// latency that they report.
func liveWorkers(table *kstate.Table, replicator string, now time.Time) (out []dr.WorkerStatus, latency float64) {
	raw := map[string][]byte{}
	prefix := prefixWorker(replicator)
	table.Range(controlPartition, prefix, func(k string, b []byte) { raw[k[len(prefix):]] = b })
	out = []dr.WorkerStatus{}
	for id, b := range raw {
		r, err := decode[workerRecord](b)
		if at := time.UnixMilli(r.AtMs); err == nil && now.Sub(at) < workerAlive {
			out = append(out, dr.WorkerStatus{ID: id, Slots: r.Slots, Version: r.Version, SeenAt: at})
			latency = max(latency, r.Latency)
		}
	}
	slices.SortFunc(out, func(a, b dr.WorkerStatus) int { return cmp.Compare(a.ID, b.ID) })
	return out, latency
}
