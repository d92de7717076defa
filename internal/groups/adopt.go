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
func (s *Sync) Adopt(ctx context.Context, group string) (st dr.GroupStatus, adopted int, err error) {
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
		keep := memory{from: e.view.sourceLog, carried: none, written: e.present, before: e.present, atMs: s.o.Now().UnixMilli()}
		if e.own != nil {
			keep.resets = e.own.resets
		}
		v.pageOf(changed, e).parts[e.key.partition] = &keep
		adopted++
	}
	if adopted > 0 {
		values := map[string][]byte{}
		encodePages(changed, values)
		if err := s.o.Records.Write(ctx, values); err != nil {
			return st, 0, surfaceError("adopt a group", &stateError{err})
		}
	}
	list, err := s.lookAgain(ctx, d, group)
	if err != nil || len(list) == 0 {
		return st, adopted, err
	}
	return list[0], adopted, nil
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
