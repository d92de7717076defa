package groups

import (
	"slices"

	"github.com/anabranch/anabranch/internal/offsets"
)

// A position has no generation of the logs. Where one was cut (an unclean leader
// election), and clients wrote on, an offset behind the cut means another record than
// when it was remembered: one that nobody has read. Replicators keep the cuts that
// they went on behind. So a memory says which of them it was made in the knowledge
// of, and what it knows of offsets behind the others counts up to the cut: read
// again is what was read, skipped is nothing.

// knownCuts says how many cuts of a log a memory knows, by one route.
type knownCuts struct {
	log logID
	via string
	n   int32
}

// via names a route among those that know cuts.
func (p path) via() string { return p.Replicator + "/" + string(p.from) }

// cutLog is what one route knows of the cuts of one log.
type cutLog struct {
	knownCuts

	cuts offsets.Cuts
}

// cuts returns what all routes know, of logs that were cut.
func (f facts) cuts() (out []cutLog) {
	add := func(log logID, r path, cuts offsets.Cuts) {
		if len(cuts) > 0 {
			out = append(out, cutLog{knownCuts{log, r.via(), cuts.Last()}, cuts})
		}
	}
	for _, side := range []struct {
		log  logID
		into []path
	}{{f.source, f.sourceInto}, {f.target, f.targetInto}} {
		for _, r := range side.into {
			add(side.log, r, r.TargetCuts)
			add(r.from, r, r.SourceCuts)
		}
	}
	return out
}

// known returns the cuts that a memory is made in the knowledge of.
func (f facts) known() (out []knownCuts) {
	for _, c := range f.cuts() {
		out = append(out, c.knownCuts)
	}
	return out
}

// behindCuts returns the facts with the memories placed at the cuts that they did
// not know.
func (f facts) behindCuts() facts {
	all := f.cuts()
	if len(all) == 0 {
		return f
	}
	if f.own != nil {
		f.own, f.unseen, f.moved = f.own.placed(all)
	}
	f.opposite = slices.Clone(f.opposite)
	for i, o := range f.opposite {
		f.opposite[i], _, _ = o.placed(all)
	}
	return f
}

// placed returns the memory as it counts after cuts. unseen reports whether it was
// made before one of them, moved whether that changes what it says.
func (m *memory) placed(all []cutLog) (out *memory, unseen, moved bool) {
	at := slices.Clone(m.at)
	for _, c := range all {
		i := slices.IndexFunc(m.knew, func(k knownCuts) bool { return k.log == c.log && k.via == c.via })
		n := int32(0)
		if i >= 0 {
			n = m.knew[i].n
		}
		cut, ok := c.cuts.Since(n)
		unseen = unseen || ok
		if offset, has := at.get(c.log); ok && has && offset > cut {
			at, moved = at.lower(c.log, cut), true
		}
	}
	if !moved {
		return m, unseen, false
	}
	next := *m
	next.at = at
	return &next, unseen, true
}

// locate returns the position of an offset of a log. A route into it that read its
// own log before that was cut, and does not know yet, tells of records that are
// gone: it counts up to the cut.
func (f facts) locate(log logID, offset int64, into []path) located {
	out := locate(log, offset, into)
	if out.unknown != "" {
		return out
	}
	for _, c := range f.cuts() {
		for _, r := range into {
			cut, ok := c.cuts.Before(r.SourceEpoch)
			if place, has := out.at.get(c.log); r.from != c.log || !ok || !has || place <= cut || c.via == r.via() && r.Halt == "" {
				continue
			}
			out.at = out.at.lower(c.log, cut)
			out.exact = slices.DeleteFunc(out.exact, func(x component) bool { return x.log == c.log })
		}
	}
	return out
}
