package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// chunk is how many rules or quotas one request has. KRaft controllers refuse
	// requests that write more than 10,000 records
	// (QuorumController.MAX_RECORDS_PER_USER_OP).
	chunk = 500

	// refusalLife is how long what the target refused is not tried again.
	refusalLife = 10 * time.Minute
)

// apply carries a plan of rules out: what is to be made is recorded first, what
// was removed afterwards. It is safe to apply a plan that is out of date or half
// done. The error is a *lackingError when the target does not let the replicator
// change rules; what is staged is recorded all the same.
func (a *Access) apply(ctx context.Context, v view, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	entries := make(map[string]*Entry)
	note := func(c Change, phase Phase) {
		e := Entry{ACL: &c.ACL, Phase: phase, Path: c.Path, At: v.now}
		if old, ok := v.mine[c.ACL]; ok && old.Phase == phase && slices.Equal(old.Path, c.Path) {
			return
		}
		entries[e.Key()] = &e
	}
	var altering []Change
	for _, c := range changes {
		switch c.Action {
		case ActionStage:
			note(c, PhaseStaged)
		case ActionShare:
			note(c, PhaseMade)
		case ActionForget:
			if c.drop {
				entries[Entry{ACL: &c.ACL}.Key()] = nil
				continue
			}
			note(c, PhaseRemoved)
		default:
			altering = append(altering, c)
		}
	}
	if err := a.record(ctx, entries); err != nil || len(altering) == 0 {
		return err
	}
	// Nothing is recorded as made while it surely cannot be: somebody may make it
	// by hand, and then it must not count as the replicator's.
	if err := a.allowed(ctx, onTarget, "change the access rules", opAlter); err != nil {
		return err
	}
	clear(entries)
	for _, c := range altering {
		if c.Action == ActionCreate {
			note(c, PhaseMade)
		}
	}
	if err := a.record(ctx, entries); err != nil {
		return err
	}
	return a.alterACLs(ctx, v, altering)
}

func (a *Access) record(ctx context.Context, entries map[string]*Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if err := a.o.Ledger.Record(ctx, entries); err != nil {
		return fmt.Errorf("record %d rules and quotas: %w", len(entries), err)
	}
	return nil
}

// alterACLs makes and removes rules, in the order of the plan.
func (a *Access) alterACLs(ctx context.Context, v view, changes []Change) error {
	var lacking error
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && n < chunk && changes[n].Action == changes[0].Action && changes[n].ACL.Permission == changes[0].ACL.Permission {
			n++
		}
		do := a.createACLs
		if changes[0].Action == ActionDelete {
			do = a.deleteACLs
		}
		if err := do(ctx, v, changes[:n]); err != nil {
			if _, ok := errors.AsType[*lackingError](err); !ok {
				return err
			}
			lacking = err
		}
		changes = changes[n:]
	}
	return lacking
}

func (a *Access) createACLs(ctx context.Context, v view, changes []Change) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for _, c := range changes {
		req.Creations = append(req.Creations, creationOf(c.ACL))
	}
	resp, err := ask[*kmsg.CreateACLsResponse](ctx, a.o.Target.Client, req)
	if err != nil {
		return requestError(onTarget, "make access rules", err)
	}
	back := make(map[string]*Entry)
	var lacking error
	for i, r := range resp.Results {
		if i >= len(changes) {
			break
		}
		c := changes[i]
		err := brokerError(r.ErrorCode, r.ErrorMessage)
		if err == nil {
			a.o.Logger.LogAttrs(ctx, slog.LevelInfo, "access rule made on the target", slog.String("acl", c.ACL.String()))
			continue
		}
		// It is not there, so it must not count as ours if somebody makes it.
		e := Entry{ACL: &c.ACL}
		back[e.Key()] = nil
		if old, ok := v.mine[c.ACL]; ok {
			back[e.Key()] = &old
		}
		err = a.lacking(onTarget, "change the access rules", []string{opAlter}, err)
		if _, ok := errors.AsType[*lackingError](err); ok {
			lacking = err
			continue
		}
		if kerr.IsRetriable(kerr.ErrorForCode(r.ErrorCode)) {
			return errors.Join(err, a.record(ctx, back))
		}
		a.refuse(ctx, c.ACL, brokerError(r.ErrorCode, r.ErrorMessage))
	}
	return errors.Join(a.record(ctx, back), lacking)
}

func (a *Access) refuse(ctx context.Context, acl dr.ACL, err error) {
	a.refusedACLs.note(acl, "the target cluster answers: "+err.Error(), a.o.Now().Add(refusalLife))
	a.failures.Add(1)
	a.o.Logger.LogAttrs(ctx, slog.LevelWarn, "the target refuses an access rule", slog.String("acl", acl.String()), slog.Any("error", err))
}

func (a *Access) deleteACLs(ctx context.Context, v view, changes []Change) error {
	req := kmsg.NewPtrDeleteACLsRequest()
	for _, c := range changes {
		req.Filters = append(req.Filters, filterOf(c.ACL))
	}
	resp, err := ask[*kmsg.DeleteACLsResponse](ctx, a.o.Target.Client, req)
	if err != nil {
		return requestError(onTarget, "remove access rules", err)
	}
	removed := make(map[string]*Entry)
	var failed error
	for i, r := range resp.Results {
		if i >= len(changes) {
			break
		}
		c := changes[i]
		err := brokerError(r.ErrorCode, r.ErrorMessage)
		for _, m := range r.MatchingACLs {
			err = errors.Join(err, brokerError(m.ErrorCode, m.ErrorMessage))
		}
		if err != nil {
			failed = a.lacking(onTarget, "change the access rules", []string{opAlter}, err)
			continue
		}
		a.o.Logger.LogAttrs(ctx, slog.LevelInfo, "access rule removed from the target", slog.String("acl", c.ACL.String()))
		e := Entry{ACL: &c.ACL, Phase: PhaseRemoved, Path: v.mine[c.ACL].Path, At: a.o.Now()}
		removed[e.Key()] = &e
	}
	return errors.Join(a.record(ctx, removed), failed)
}

// applyQuotas is apply for quotas.
func (a *Access) applyQuotas(ctx context.Context, v quotaView, changes []quotaChange) error {
	forgotten, made := make(map[string]*Entry), make(map[string]*Entry)
	var altering []quotaChange
	for _, c := range changes {
		e := Entry{Quota: &c.Key, Phase: PhaseMade, Value: c.Value, Before: c.Before, Path: c.Path, At: v.now}
		switch {
		case c.Action == ActionForget && c.drop:
			forgotten[e.Key()] = nil
		case c.Action == ActionForget:
			e = v.mine[c.Key]
			e.Phase, e.At = PhaseRemoved, v.now
			forgotten[e.Key()] = &e
		case c.Action == ActionCreate:
			made[e.Key()] = &e
			altering = append(altering, c)
		default:
			altering = append(altering, c)
		}
	}
	if err := a.record(ctx, forgotten); err != nil || len(altering) == 0 {
		return err
	}
	if err := a.allowed(ctx, onTarget, "change the client quotas", opAlterConfigs); err != nil {
		return err
	}
	if err := a.record(ctx, made); err != nil {
		return err
	}
	for part := range slices.Chunk(altering, chunk) {
		if err := a.alterQuotas(ctx, v, part); err != nil {
			return err
		}
	}
	return nil
}

// alterQuotas sends one request. Brokers want an entity once in it, so limits of
// one entity go together.
func (a *Access) alterQuotas(ctx context.Context, v quotaView, changes []quotaChange) error {
	req := kmsg.NewPtrAlterClientQuotasRequest()
	at := make(map[string]int)
	for _, c := range changes {
		i, ok := at[c.Key.Entity]
		if !ok {
			parts, err := partsOf(c.Key.Entity)
			if err != nil {
				return err
			}
			entry := kmsg.NewAlterClientQuotasRequestEntry()
			for _, p := range parts {
				entry.Entity = append(entry.Entity, kmsg.AlterClientQuotasRequestEntryEntity{Type: p.Type, Name: p.Name})
			}
			i = len(req.Entries)
			at[c.Key.Entity] = i
			req.Entries = append(req.Entries, entry)
		}
		op := kmsg.NewAlterClientQuotasRequestEntryOp()
		op.Key, op.Value, op.Remove = c.Key.Limit, c.Value, c.Action == ActionDelete
		req.Entries[i].Ops = append(req.Entries[i].Ops, op)
	}
	resp, err := ask[*kmsg.AlterClientQuotasResponse](ctx, a.o.Target.Client, req)
	if err != nil {
		return requestError(onTarget, "change the client quotas", err)
	}
	answers := make(map[string]error)
	for _, e := range resp.Entries {
		var parts []part
		for _, p := range e.Entity {
			parts = append(parts, part{p.Type, p.Name})
		}
		answers[entityText(parts)] = brokerError(e.ErrorCode, e.ErrorMessage)
	}
	return a.settleQuotas(ctx, v, changes, answers)
}

// settleQuotas writes down what became of changed quotas.
func (a *Access) settleQuotas(ctx context.Context, v quotaView, changes []quotaChange, answers map[string]error) error {
	entries := make(map[string]*Entry)
	var lacking error
	for _, c := range changes {
		err, answered := answers[c.Key.Entity]
		old, known := v.mine[c.Key]
		key := Entry{Quota: &c.Key}.Key()
		switch {
		case !answered:
			lacking = requestError(onTarget, "change the client quotas", errors.New("an entity is missing in the answer"))
		case err == nil && c.Action == ActionDelete:
			old.Phase, old.At = PhaseRemoved, a.o.Now()
			entries[key] = &old
			a.o.Logger.LogAttrs(ctx, slog.LevelInfo, "client quota removed from the target", slog.String("entity", entityName(c.Key.Entity)), slog.String("quota", c.Key.Limit))
		case err == nil:
			a.o.Logger.LogAttrs(ctx, slog.LevelInfo, "client quota set on the target", slog.String("entity", entityName(c.Key.Entity)), slog.String("quota", c.Key.Limit), slog.Float64("value", c.Value))
		default:
			if c.Action == ActionCreate {
				if entries[key] = nil; known {
					entries[key] = &old
				}
			}
			if errors.Is(err, kerr.ClusterAuthorizationFailed) {
				lacking = a.lacking(onTarget, "change the client quotas", []string{opAlterConfigs}, err)
				continue
			}
			a.failures.Add(1)
			a.refusedQuotas.note(c.Key, "the target cluster answers: "+err.Error(), a.o.Now().Add(refusalLife))
		}
	}
	return errors.Join(a.record(ctx, entries), lacking)
}
