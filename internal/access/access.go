package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

const minRetry = time.Second // first pause after a failed round, doubled up to the interval

// Access keeps the access rules and quotas of a target like those of a source.
type Access struct {
	o             Options
	failures      atomic.Uint64
	refusedACLs   refusals[dr.ACL]
	refusedQuotas refusals[QuotaKey]

	mu struct {
		sync.Mutex
		ids    map[side]string // cluster ids, pinned by the first answers
		status dr.AccessStatus
		told   bool // status was published
	}
}

// New checks the options. It does no I/O and starts nothing.
func New(o Options) (*Access, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("check options of access rules: %w", err)
	}
	a := &Access{o: o}
	a.mu.ids = map[side]string{onSource: o.Source.ID, onTarget: o.Target.ID}
	a.mu.status = dr.AccessStatus{ACLs: a.first(o.ACLs), Quotas: a.first(o.Quotas)}
	return a, nil
}

func (a *Access) first(c Choice) dr.AccessPart {
	if c == Leave {
		return dr.AccessPart{State: dr.AccessOff}
	}
	return dr.AccessPart{State: dr.AccessStarting}
}

// Run looks at both clusters again and again and does what the plan says, until
// ctx is cancelled; then it returns nil. Failures are retried with growing pauses
// and shown by Status.
func (a *Access) Run(ctx context.Context) error {
	if a.o.ACLs == Leave && a.o.Quotas == Leave {
		a.publish(ctx, a.Status())
		<-ctx.Done()
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := min(minRetry, a.o.Interval)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		status := a.Round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if status.ACLs.State == dr.AccessFailed || status.Quotas.State == dr.AccessFailed {
			timer.Reset(retry)
			retry = min(2*retry, a.o.Interval)
			continue
		}
		retry = min(minRetry, a.o.Interval)
		timer.Reset(a.o.Interval)
	}
}

// Round looks, plans and applies once, and returns what Status returns
// afterwards. It is for one caller at a time.
func (a *Access) Round(ctx context.Context) dr.AccessStatus {
	var st dr.AccessStatus
	var errs [2]error
	st.ACLs, st.Quotas = a.first(a.o.ACLs), a.first(a.o.Quotas)
	if a.o.ACLs == Carry {
		var entries []dr.ACLEntry
		entries, errs[0] = a.roundACLs(ctx)
		for _, e := range entries {
			if e.State == dr.ACLStaged {
				st.Staged++
			}
			if e.State.Drifts() {
				st.Drift++
			}
		}
		st.ACLs = partOf(errs[0])
	}
	if a.o.Quotas == Carry {
		var entries []dr.QuotaEntry
		entries, errs[1] = a.roundQuotas(ctx)
		for _, e := range entries {
			if e.State.Drifts() {
				st.Drift++
			}
		}
		st.Quotas = partOf(errs[1])
	}
	if ctx.Err() != nil {
		return a.Status()
	}
	for _, err := range errs {
		if state := partOf(err).State; err != nil && state != dr.AccessNoAuthorizer && state != dr.AccessPaused {
			a.failures.Add(1)
		}
	}
	return a.publish(ctx, st)
}

func (a *Access) roundACLs(ctx context.Context) ([]dr.ACLEntry, error) {
	v, err := a.readACLs(ctx)
	if err != nil {
		return nil, err
	}
	changes, entries := plan(v)
	if v.paused != "" {
		return entries, pausedError(v.paused)
	}
	if changes, err = a.confirmed(ctx, v, changes); err != nil {
		return entries, err
	}
	return entries, a.apply(ctx, v, changes)
}

func (a *Access) roundQuotas(ctx context.Context) ([]dr.QuotaEntry, error) {
	v, err := a.readQuotas(ctx)
	if err != nil {
		return nil, err
	}
	changes, entries := planQuotas(v)
	if v.paused != "" {
		return entries, pausedError(v.paused)
	}
	return entries, a.applyQuotas(ctx, v, changes)
}

// partOf returns the state that an error stands for.
func partOf(err error) dr.AccessPart {
	if err == nil {
		return dr.AccessPart{State: dr.AccessRunning}
	}
	if lacking, ok := errors.AsType[*lackingError](err); ok {
		return lacking.part
	}
	return dr.AccessPart{State: dr.AccessFailed, Reason: err.Error()}
}

// publish keeps what a round found, and tells what changed.
func (a *Access) publish(ctx context.Context, st dr.AccessStatus) dr.AccessStatus {
	a.mu.Lock()
	before := a.mu.status
	if a.mu.told && same(before, st) {
		a.mu.Unlock()
		return before
	}
	st.ChangedAt = a.o.Now()
	a.mu.status, a.mu.told = st, true
	a.mu.Unlock()
	for _, part := range []struct {
		what string
		was  dr.AccessPart
		is   dr.AccessPart
	}{{"access rules", before.ACLs, st.ACLs}, {"client quotas", before.Quotas, st.Quotas}} {
		if part.was.State == part.is.State && part.was.Reason == part.is.Reason {
			continue
		}
		level := slog.LevelInfo
		if part.is.State == dr.AccessFailed || part.is.State == dr.AccessUnauthorized {
			level = slog.LevelWarn
		}
		a.o.Logger.LogAttrs(ctx, level, part.what+" changed state", slog.String("state", string(part.is.State)),
			slog.String("reason", part.is.Reason), slog.Any("grants", part.is.Grants))
	}
	if a.o.Changed != nil {
		if err := a.o.Changed(ctx, st); err != nil && ctx.Err() == nil {
			a.o.Logger.LogAttrs(ctx, slog.LevelWarn, "the state of the access rules cannot be told", slog.Any("error", err))
		}
	}
	return st
}

func same(a, b dr.AccessStatus) bool {
	part := func(a, b dr.AccessPart) bool {
		return a.State == b.State && a.Reason == b.Reason && slices.Equal(a.Grants, b.Grants)
	}
	return part(a.ACLs, b.ACLs) && part(a.Quotas, b.Quotas) && a.Staged == b.Staged && a.Drift == b.Drift
}

// Status returns what the last round of Run found.
func (a *Access) Status() dr.AccessStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.status
}

// Failures returns how often something could not be read or made.
func (a *Access) Failures() uint64 { return a.failures.Load() }

// Diff compares both clusters anew and changes nothing. What cannot be read is a
// part's state, and then the rules are those that were staged before; the error is
// one of ctx only.
func (a *Access) Diff(ctx context.Context) (dr.AccessDiff, error) {
	d := dr.AccessDiff{Replicator: a.o.Replicator, ACLs: a.first(a.o.ACLs), Quotas: a.first(a.o.Quotas)}
	var wg sync.WaitGroup // a cluster that is gone is waited for once
	if a.o.ACLs == Carry {
		wg.Go(func() { a.diffACLs(ctx, &d) })
	}
	if a.o.Quotas == Carry {
		wg.Go(func() {
			v, err := a.readQuotas(ctx)
			if d.Quotas = partOf(err); err == nil {
				_, d.Limits = planQuotas(v)
			}
		})
	}
	wg.Go(func() {
		var err error
		d.Scram, err = a.scram(ctx)
		d.Credentials = partOf(err)
	})
	wg.Wait()
	return d, ctx.Err()
}

// diffACLs fills what the diff says of rules.
func (a *Access) diffACLs(ctx context.Context, d *dr.AccessDiff) {
	v, err := a.readACLs(ctx)
	if d.ACLs = partOf(err); err == nil {
		_, d.Rules = plan(v)
	} else if d.Rules, err = a.stagedBefore(); err != nil {
		d.ACLs.Reason += "; " + err.Error()
	}
	for i, e := range d.Rules {
		if e.State == dr.ACLStaged || (e.State == dr.ACLHeld && e.ACL.Permission == deny) {
			d.Rules[i].Command = ruleCommand(a.o.Target.Reach, e.ACL)
		}
	}
}

// stagedBefore returns what was staged when the source could be read last: it is
// wanted most when the source is lost.
func (a *Access) stagedBefore() ([]dr.ACLEntry, error) {
	all, err := a.o.Ledger.Target()
	if err != nil {
		return nil, fmt.Errorf("read what is staged: %w", err)
	}
	var mine []Entry
	for _, m := range all {
		if m.Replicator == a.o.Replicator {
			mine = append(mine, m.Entry)
		}
	}
	var out []dr.ACLEntry
	for _, rule := range Staged(mine) {
		out = append(out, dr.ACLEntry{ACL: rule, State: dr.ACLStaged, Reason: "it was staged before", OnSource: true})
	}
	return out, nil
}

// scram returns the users whose SCRAM credentials the target lacks.
func (a *Access) scram(ctx context.Context) ([]dr.ScramUser, error) {
	var users [2]map[string][]string
	for i, side := range []side{onSource, onTarget} {
		const what = "list the SCRAM credentials"
		err := a.allowed(ctx, side, what, opDescribe)
		if err == nil {
			users[i], err = listScram(ctx, a.cluster(side).Client)
		}
		if err != nil {
			return nil, a.lacking(side, what, []string{opDescribe}, err)
		}
	}
	source, target := users[0], users[1]
	own := a.o.scope().principals
	out := []dr.ScramUser{}
	for _, user := range slices.Sorted(maps.Keys(source)) {
		missing := slices.DeleteFunc(slices.Clone(source[user]), func(m string) bool { return slices.Contains(target[user], m) })
		if len(missing) == 0 || slices.Contains(own, "User:"+user) {
			continue
		}
		out = append(out, dr.ScramUser{User: user, Mechanisms: missing, Hint: scramCommand(a.o.Target.Reach, user, missing)})
	}
	return out, nil
}

// refusals remembers what the target said no to. Its zero value is empty.
type refusals[K comparable] struct {
	mu struct {
		sync.Mutex
		list map[K]refusal
	}
}

type refusal struct {
	reason string
	until  time.Time
}

func (r *refusals[K]) note(k K, reason string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.list == nil {
		r.mu.list = make(map[K]refusal)
	}
	r.mu.list[k] = refusal{reason, until}
}

// recent returns the refusals that still hold.
func (r *refusals[K]) recent(now time.Time) map[K]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[K]string, len(r.mu.list))
	for k, x := range r.mu.list {
		if now.Before(x.until) {
			out[k] = x.reason
			continue
		}
		delete(r.mu.list, k)
	}
	return out
}
