package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/access"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/fence"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/replicate"
)

// recordFence keeps what a fence changes on the cluster that is fenced, where the
// keepers of access rules of both directions read it. The other one may be away,
// and would go on telling of a fence that is gone.
func (m *moves) recordFence(ctx context.Context, note fence.Note) error {
	r := replicate.FenceRecord{ID: note.ID, ClusterID: note.ClusterID}
	for _, list := range []struct {
		acls []dr.ACL
		to   *json.RawMessage
	}{{note.Made, &r.Made}, {note.Removed, &r.Removed}} {
		if len(list.acls) == 0 {
			continue
		}
		raw, err := json.Marshal(list.acls)
		if err != nil {
			return fmt.Errorf("encode the rules of a fence: %w", err)
		}
		*list.to = raw
	}
	s, err := m.side(dr.ClusterRef{ID: note.ClusterID})
	if err != nil {
		return err
	}
	return replicate.WriteFence(ctx, s.dial, r)
}

// accessPort is move.Access.
type accessPort struct{ m *moves }

// holdOf is the id of the record that holds the replicators of a pair.
func holdOf(pair string) string { return "hold-" + pair }

// awayTime is how long is waited for a cluster that does not answer when the other
// one has done what was asked for.
const awayTime = 5 * time.Second

// Hold implements move.Access.
func (p accessPort) Hold(ctx context.Context, _ string) error {
	var holds []string
	for _, s := range p.m.sides {
		holds = append(holds, p.m.replicator(s))
	}
	errs, _, err := p.hold(ctx, holds)
	return errors.Join(append(errs, err)...)
}

// Release implements move.Access. One cluster is enough: its record is the newer
// one.
func (p accessPort) Release(ctx context.Context, _ string) error {
	errs, written, err := p.hold(ctx, nil)
	if err != nil || written == 0 {
		return errors.Join(append(errs, err)...)
	}
	for _, e := range errs {
		p.m.log.LogAttrs(ctx, slog.LevelWarn, "a cluster could not be told that access rules are copied again; it is once it answers", slog.Any("error", e))
	}
	return nil
}

// hold writes the pair's record to every cluster that answers, with a revision
// above all that they have, and returns how many took it. Behind the first one the
// others have awayTime.
func (p accessPort) hold(ctx context.Context, holds []string) (errs []error, written int, err error) {
	r := replicate.FenceRecord{ID: holdOf(p.m.name), Holds: holds, Revision: p.m.pairs.o.Now().UnixMilli()}
	var up []*pairSide
	for _, s := range p.m.sides {
		if s.err != nil {
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, awayTime)
		rerr := s.table.RefreshPartition(rctx, 0)
		cancel()
		if rerr != nil {
			errs = append(errs, fmt.Errorf("read what holds the replicators on cluster %s: %w", s.name, rerr))
			continue // it would be waited for once more, and what it has may be newer
		}
		up = append(up, s)
		list, err := replicate.FencesIn(s.table)
		if err != nil {
			return nil, 0, err
		}
		for _, f := range list {
			if f.ID == r.ID {
				r.Revision = max(r.Revision, f.Revision+1)
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, len(up))
	for _, s := range up {
		go func() {
			err := replicate.WriteFence(ctx, s.dial, r)
			if err != nil {
				err = fmt.Errorf("cluster %s: %w", s.name, err)
			}
			done <- err
		}()
	}
	for range up {
		if err := <-done; err != nil {
			errs = append(errs, err)
			continue
		}
		if written++; written == 1 {
			timer := time.AfterFunc(awayTime, cancel)
			defer timer.Stop()
		}
	}
	return errs, written, nil
}

// Open implements move.Access.
func (p accessPort) Open(ctx context.Context, cluster dr.ClusterRef) ([]dr.Finding, error) {
	s, err := p.m.side(cluster)
	if err != nil {
		return nil, err
	}
	if p.m.pair.Fence.Method != "acl" && !p.m.pair.ACLs.Enabled {
		return nil, nil
	}
	if err := p.unfence(ctx, s); err != nil {
		return nil, err
	}
	done, err := access.Promote(ctx, access.Promotion{
		Replicator: p.m.replicator(s), Target: access.Cluster{Client: s.client, Reach: s.reach, ID: s.id}, Ledger: targetLedger{p.m.replicator(s), s}, Logger: p.m.log,
	})
	if err != nil {
		return nil, fmt.Errorf("let clients write to cluster %s: %w", s.name, err)
	}
	var found []dr.Finding
	if len(done.Made)+len(done.There) > 0 {
		found = append(found, dr.Finding{
			Code: findOpened, Severity: dr.SeverityInfo, Subject: "cluster " + s.name,
			Message: fmt.Sprintf("%d rules that let clients write were made, %d were there", len(done.Made), len(done.There)),
		})
	}
	return found, nil
}

// unfence undoes the fences of older runs that still stand on a cluster, as the
// journal has them: newest first.
func (p accessPort) unfence(ctx context.Context, s *pairSide) error {
	listing, err := p.m.journal.List(ctx)
	if err != nil {
		return err
	}
	f, err := p.m.fence(dr.ClusterRef{ID: s.id, Name: s.name}, "")
	if err != nil {
		return err
	}
	fences, err := replicate.FencesIn(s.table)
	if err != nil {
		return err
	}
	standing := map[string]struct{}{}
	for _, r := range fences {
		standing[r.ID] = struct{}{}
	}
	revoked, err := p.revoked(s)
	if err != nil {
		return err
	}
	aside := false // a fence that is not of rules was undone: of several by hand the newest counts
	for _, run := range listing.Runs {
		for _, plan := range fencesOf(run, s.id) {
			_, stands := standing[plan.ID()]
			if plan.Method == fence.MethodACL && !stands || plan.Method != fence.MethodACL && aside {
				continue
			}
			aside = aside || plan.Method != fence.MethodACL
			plan.Removed = slices.DeleteFunc(plan.Removed, func(a dr.ACL) bool { return slices.Contains(revoked, a) })
			if err := f.Undo(ctx, plan); err != nil {
				return fmt.Errorf("undo the fence of run %s on cluster %s: %w", run.ID, s.name, err)
			}
		}
	}
	return nil
}

// revoked returns the rules that are not to be given back: the other cluster took
// them back while this one was fenced.
func (p accessPort) revoked(s *pairSide) ([]dr.ACL, error) {
	made, err := madeOf(replicate.AccessRecords(s.table))
	if err != nil {
		return nil, err
	}
	var mine []access.Entry
	for _, m := range made {
		if m.Replicator == p.m.replicator(s) {
			mine = append(mine, m.Entry)
		}
	}
	return access.Revoked(mine), nil
}

// fencesOf returns the fences that a run planned for a cluster and did not undo,
// the last one first.
func fencesOf(run dr.Run, cluster string) []fence.Plan {
	var out []fence.Plan
	for _, step := range slices.Backward(run.Steps) {
		if !strings.HasPrefix(step.ID, "fence-") || step.State == dr.StepUndone || step.State == dr.StepPending || len(step.Plan) == 0 {
			continue
		}
		var planned move.FencePlan
		if err := json.Unmarshal(step.Plan, &planned); err != nil || len(planned.Data) == 0 {
			continue // a step that plans no fence
		}
		if plan, err := decodePlan(planned.Data); err == nil && plan.ClusterID == cluster {
			out = append(out, plan)
		}
	}
	return out
}

// targetLedger is access.TargetLedger by the state of one cluster.
type targetLedger struct {
	name string
	side *pairSide
}

// Refresh implements access.TargetLedger.
func (l targetLedger) Refresh(ctx context.Context) error {
	return l.side.table.RefreshPartition(ctx, 0)
}

// Target implements access.TargetLedger.
func (l targetLedger) Target() ([]access.Made, error) {
	return madeOf(replicate.AccessRecords(l.side.table))
}

// Record implements access.TargetLedger.
func (l targetLedger) Record(ctx context.Context, entries map[string]*access.Entry) error {
	records, err := recordsOf(l.name, entries)
	if err != nil {
		return err
	}
	if err := replicate.WriteAccess(ctx, l.side.dial, l.name, records); err != nil {
		return err
	}
	return l.Refresh(ctx)
}

var _ move.Access = accessPort{}
