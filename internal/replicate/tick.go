package replicate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/seeded"
)

// onTick does what time brings: new pipelines, retries, checkpoints, the view.
func (s *slot) onTick(io context.Context) {
	now := time.Now()
	src, tgt := s.e.source.meta(), s.e.target.meta()
	for _, p := range s.pipes {
		s.watch(p, src, tgt)
		s.park(p, now, tgt)
		if len(p.ready) > 0 || len(p.queue) > 0 || p.doubt != nil {
			s.touched[p] = struct{}{}
		}
		if p.recheck != nil && len(p.queue) == 0 && p.halt == nil {
			f := *p.recheck
			p.recheck = nil
			s.checkRange(p, f)
		}
		p.expiry = s.e.limits.producerExpiry() // it may be changed while brokers run
		idle := !p.quiescent && p.settled() && len(p.ready)+len(p.flying)+len(p.queue) == 0 && now.Sub(p.lastAck) > idleQuiescent
		if idle {
			p.wantQuiet = true
		}
		if p.wantQuiet || p.dirty && !now.Before(p.nextCheck) {
			s.state.want(p)
		}
	}
	if !s.retryAt.IsZero() && now.After(s.retryAt) {
		s.retryUnfenced(tgt)
	}
	if now.Sub(s.acquired) > s.e.limits.keepAlive() && s.retake == nil {
		s.retake = fmt.Errorf("%w: to keep its transactional id alive", errRetake)
	}
	s.startNew(io)
	s.askRest(now)
	s.noteEnds(now, src)
	if now.Sub(s.published) >= publishEvery {
		s.publish(true, "")
	}
}

// publishEvery is how often the slot's view is made anew.
const publishEvery = 200 * time.Millisecond

// retryUnfenced takes the slot over again when a partition that could not be
// fenced has a leader now.
func (s *slot) retryUnfenced(tgt *clusterMeta) {
	s.unfencedWait = min(time.Minute, max(2*time.Second, 2*s.unfencedWait))
	s.retryAt = time.Now().Add(s.unfencedWait)
	for _, p := range s.pipes {
		pm, ok := tgt.partition(p.targetID, p.id.partition)
		unauthorized := p.halt != nil && p.halt.Code == dr.HaltUnauthorized // see retryHalt
		if p.unfenced && !unauthorized && ok && pm.leader >= 0 && s.retake == nil {
			s.retryAt = time.Time{}
			s.retake = fmt.Errorf("%w: %s partition %d could not be fenced before", errRetake, p.topic, p.id.partition)
		}
	}
}

// watch compares a pipeline with what the metadata now say.
func (s *slot) watch(p *pipeline, src, tgt *clusterMeta) {
	code, reason := s.topicsGone(p, src, tgt)
	if p.halt != nil {
		if code != "" && code != dr.HaltUnauthorized {
			s.supersede(p, code, reason)
		}
		s.retryHalt(p, src, tgt)
		return
	}
	if code != "" {
		p.stop(code, reason)
		s.touched[p] = struct{}{}
		return
	}
	s.watchTarget(p, tgt)
}

// topicsGone says why a pipeline cannot go on with the topics that it knows: one
// of them was deleted, is another one by now, or is hidden. The code is empty
// while nothing of that is known.
func (s *slot) topicsGone(p *pipeline, src, tgt *clusterMeta) (dr.HaltCode, string) {
	if t := src.byName[p.topic]; t == nil || t.id != p.id.topicID {
		switch is := s.e.sourceMissing.of(p.id.topicID); {
		case is == presenceDenied:
			return dr.HaltUnauthorized, fmt.Sprintf("describe source topic %s: not allowed any more", p.topic)
		case is == presenceGone && t != nil && !seeded.Bug("recreation-ignored"):
			return dr.HaltSourceRecreated, fmt.Sprintf("source topic %s was re-created: it had the id %s and now has %s", p.topic, hexID(p.id.topicID), hexID(t.id))
		} // deleted: what was fetched is still copied
	}
	if t := tgt.byName[p.target]; t == nil || t.id != p.targetID {
		switch is := s.e.targetMissing.of(p.targetID); {
		case is == presenceDenied:
			return dr.HaltUnauthorized, fmt.Sprintf("describe target topic %s: not allowed any more", p.target)
		case is == presenceGone && t == nil:
			return dr.HaltTargetDeleted, fmt.Sprintf("target topic %s was deleted; it is not re-created by itself", p.target)
		case is == presenceGone:
			return dr.HaltTargetRecreated, fmt.Sprintf("target topic %s was re-created: it had the id %s and now has %s", p.target, hexID(p.targetID), hexID(t.id))
		}
	}
	return "", ""
}

// supersede gives a halted pipeline another halt, because a topic that it knows
// is gone: what stood before can't be mended any more, and its decisions would
// not help. A worker may even have halted only because of that: before Produce 13
// a batch names its topic, so the first ones behind a re-creation go into the new
// topic and look like a log that was cut. The halt is as old as the one before: a
// decision that was made meanwhile still finds it.
func (s *slot) supersede(p *pipeline, code dr.HaltCode, reason string) {
	switch p.halt.Code {
	case dr.HaltSourceRecreated, dr.HaltTargetRecreated, dr.HaltNames:
		return
	case dr.HaltTargetDeleted: // unless somebody made it again since, and not because of a decision
		if code != dr.HaltTargetRecreated || s.decided(p) {
			return
		}
	default:
	}
	before, _, _ := strings.Cut(p.halt.Reason, decisionFailed)
	p.halt = &haltRecord{Code: code, AtMs: p.halt.AtMs, Reason: fmt.Sprintf("%s (before it was halted with %s: %s)", reason, p.halt.Code, before)}
	p.waiting, p.unfenced = "", false // there is nothing to be fenced any more
	p.dirty, p.stopped = true, false
	s.touched[p] = struct{}{}
}

// askTargetAgain is the pause after a target leader did not say what it holds.
const askTargetAgain = time.Second

// watchTarget asks, whenever the target partition has a new leader, whether its
// log still holds the last record that was acknowledged: an unclean election
// may have cut it, and others may have written in its place since. A log is
// never cut without a new leader epoch.
func (s *slot) watchTarget(p *pipeline, tgt *clusterMeta) {
	pm, ok := tgt.partition(p.targetID, p.id.partition)
	if !ok || pm.leader < 0 || pm.leaderEpoch < 0 || pm.leaderEpoch == p.targetEpoch || p.epochAsked == pm.leaderEpoch || time.Now().Before(p.epochAgain) {
		return
	}
	if p.extents.Len() == 0 || seeded.Bug("target-leader-trusted") {
		p.targetEpoch = pm.leaderEpoch
		return
	}
	p.epochAsked = pm.leaderEpoch
	gen, epoch, known := p.gen, p.targetEpoch, maps.Clone(s.ours)
	_, end := p.extents.End()
	t := fenceTarget{id: p.id, topic: p.target, topicID: p.targetID}
	s.e.background(func(ctx context.Context) {
		start, logEnd, h, err := batchAt(ctx, s.e.tailClient, s.e.target, t, end-1)
		_, ours := known[h.ProducerID]
		gone := ""
		if err == nil && (logEnd < end || start < end && h.BaseOffset < end && (!ours || h.IsControl())) {
			gone = s.e.cutTarget(ctx, t, epoch, end, known)
		}
		s.box.put(event{call: func() {
			switch {
			case s.pipes[p.id] != p || p.gen != gen:
				return
			case err != nil:
				p.epochAsked, p.epochAgain = -1, time.Now().Add(askTargetAgain)
				s.e.note(fmt.Sprintf("look whether target topic %s partition %d still holds offset %d", p.target, p.id.partition, end-1), err)
				return
			}
			if gone != "" {
				p.stop(dr.HaltTargetTruncated, gone)
			} else {
				p.targetEpoch = pm.leaderEpoch
			}
			s.touched[p] = struct{}{}
		}})
	})
}

// mayRetry reports whether a partition that is not authorised may be tried
// again now: after 5 s, then after twice as long each time, up to a minute, for
// every attempt takes the whole slot over.
func (s *slot) mayRetry(id tp) bool {
	r := s.retries[id]
	now := time.Now()
	switch {
	case r.at.IsZero():
		r = retry{at: now.Add(firstRetry), wait: firstRetry}
	case now.Before(r.at):
		return false
	default:
		r.wait = min(2*r.wait, time.Minute)
		r.at = now.Add(r.wait)
		s.retries[id] = r
		return true
	}
	s.retries[id] = r
	return false
}

// retry is when a partition may be tried again.
type retry struct {
	at   time.Time
	wait time.Duration
}

// retryHalt starts a pipeline again whose halt may clear by itself, and one
// for which an operator decided.
func (s *slot) retryHalt(p *pipeline, src, tgt *clusterMeta) {
	if p.halt.Code == dr.HaltUnauthorized && src.byID[p.id.topicID] != nil && tgt.byID[p.targetID] != nil && p.quiet() && !p.asking && s.retake == nil && s.mayRetry(p.id) {
		s.askPermission(p)
		return
	}
	if s.decided(p) && !p.unfenced && s.retake == nil {
		s.retake = fmt.Errorf("%w: %s partition %d: an operator decided: %s", errRetake, p.topic, p.id.partition, s.e.resolution(p.id).Action)
	}
}

// decided reports whether an operator decided about a halt, and that was not
// carried out yet.
func (s *slot) decided(p *pipeline) bool {
	r := s.e.resolution(p.id)
	return r != nil && r.ID != p.resolved && r.AtMs >= p.halt.AtMs
}

// fetchTrouble handles what a fetch says besides records.
func (s *slot) fetchTrouble(p *pipeline, f fetched) {
	switch {
	case errors.Is(f.err, errDiverged):
		p.truncated(f.diverged, fmt.Sprintf("source offset %d was read, but the log was truncated since (unclean leader election): %v", f.offset-1, f.err))
	case errors.Is(f.err, kerr.OffsetOutOfRange):
		s.checkRange(p, f)
	case errors.Is(f.err, kerr.TopicAuthorizationFailed):
		p.stop(dr.HaltUnauthorized, fmt.Sprintf("read source topic %s: %v", p.topic, f.err))
	case errors.Is(f.err, kerr.CorruptMessage):
		p.stop(dr.HaltCorrupt, fmt.Sprintf("the source broker cannot read offset %d: %v", f.offset, f.err))
	}
}

// checkRange asks the source which offsets exist and halts with the exact
// range that is missing.
func (s *slot) checkRange(p *pipeline, f fetched) {
	if p.asking {
		return
	}
	p.asking = true
	gen, id, topic := p.gen, p.id, p.topic
	s.e.background(func(ctx context.Context) {
		start, end, err := leaderRange(ctx, s.e.sourceControl, s.e.source, fenceTarget{id: id, topic: topic, topicID: id.topicID})
		s.box.put(event{call: func() {
			if s.pipes[id] != p || p.gen != gen {
				return
			}
			p.asking = false
			switch {
			case len(p.queue) > 0: // what was fetched before comes first: look again then
				p.recheck = &f
			case err != nil:
				p.waiting = fmt.Sprintf("read the offsets of source topic %s: %v", topic, err)
			case f.offset < start && seeded.Bug("out-of-range-skipped"):
				p.next = start
				s.e.fetch.start(id, topic, gen, start, -1, p.known, func(f fetched) { s.box.add(event{fetched: &f}) }, s.poke)
			case f.offset < start:
				p.logStart, p.highWater = start, end
				p.stop(dr.HaltRetention, fmt.Sprintf("source offsets %d to %d (%d records at most) were deleted (retention or DeleteRecords) before they were copied", f.offset, start-1, start-f.offset))
			case f.offset > end:
				p.highWater = end
				p.truncated(end, fmt.Sprintf("source offsets %d to %d were read and are gone: the log now ends at %d", end, f.offset-1, end))
			case p.last >= 0: // the offset exists, and the leader does not know the epoch of the record before it
				p.stop(dr.HaltSourceTruncated, fmt.Sprintf("source offset %d was read in leader epoch %d, which its leader does not know: the log was truncated or restored since", f.offset-1, p.last))
			default:
				s.e.fetch.start(id, topic, gen, f.offset, -1, p.known, func(f fetched) { s.box.add(event{fetched: &f}) }, s.poke)
			}
			s.touched[p] = struct{}{}
		}})
	})
}

// publish makes the slot's view.
func (s *slot) publish(owned bool, reason string) {
	s.published = time.Now()
	s.weighMaps()
	v := &slotView{owned: owned, reason: reason, partitions: make(map[tp]partitionView, len(s.pipes))}
	for id, p := range s.pipes {
		v.partitions[id] = partitionView{topic: p.topic, target: p.target, status: p.status(s.e.o.WorkerID)}
		if p.halt != nil {
			pv := v.partitions[id]
			pv.behind = p.halt.Behind
			v.partitions[id] = pv
		}
	}
	s.view.Store(v)
}

// status is what the API shows of a pipeline.
func (p *pipeline) status(worker string) dr.PartitionStatus {
	st := dr.PartitionStatus{
		Partition: p.id.partition, State: dr.PartitionRunning, SourceLogStartOffset: p.logStart, SourceEndOffset: p.highWater,
		ReplicatedOffset: p.frontier(), TargetEndOffset: p.targetEnd, Worker: worker,
	}
	switch {
	case p.halt != nil && p.told != nil: // the one before, while another one that took its place is written
		st.State, st.Code, st.Reason = dr.PartitionHalted, p.told.Code, p.told.Reason
	case p.waiting != "":
		st.State, st.Reason = dr.PartitionWaiting, p.waiting
	case p.highWater < 0: // not fetched yet: a lag of zero would be a guess
		st.State = dr.PartitionStarting
	}
	if st.SourceEndOffset >= 0 {
		st.MessageLag = max(0, st.SourceEndOffset-max(st.ReplicatedOffset, 0))
	}
	return st
}
