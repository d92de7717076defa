package groups

import (
	"context"
	"fmt"

	"github.com/anabranch/anabranch/internal/dr"
)

// Adopt is the operator's decision about a group that is held by the target: its
// present commits there count as ours from now on, so that the source's positions
// may take their place. They are still not taken back: where the target is
// further than the source, it stays until the source has passed it. It returns
// how the group stands, and how many positions were adopted.
//
// It needs no Run, neither here nor on another worker: the decision is durable when
// it returns nil, as a note that whoever carries the groups, now or later, takes
// over. It commits nothing. It may be called from any goroutine, and at the same
// time as Run and Final anywhere: no decision of one takes back that of another.
// Only the target has to answer. Of a source that does not, what is remembered
// counts. Errors are of the surface (dr.Error): NOT_FOUND for a group that is not
// carried, UNREACHABLE and UNAUTHORIZED for the target, CONFLICT for records that
// can't be read.
func (s *Sync) Adopt(ctx context.Context, group string) (st dr.GroupStatus, n int, err error) {
	d, done, err := s.take(ctx)
	if err != nil {
		return st, 0, err
	}
	defer done()
	v, err := d.survey(ctx, []string{group}, false)
	if err != nil {
		return st, 0, surfaceError("adopt a group", err)
	}
	if len(v.names) == 0 {
		return st, 0, &dr.Error{Code: dr.CodeNotFound, Hint: "see `group list`", Err: fmt.Errorf("replicator %s carries no group %s", s.o.Replicator, group)}
	}
	views, err := v.read(ctx, v.names)
	if err != nil {
		return st, 0, surfaceError("adopt a group", err)
	}
	g := views[0]
	if g.stop {
		return st, 0, surfaceError("adopt a group", g.err)
	}
	changed := map[pageKey]*page{}
	for i := range g.entries {
		e := &g.entries[i]
		if e.problem != nil || e.decision.state != dr.GroupHeld {
			continue
		}
		keep := adopted(e, v.sourceErr == nil && g.sourceErr == nil)
		keep.atMs = s.o.Now().UnixMilli()
		v.remember(changed, e, &keep)
		n++
	}
	if n > 0 {
		values := map[string][]byte{}
		v.encode(changed, values, map[string]struct{}{}) // who carries the groups deletes what that replaces
		if err := s.o.Records.Write(ctx, values); err != nil {
			return st, 0, surfaceError("adopt a group", &stateError{err})
		}
	}
	list, err := s.lookAgain(ctx, d, group)
	if err != nil || len(list) == 0 {
		return st, n, err
	}
	return list[0], n, nil
}

// adopted is what is remembered of a position from here on. The source says anew
// what was read; where it can't, what is remembered of that is all there is.
func adopted(e *entry, asked bool) memory {
	keep := memory{from: e.view.sourceLog, carried: none}
	switch {
	case e.own != nil && !asked:
		keep = *e.own
	case e.own != nil:
		keep.resets = e.own.resets
	}
	keep.written, keep.before, keep.tried, keep.exact = e.present, e.present, nil, false
	return keep
}

func (s *Sync) lookAgain(ctx context.Context, d *desk, group string) ([]dr.GroupStatus, error) {
	v, err := d.survey(ctx, []string{group}, false)
	if err != nil {
		return nil, surfaceError("look at the group", err)
	}
	var out []dr.GroupStatus
	err = v.each(ctx, func(views []*groupView) error {
		v.ends(ctx, views)
		out = append(out, v.described(ctx, views)...)
		return nil
	})
	return out, err
}
