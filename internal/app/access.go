package app

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/access"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/replicate"
)

// keepAccess keeps the target's access rules and quotas while this worker leads.
func (r *replicator) keepAccess(ctx context.Context, source, target *kgo.Client) error {
	engine, err := r.working()
	if err != nil {
		return err
	}
	o, err := r.accessOptions(engine, source, target)
	if err != nil {
		return err
	}
	a, err := access.New(o)
	if err != nil {
		return err
	}
	r.setAccess(a)
	defer r.setAccess(nil)
	return a.Run(ctx)
}

// accessOptions translates the settings of a file.
func (r *replicator) accessOptions(engine *replicate.Engine, source, target *kgo.Client) (access.Options, error) {
	ids := engine.Status()
	if ids.SourceClusterID == "" || ids.TargetClusterID == "" {
		return access.Options{}, &dr.Error{Code: dr.CodeConflict, Hint: "wait until it is past CREATING", Err: fmt.Errorf("replicator %s has not reached its clusters yet", r.name)}
	}
	s := r.settings
	groups, err := s.GroupFilter()
	if err != nil {
		return access.Options{}, err
	}
	o := access.Options{
		Replicator: r.name, Ledger: accessLedger{engine, r.name}, Lead: engine.LeadUntil,
		Source:  access.Cluster{Client: source, Reach: r.options.Source.Cluster, ID: ids.SourceClusterID},
		Target:  access.Cluster{Client: target, Reach: r.options.Target.Cluster, ID: ids.TargetClusterID},
		Topics:  r.options.Filter,
		Groups:  groups,
		Naming:  r.options.Naming,
		Deleted: s.DeletedTopics,
		Changed: func(ctx context.Context, st dr.AccessStatus) error {
			raw, err := json.Marshal(st)
			if err != nil {
				return fmt.Errorf("encode the state of the access rules: %w", err)
			}
			return engine.RecordAccess(ctx, []replicate.AccessRecord{{Key: replicate.AccessStatusKey, Entry: raw}})
		},
		Interval: s.ACLs.Interval.Std(), ForwardAll: r.options.ForwardAll, TopicPrefix: s.SelectsPrefix, Logger: r.log,
	}
	if s.Pair != "" {
		o.Opposite = config.PairReplicator(s.Pair, s.Source)
		o.Active = func(context.Context) (access.Active, error) { return r.activeSide(ids.SourceClusterID) }
	}
	if !s.ACLs.Enabled {
		o.ACLs = access.Leave
	}
	if !s.Quotas {
		o.Quotas = access.Leave
	}
	return o, nil
}

// activeSide says which cluster of the pair is the active one, as far as the state
// of both is known here: access.Ledger refreshes it. Before anybody wrote the roles
// down it is the one of the file.
func (r *replicator) activeSide(sourceID string) (access.Active, error) {
	var role dr.Role
	for _, t := range []*tables{r.source, r.target} {
		own, err := readRole(t.current().table, r.settings.Pair)
		if err != nil {
			return access.ActiveNone, err
		}
		if own.Supersedes(role) {
			role = own
		}
	}
	if role.Active == sourceID || (role.IsZero() && r.initialActive == r.settings.Source) {
		return access.ActiveSource, nil
	}
	return access.ActiveTarget, nil
}

// setAccess says who keeps the rules on this worker, nil for nobody.
func (r *replicator) setAccess(a *access.Access) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.access != nil {
		r.mu.accessFailures += r.mu.access.Failures()
	}
	r.mu.access = a
}

// accessFailures returns how often something failed on this worker.
func (r *replicator) accessFailures() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.access == nil {
		return r.mu.accessFailures
	}
	return r.mu.accessFailures + r.mu.access.Failures()
}

// accessStatus returns what the keeper of the rules said last, on whichever
// worker it is; nil when it has said nothing.
func accessStatus(engine *replicate.Engine) *dr.AccessStatus {
	raw := engine.AccessStatus()
	if raw == nil {
		return nil
	}
	st := &dr.AccessStatus{}
	if err := json.Unmarshal(raw, st); err != nil {
		return &dr.AccessStatus{ACLs: dr.AccessPart{State: dr.AccessFailed, Reason: "read what the keeper of the rules says: " + err.Error()}}
	}
	return st
}

// diffAccess compares the rules and quotas of both clusters, from any worker.
func (r *replicator) diffAccess(ctx context.Context) (dr.AccessDiff, error) {
	engine, err := r.working()
	if err != nil {
		return dr.AccessDiff{}, err
	}
	source, target, done, err := r.dial()
	if err != nil {
		return dr.AccessDiff{}, err
	}
	defer done()
	o, err := r.accessOptions(engine, source, target)
	if err != nil {
		return dr.AccessDiff{}, err
	}
	a, err := access.New(o)
	if err != nil {
		return dr.AccessDiff{}, err
	}
	return a.Diff(ctx)
}

// dial makes clients of both clusters for one look at them. done closes them.
func (r *replicator) dial() (source, target *kgo.Client, done func(), err error) {
	if source, err = r.options.Source.Dial(); err != nil {
		return nil, nil, nil, err
	}
	if target, err = r.options.Target.Dial(); err != nil {
		source.Close()
		return nil, nil, nil, err
	}
	return source, target, func() { source.Close(); target.Close() }, nil
}

// accessLedger keeps the memory of package access in the engine's records.
type accessLedger struct {
	engine *replicate.Engine
	name   string
}

// Refresh implements access.Ledger.
func (l accessLedger) Refresh(ctx context.Context) error { return l.engine.RefreshControl(ctx) }

// Source implements access.Ledger.
func (l accessLedger) Source() ([]access.Made, error) { return madeOf(l.engine.SourceAccess()) }

// Target implements access.Ledger.
func (l accessLedger) Target() ([]access.Made, error) { return madeOf(l.engine.TargetAccess()) }

func madeOf(records []replicate.AccessRecord, err error) ([]access.Made, error) {
	if err != nil {
		return nil, err
	}
	out := make([]access.Made, 0, len(records))
	for _, r := range records {
		m := access.Made{Replicator: r.Replicator}
		if err := json.Unmarshal(r.Entry, &m.Entry); err != nil {
			return nil, fmt.Errorf("read the entry %s of replicator %s: %w", r.Key, r.Replicator, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// Fences implements access.Ledger.
func (l accessLedger) Fences() ([]access.Fence, error) {
	records, err := l.engine.Fences()
	if err != nil {
		return nil, err
	}
	out := make([]access.Fence, 0, len(records))
	for _, r := range records {
		f := access.Fence{ClusterID: r.ClusterID, Holds: r.Holds}
		for _, list := range []struct {
			raw json.RawMessage
			to  *[]dr.ACL
		}{{r.Made, &f.Made}, {r.Removed, &f.Removed}} {
			if len(list.raw) == 0 {
				continue
			}
			if err := json.Unmarshal(list.raw, list.to); err != nil {
				return nil, fmt.Errorf("read the rules of fence %s: %w", r.ID, err)
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// Record implements access.Ledger.
func (l accessLedger) Record(ctx context.Context, entries map[string]*access.Entry) error {
	records, err := recordsOf(l.name, entries)
	if err != nil {
		return err
	}
	return l.engine.RecordAccess(ctx, records)
}

// recordsOf encodes entries of a replicator; nil ones remove.
func recordsOf(replicator string, entries map[string]*access.Entry) ([]replicate.AccessRecord, error) {
	records := make([]replicate.AccessRecord, 0, len(entries))
	for key, e := range entries {
		r := replicate.AccessRecord{Replicator: replicator, Key: key}
		if e != nil {
			raw, err := json.Marshal(e)
			if err != nil {
				return nil, fmt.Errorf("encode the entry %s: %w", key, err)
			}
			r.Entry = raw
		}
		records = append(records, r)
	}
	return records, nil
}
