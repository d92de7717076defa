package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
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
// change rules; what is staged is recorded all the same, but for what is not safe
// without a denial that is not made either.
func (a *Access) apply(ctx context.Context, v view, changes []Change) error {
	var kept, denials, altering, later []Change
	for _, c := range changes {
		switch {
		case c.Action == ActionCreate && c.ACL.Permission == deny:
			denials = append(denials, c)
		case c.Action == ActionCreate, c.Action == ActionDelete:
			altering = append(altering, c)
		case len(c.Behind) > 0:
			later = append(later, c)
		default:
			kept = append(kept, c)
		}
	}
	if len(denials) == 0 { // others made what had to be made first
		kept, later = append(kept, later...), nil
	}
	if err := a.keep(ctx, v, kept); err != nil || len(denials)+len(altering) == 0 {
		return err
	}
	// Nothing is recorded as made while it surely cannot be: somebody may make it
	// by hand, and then it must not count as the replicator's.
	if err := a.allowed(ctx, onTarget, "change the access rules", opAlter); err != nil {
		return err
	}
	not := make(map[dr.ACL]struct{})
	lacking := a.alter(ctx, v, denials, not)
	if _, ok := errors.AsType[*lackingError](lacking); lacking != nil && !ok {
		return lacking
	}
	denied := func(c Change) bool { return slices.ContainsFunc(c.Behind, func(d dr.ACL) bool { return has(not, d) }) }
	if err := a.keep(ctx, v, slices.DeleteFunc(later, denied)); err != nil {
		return err
	}
	return errors.Join(lacking, a.alter(ctx, v, slices.DeleteFunc(altering, denied), not))
}

// keep records changes that nothing is done for on the target.
func (a *Access) keep(ctx context.Context, v view, changes []Change) error {
	entries := make(map[string]*Entry)
	for _, c := range changes {
		switch c.Action {
		case ActionStage:
			v.note(entries, c, PhaseStaged)
		case ActionRevoke:
			v.note(entries, c, PhaseRevoked)
		case ActionShare:
			v.note(entries, c, PhaseMade)
		case ActionUnstage:
			entries[Entry{ACL: &c.ACL}.Key()] = nil
		case ActionForget:
			if c.drop {
				entries[Entry{ACL: &c.ACL}.Key()] = nil
				continue
			}
			v.note(entries, c, PhaseRemoved)
		case ActionCreate, ActionDelete: // see alter
		}
	}
	return a.record(ctx, entries)
}

// note adds the entry of a change to those that are to be recorded, if it says
// anything new.
func (v view) note(entries map[string]*Entry, c Change, phase Phase) {
	if old, ok := v.mine[c.ACL]; ok && old.Phase == phase && slices.Equal(old.Path, c.Path) {
		return
	}
	e := Entry{ACL: &c.ACL, Phase: phase, Path: c.Path, At: v.now}
	entries[e.Key()] = &e
}

// alter records what is about to be made, and makes and removes rules. not gets
// those that are not made.
func (a *Access) alter(ctx context.Context, v view, changes []Change, not map[dr.ACL]struct{}) error {
	entries := make(map[string]*Entry)
	for _, c := range changes {
		if c.Action == ActionCreate {
			v.note(entries, c, PhaseMade)
		}
	}
	if err := a.record(ctx, entries); err != nil {
		return err
	}
	return a.alterACLs(ctx, v, changes, not)
}

func (a *Access) record(ctx context.Context, entries map[string]*Entry) error {
	if len(entries) == 0 {
		return nil
	}
	ctx, done, err := a.leading(ctx)
	if err != nil {
		return fmt.Errorf("record %d rules and quotas: %w", len(entries), err)
	}
	defer done()
	if err := a.o.Ledger.Record(ctx, entries); err != nil {
		return fmt.Errorf("record %d rules and quotas: %w", len(entries), err)
	}
	return nil
}

// leading returns a context that ends before another process may keep these
// rules. A process that stood still for a while must not make or remove rules by
// what it read before: another may have gone on from there.
func (a *Access) leading(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if a.o.Lead == nil {
		return ctx, func() {}, nil
	}
	until, err := a.o.Lead(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	return ctx, cancel, nil
}

// change sends a request that changes the target.
func change[R kmsg.Response](ctx context.Context, a *Access, what string, req kmsg.Request) (R, error) {
	var none R
	ctx, done, err := a.leading(ctx)
	if err != nil {
		return none, fmt.Errorf("%s of the target cluster: %w", what, err)
	}
	defer done()
	resp, err := ask[R](ctx, a.o.Target.Client, req)
	if err != nil {
		return none, requestError(onTarget, what, err)
	}
	return resp, nil
}

// alterACLs makes and removes rules, in the order of the plan.
func (a *Access) alterACLs(ctx context.Context, v view, changes []Change, not map[dr.ACL]struct{}) error {
	var lacking error
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && n < chunk && changes[n].Action == changes[0].Action && changes[n].ACL.Permission == changes[0].ACL.Permission {
			n++
		}
		var err error
		if changes[0].Action == ActionDelete {
			err = a.deleteACLs(ctx, v, changes[:n])
		} else {
			err = a.createACLs(ctx, v, changes[:n], not)
		}
		if err != nil {
			if _, ok := errors.AsType[*lackingError](err); !ok {
				return err
			}
			lacking = err
		}
		changes = changes[n:]
	}
	return lacking
}

// createACLs makes rules with one request. not gets those that the target did not
// take; where the error is another than a *lackingError, there may be more.
func (a *Access) createACLs(ctx context.Context, v view, changes []Change, not map[dr.ACL]struct{}) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for _, c := range changes {
		req.Creations = append(req.Creations, kclient.ACLCreation(c.ACL))
	}
	resp, err := change[*kmsg.CreateACLsResponse](ctx, a, "make access rules", req)
	if err != nil {
		return err
	}
	if len(resp.Results) != len(changes) {
		return requestError(onTarget, "make access rules", fmt.Errorf("%d answers to %d rules", len(resp.Results), len(changes)))
	}
	back := make(map[string]*Entry)
	var lacking error
	for i, r := range resp.Results {
		c := changes[i]
		err := kclient.AnswerError(r.ErrorCode, r.ErrorMessage)
		if err == nil {
			a.o.Logger.LogAttrs(ctx, slog.LevelInfo, "access rule made on the target", slog.String("acl", c.ACL.String()))
			continue
		}
		not[c.ACL] = struct{}{}
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
		a.refuse(ctx, c.ACL, kclient.AnswerError(r.ErrorCode, r.ErrorMessage))
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
		req.Filters = append(req.Filters, kclient.ACLFilter(c.ACL))
	}
	resp, err := change[*kmsg.DeleteACLsResponse](ctx, a, "remove access rules", req)
	if err != nil {
		return err
	}
	removed := make(map[string]*Entry)
	var failed error
	for i, r := range resp.Results {
		if i >= len(changes) {
			break
		}
		c := changes[i]
		err := kclient.AnswerError(r.ErrorCode, r.ErrorMessage)
		for _, m := range r.MatchingACLs {
			err = errors.Join(err, kclient.AnswerError(m.ErrorCode, m.ErrorMessage))
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
	resp, err := change[*kmsg.AlterClientQuotasResponse](ctx, a, "change the client quotas", req)
	if err != nil {
		return err
	}
	answers := make(map[string]error)
	for _, e := range resp.Entries {
		var parts []part
		for _, p := range e.Entity {
			parts = append(parts, part{p.Type, p.Name})
		}
		answers[entityText(parts)] = kclient.AnswerError(e.ErrorCode, e.ErrorMessage)
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
