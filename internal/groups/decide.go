package groups

import (
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// memory is what a replicator remembers of a group in one partition. It is
// written before the commit that it speaks of, so the target's commit is either
// written or before.
type memory struct {
	from     logID   // that the replicator reads
	carried  int64   // commit there, -1: none so far
	at       vector  // what the commit means
	written  int64   // commit on the cluster that the replicator writes to
	before   int64   // what was there when written was decided on, -1: nothing
	tried    []int64 // of earlier decisions, not seen there since: they may come late
	metadata string
	resets   int32       // how often it followed a commit backwards
	alone    bool        // since a reset, what the opposite replicator knows does not count
	exact    bool        // written is where carried is, and no later snapshot of the maps will move it
	knew     []knownCuts // that at was made in the knowledge of, see cut.go
	revision int64       // counts the decisions, see note.go
	atMs     int64       // when written was committed
}

// none stands for no commit.
const none = int64(-1)

// facts are what is known of one group in one partition.
type facts struct {
	source, target logID

	asked       bool  // the source answered; else only own is known of it
	committed   int64 // on the source, none if there is nothing
	metadata    string
	sourceEmpty bool // the group has no members on the source
	wasLower    bool // the round before saw it below what was carried, too

	present int64 // commit on the target, none if there is nothing
	active  bool  // the group has members on the target

	own      *memory   // nil: nothing is remembered
	beside   []*memory // of other replicators that write to the target
	opposite []*memory // of the replicators that write to the source

	replicated bool   // our replicator copies this partition
	sourceInto []path // of the replicators that write to the source
	targetInto []path // of those that write to the target, ours among them
	back       []path // those of sourceInto that read the target
	unseen     bool   // own was made before a log was cut, see behindCuts
	moved      bool   // and own knew offsets behind that cut: they are placed at it
	roundabout bool   // the target\'s own records come to the source through a third cluster

	deleted    dr.DeletedGroups
	renewAfter time.Duration // age at which an unchanged commit is written again
	now        time.Time
}

// action is what is to be done on the target.
type action int

const (
	actNone     action = iota
	actRemember        // only the memory changes
	actCommit          // remember, then commit
	actDelete          // delete the commit, then forget
	actForget          // the commit is gone on both sides
)

// decision is what the facts ask for, and what is said of them.
type decision struct {
	act        action
	keep       memory // of actRemember and actCommit
	state      dr.GroupState
	reason     string
	translated int64 // where the source's commit is on the target, none if that is not known
	readAgain  int64
	reverse    bool // the source's commit was brought by the opposite replicator
	lower      bool // the source's commit is below what was carried, and was not followed so far
	settled    bool // the same facts will give the same: nothing is left to be done
}

// decide is the whole of the rules for one group in one partition.
func decide(f facts) decision {
	f = f.behindCuts()
	d := f.decide()
	if d.act == actNone && f.renewable() && d.state != dr.GroupFailed {
		d.act, d.keep = actCommit, *f.own
		d.keep.before, d.keep.atMs = f.present, f.now.UnixMilli()
	}
	return d
}

func (f facts) decide() decision {
	switch {
	case !f.asked && (f.own == nil || len(f.own.at) == 0):
		return decision{state: dr.GroupFailed, translated: none, reason: "the source can't be reached, and nothing is remembered of this position"}
	case !f.asked:
		next := *f.own
		next.exact = false
		return f.follow(f.own.carried, f.own.at, next, f.moved)
	case f.committed < 0:
		return f.gone()
	}
	if o := f.echo(); o != nil {
		return f.reversed(o)
	}
	if f.roundabout && len(f.back) == 0 {
		return decision{
			state: dr.GroupUnmapped, translated: none,
			reason: "the target's own records come to the source through a third cluster: how far they were read is not known; a replicator from the target to the source tells it",
		}
	}
	if f.unchanged() {
		return decision{state: dr.GroupSynced, translated: f.own.written, settled: true}
	}
	if !f.replicated {
		return decision{state: dr.GroupUnmapped, translated: none, reason: "the partition is not replicated so far"}
	}
	here := f.locate(f.source, f.committed, f.sourceInto)
	if here.unknown != "" {
		return decision{state: dr.GroupUnmapped, translated: none, reason: here.unknown}
	}
	next := memory{from: f.source, carried: f.committed, metadata: f.metadata}
	at, down := here.at, false
	if own := f.own; own != nil {
		if cut, ok := own.at.get(f.source); ok && f.committed == own.carried { // the same commit, and since it was made the source's log was cut
			at = at.lower(f.source, cut)
		}
		next.resets, next.alone = own.resets, own.alone
		switch {
		case f.committed >= own.carried:
			down = gained(here.exact, own) || f.moved
			at = at.merge(own.at)
		case !f.sourceEmpty && !f.wasLower:
			return decision{
				state: dr.GroupSynced, translated: f.present, lower: true,
				reason: fmt.Sprintf("the source's position went back from %d to %d: followed when it is seen again", own.carried, f.committed),
			}
		default:
			down, next.alone = true, true
			next.resets++
		}
	}
	if !next.alone {
		for _, o := range f.opposite {
			if o.written < 0 || o.written > f.committed {
				continue
			}
			at = at.merge(o.at)
			if o.from == f.target && o.carried == f.present && f.present >= 0 { // the maps may know more of it than when it was carried
				at = at.merge(f.there().at)
			}
		}
	}
	next.exact = len(here.exact) == len(here.at)
	if f.wentOn() && !next.alone {
		there := f.there()
		if there.unknown != "" {
			return decision{state: dr.GroupUnmapped, translated: none, reason: there.unknown}
		}
		at = at.merge(there.at)
		next.exact = false // settled once the target's commit is ours
	}
	return f.follow(f.committed, at, next, down)
}

// wentOn reports whether the group went on at the target, behind what the opposite
// replicator carried to the source, before it moved to the source: that cluster or
// that replicator was gone, or the move was too quick. While it has members on the
// source nobody carries that there any more. It is one group on both sides, and
// what it read on either was read.
func (f facts) wentOn() bool {
	return !f.sourceEmpty && slices.ContainsFunc(f.opposite, func(o *memory) bool { return o.from == f.target && o.carried >= 0 && f.present > o.carried })
}

// unchanged reports whether the memory answers for the facts, so that the maps
// need not be asked: the common case costs next to nothing.
func (f facts) unchanged() bool {
	own := f.own
	if own == nil || f.unseen || !own.exact || own.carried != f.committed || own.written != f.present || own.metadata != f.metadata {
		return false
	}
	for _, r := range f.sourceInto {
		if _, ok := own.at.get(r.from); !ok {
			return false // a replicator that is new
		}
	}
	if slices.ContainsFunc(f.sourceInto, path.cut) || slices.ContainsFunc(f.targetInto, path.cut) {
		return false
	}
	_, over := f.overrun()
	return !over && f.doubled() == 0
}

// doubled returns how many records that were read when the target's commit was
// written lie behind it now, or will: a replicator copies them once more, since
// somebody decided that it begins again (restart, start-at). What a map has folded
// is not looked at.
func (f facts) doubled() (sum int64) {
	if f.own == nil || !f.own.exact {
		return 0
	}
	for _, r := range f.targetInto {
		read, ok := f.own.at.get(r.from)
		if !ok {
			continue
		}
		from := max(f.own.written, f.present, r.Map.Floor().TargetEnd)
		if next, fit := r.ToSource(from); fit == offsets.FitExact {
			sum += max(0, read-next)
		}
	}
	return sum
}

// overrun returns the first record that was not read where that lies before what
// was written, and the target still has that commit. When it was written there was
// none: the target's log was cut since, and its offsets were given anew.
func (f facts) overrun() (place int64, over bool) {
	if f.own == nil || f.present < 0 || f.present != f.own.written {
		return 0, false
	}
	place = f.present
	for _, r := range f.targetInto {
		if at, ok := f.own.at.get(r.from); ok {
			if first, known := r.behind(at); known {
				place = min(place, first)
			}
		}
	}
	return place, place < f.present
}

// gained reports whether a position knows a cluster that what was remembered
// does not: records of a replicator that is new. Some of them may lie before
// what was written.
func gained(exact vector, own *memory) bool {
	if len(own.at) == 0 {
		return false
	}
	for _, c := range exact {
		if _, ok := own.at.get(c.log); !ok {
			return true
		}
	}
	return false
}

// echo returns the memory of the replicator that wrote the source's commit, nil if
// a client did, or one that nobody but us carries on: then there is something to
// carry. What came from the target is there already; what came from a third
// cluster comes to the target from there, too, if a replicator goes that way.
func (f facts) echo() *memory {
	for _, o := range f.opposite {
		if !o.wrote(f.committed) {
			continue
		}
		if o.from == f.target || slices.ContainsFunc(f.targetInto, func(p path) bool { return p.from == o.from }) {
			return o
		}
	}
	return nil
}

// reversed is about a commit of the source that another replicator wrote.
func (f facts) reversed(o *memory) decision {
	if o.from != f.target {
		return decision{state: dr.GroupSynced, translated: f.present, settled: true, reason: "carried from cluster " + o.from.cluster()}
	}
	d := decision{state: dr.GroupSynced, translated: o.carried, reverse: true, settled: true}
	if f.own != nil && f.own.alone { // that replicator speaks of the new life, too
		d.act, d.keep = actRemember, *f.own
		d.keep.alone = false
	}
	if f.replicated && f.present == o.carried {
		if d.readAgain = readAgain(f.target, o.at, f.present, f.targetInto, f.back); d.readAgain > 0 {
			d.state, d.reason = dr.GroupBehind, fmt.Sprintf("up to %d records behind the target's position were read on the source before", d.readAgain)
		}
	}
	return d
}

// follow takes the target's commit to a position. down lets it go backwards;
// next.exact says whether later snapshots of the maps leave the position as it is.
func (f facts) follow(carried int64, at vector, next memory, down bool) decision {
	if !f.replicated {
		return decision{state: dr.GroupUnmapped, translated: none, reason: "the partition is not replicated any more"}
	}
	r := render(f.target, at, f.targetInto, f.back)
	if r.unknown != "" {
		return decision{state: dr.GroupUnmapped, translated: none, reason: r.unknown}
	}
	if place, over := f.overrun(); over {
		down = true
		if r.fit == offsets.FitEarlier && len(f.sourceInto) == 0 { // what the map folded lay before the cut
			r.offset, r.fit, r.readAgain = max(r.offset, place), offsets.FitExact, 0
		}
	}
	d := decision{translated: r.offset, readAgain: r.readAgain}
	d.state, d.reason = f.quality(r)
	next.carried, next.at, next.written, next.before, next.atMs = carried, at, r.offset, f.present, f.now.UnixMilli()
	final := d.state == dr.GroupSynced && len(r.ahead) == 0 && next.exact
	next.exact, next.knew = final, f.known()
	next.tried = f.own.attempts(f.present, next.written)
	ours := f.ours()
	known := ours || f.carriedBack()
	switch there := f.present == r.offset; {
	case there && !known: // the same by chance, or the opposite replicator has still to carry it: it is still somebody's own
		d.settled = final
	case there && (f.active || f.own != nil && f.own.metadata == next.metadata):
		d.settled = final
		if f.own == nil || f.own.carried != carried || down || f.unseen {
			d.act, d.keep = actRemember, next
		}
	case f.active:
		d.state, d.reason = dr.GroupActive, "the group has members on the target"
		d.readAgain = max(d.readAgain, f.doubled())
	case !known && !f.wentOn() && !f.followed(at) && !f.leads(at, down || next.alone):
		d.state = dr.GroupHeld
		d.reason = fmt.Sprintf("the target's position %d was not written by a replicator; the source's would be %d there", f.present, r.offset)
	case r.offset < f.lowest(ours) && (!down || !f.own.wrote(f.present)):
		d.state, d.reason, d.readAgain = dr.GroupSynced, fmt.Sprintf("the target's position %d is further than the source's, which would be %d there: it is not taken back", f.present, r.offset), f.doubled()
		if d.readAgain > 0 {
			d.state = dr.GroupBehind
		}
	default:
		d.act, d.keep = actCommit, next
	}
	return d
}

// quality says how good a rendering is.
func (f facts) quality(r rendering) (dr.GroupState, string) {
	switch {
	case r.fit == offsets.FitEarlier:
		return dr.GroupBehind, fmt.Sprintf("the offset map is no longer exact there: up to %d records would be read again", r.readAgain)
	case r.readAgain > 0:
		return dr.GroupBehind, fmt.Sprintf("offset %d of the target may hold a record of cluster %s that was not read: up to %d records behind it would be read again", r.offset, r.by.cluster(), r.readAgain)
	case slices.Contains(r.ahead, f.source) || slices.Contains(r.ahead, r.by):
		return dr.GroupAhead, "the position is beyond what is replicated so far: the target's is the end of the copy, and follows it"
	}
	return dr.GroupSynced, ""
}

// wrote reports whether a commit is one that m tells of.
func (m *memory) wrote(offset int64) bool {
	return m != nil && offset >= 0 && (m.written == offset || m.before == offset)
}

// keepTried bounds the attempts that are remembered.
const keepTried = 4

// attempts returns the commits whose outcome is not known: the request was not
// answered, or its worker stood still for a while and another took over. A broker
// may take them up to now.
func (m *memory) attempts(present, next int64) []int64 {
	if m == nil {
		return nil
	}
	out := slices.Clone(m.tried)
	if m.written >= 0 && m.written != present {
		out = append(out, m.written)
	}
	out = slices.DeleteFunc(out, func(offset int64) bool { return offset == present || offset == next })
	slices.Sort(out)
	out = slices.Compact(out)
	return out[max(0, len(out)-keepTried):]
}

// late reports whether a commit is one of the attempts.
func (m *memory) late(offset int64) bool { return m != nil && slices.Contains(m.tried, offset) }

// ours reports whether the target's commit was written by a replicator, or
// there is none.
func (f facts) ours() bool {
	if f.present < 0 || f.own.wrote(f.present) || f.own.late(f.present) {
		return true
	}
	for _, m := range f.beside {
		if m.wrote(f.present) {
			return true
		}
	}
	return false
}

// carriedBack reports whether the target's commit, written by clients, is known
// on the source: a replicator carried it there last.
func (f facts) carriedBack() bool {
	for _, o := range f.opposite {
		if o.from == f.target && o.carried == f.present {
			return true
		}
	}
	return false
}

// followed reports whether the group went on at the source after clients wrote the
// target's commit: all that had been read there was read here, too. It moved before
// the opposite replicator knew of that commit, and that can't carry it any more, since
// the source's is not its own. Either replicator must have carried the group between
// the two, or there may be two of one name. A commit before what they know of is no
// step of the group: somebody took it back.
func (f facts) followed(at vector) bool {
	if f.own != nil && f.present <= f.own.written {
		return false
	}
	carried := f.own != nil
	for _, o := range f.opposite {
		if o.from == f.target && o.carried >= 0 {
			if f.present <= o.carried {
				return false
			}
			carried = true
		}
	}
	return carried && at.covers(f.locate(f.target, f.present, f.targetInto).at)
}

// leads is the same, seen from the other side: the group went on at the target, behind
// what was carried there, and has read all that it had read at the source. There is
// nothing to carry: a replicator that goes back carries what the group has read since.
// It is not so after a reset at the source.
func (f facts) leads(at vector, reset bool) bool {
	return !reset && len(f.back) > 0 && f.own != nil && f.present > f.own.written && f.there().at.covers(at)
}

// there returns the target's commit as a position: what was read when clients wrote
// it. Nobody remembered when that was, so where the target's log was cut since, it
// counts up to the cut.
func (f facts) there() located {
	offset := f.present
	for _, c := range f.cuts() {
		if cut, ok := c.cuts.Since(0); ok && c.log == f.target {
			offset = min(offset, cut)
		}
	}
	return f.locate(f.target, offset, f.targetInto)
}

// lowest is what the target's commit must not fall below. Where what was
// remembered last was never committed, that counts and not what is there.
func (f facts) lowest(ours bool) int64 {
	if ours && (f.own.wrote(f.present) || f.own.late(f.present)) {
		return f.own.written
	}
	return f.present
}

// gone is about a commit that the source does not have.
func (f facts) gone() decision {
	const kept = "the source has no commit any more; the target's is kept and not renewed"
	d := decision{state: dr.GroupSynced, translated: none, settled: true}
	switch {
	case f.own == nil:
	case f.present < 0:
		d.act = actForget
	case f.deleted != dr.GroupsFollow:
		d.reason = kept
	case f.present != f.own.written:
		d.state, d.reason = dr.GroupHeld, fmt.Sprintf("the source has no commit any more; the target's, %d, was not written by this replicator and is kept", f.present)
	case f.active:
		d.state, d.reason, d.settled = dr.GroupActive, "the source has no commit any more; the group has members on the target", false
	default:
		d.act, d.settled = actDelete, false
	}
	return d
}

// renewable reports whether the target's commit is ours, has a commit at the
// source behind it, and is old: brokers forget the commits of a group without
// members when they are older than offsets.retention.minutes
// (GroupMetadataManager.cleanupExpiredOffsets), but those of a group with
// members never, so that the source's may live on while the target's is gone.
func (f facts) renewable() bool {
	return f.own != nil && f.present >= 0 && f.present == f.own.written && !f.active &&
		(!f.asked || f.committed >= 0) && f.now.Sub(time.UnixMilli(f.own.atMs)) >= f.renewAfter
}
