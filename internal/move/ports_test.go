package move_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
)

func fine(name string, ok bool) dr.Evidence {
	return dr.Evidence{Name: name, Value: "seen", Threshold: "yes", Passed: ok}
}

func (p *process) Preflight(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, []dr.Finding, error) {
	leave, err := p.enter(ctx, "", p.w.of(from), p.w.of(to))
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	return []dr.Evidence{fine("answers", true)}, nil, nil
}

func (p *process) Probe(ctx context.Context, c dr.ClusterRef) ([]dr.Evidence, error) {
	leave, err := p.enter(ctx, "")
	if err != nil {
		return nil, err
	}
	defer leave()
	return []dr.Evidence{fine("connect", p.w.of(c).up)}, nil
}

func (p *process) Returned(ctx context.Context, c dr.ClusterRef, _ bool) ([]dr.Evidence, error) {
	leave, err := p.enter(ctx, "", p.w.of(c))
	if err != nil {
		return nil, err
	}
	defer leave()
	return []dr.Evidence{fine("identity", true)}, nil
}

type fenceOf struct{ p *process }

func (f fenceOf) Plan(ctx context.Context, ref dr.ClusterRef, kind move.FenceKind, _ move.FenceMethod) (move.FencePlan, error) {
	c := f.p.w.of(ref)
	leave, err := f.p.enter(ctx, "", c)
	if err != nil {
		return move.FencePlan{}, err
	}
	defer leave()
	rules := []string{}
	for r := range c.rules {
		if strings.HasPrefix(r, string(kind)) {
			rules = append(rules, r)
		}
	}
	slices.Sort(rules)
	b, err := json.Marshal(rules)
	return move.FencePlan{Data: b}, err
}

func (f fenceOf) each(ctx context.Context, what string, ref dr.ClusterRef, plan json.RawMessage, fn func(c *cluster, rule string)) error {
	c := f.p.w.of(ref)
	leave, err := f.p.enter(ctx, what, c)
	if err != nil {
		return err
	}
	defer leave()
	var rules []string
	if err := json.Unmarshal(plan, &rules); err != nil {
		return err
	}
	for _, r := range rules {
		fn(c, r)
	}
	return nil
}

func (f fenceOf) Apply(ctx context.Context, ref dr.ClusterRef, plan json.RawMessage) error {
	return f.each(ctx, "apply", ref, plan, func(c *cluster, r string) {
		if c.rules[r] {
			delete(c.rules, r)
			c.fenced[r] = true
		}
	})
}

func (f fenceOf) Undo(ctx context.Context, ref dr.ClusterRef, plan json.RawMessage) error {
	return f.each(ctx, "undo", ref, plan, func(c *cluster, r string) { c.rules[r] = true; delete(c.fenced, r) })
}

func natives(c *cluster) int {
	n := 0
	for _, native := range c.native {
		if native {
			n++
		}
	}
	return n
}

func (f fenceOf) Prove(ctx context.Context, ref dr.ClusterRef, _ []json.RawMessage) (move.Proof, error) {
	look := func() (int, bool, error) {
		c := f.p.w.of(ref)
		leave, err := f.p.enter(ctx, "", c)
		if err != nil {
			return 0, false, err
		}
		defer leave()
		return natives(c), !c.writable() && c.open == 0, nil
	}
	first, closed, err := look()
	if err != nil {
		return move.Proof{}, err
	}
	time.Sleep(time.Second)
	second, _, err := look()
	b, merr := json.Marshal(second)
	var leaks []dr.Evidence
	shown := time.Time{}
	if closed {
		shown = time.Now().Add(-time.Second)
	}
	if second > first {
		leaks = append(leaks, dr.Evidence{Name: "native_end", Subject: "t-0", Value: fmt.Sprintf("%d records", second-first)})
	}
	return move.Proof{Data: b, ShownAt: shown, Leaks: leaks, Evidence: []dr.Evidence{fine("rules", closed), fine("native_ends", first == second), {Name: "canary", Why: "no credentials"}}}, errors.Join(err, merr)
}

func (f fenceOf) Leaks(ctx context.Context, ref dr.ClusterRef, proof json.RawMessage) ([]dr.Evidence, error) {
	c := f.p.w.of(ref)
	leave, err := f.p.enter(ctx, "", c)
	if err != nil {
		return nil, err
	}
	defer leave()
	var at int
	if err := json.Unmarshal(proof, &at); err != nil {
		return nil, err
	}
	if natives(c) > at {
		return []dr.Evidence{{Name: "leak", Subject: "topic t partition 0", Value: "was written"}}, nil
	}
	return nil, nil
}

type txnOf struct{ p *process }

func (x txnOf) Open(ctx context.Context, ref dr.ClusterRef) ([]move.OpenTransaction, error) {
	c := x.p.w.of(ref)
	leave, err := x.p.enter(ctx, "", c)
	if err != nil {
		return nil, err
	}
	defer leave()
	return slices.Repeat([]move.OpenTransaction{{Evidence: dr.Evidence{Name: "transaction", Subject: "t1", Value: "open"}, Began: c.began}}, c.open), nil
}

func (x txnOf) Abort(ctx context.Context, ref dr.ClusterRef) error {
	c := x.p.w.of(ref)
	leave, err := x.p.enter(ctx, "abort", c)
	if err != nil {
		return err
	}
	defer leave()
	c.open = 0
	return nil
}

type accessOf struct{ p *process }

func (a accessOf) Hold(ctx context.Context, run string) error {
	leave, err := a.p.enter(ctx, "hold")
	if err != nil {
		return err
	}
	defer leave()
	a.p.w.holds[run] = true
	return nil
}

func (a accessOf) Release(ctx context.Context, _ string) error {
	leave, err := a.p.enter(ctx, "release")
	if err != nil {
		return err
	}
	defer leave()
	clear(a.p.w.holds)
	return nil
}

func (a accessOf) Open(ctx context.Context, ref dr.ClusterRef) ([]dr.Finding, error) {
	c := a.p.w.of(ref)
	leave, err := a.p.enter(ctx, "open", c)
	if err != nil {
		return nil, err
	}
	defer leave()
	for _, from := range []map[string]bool{c.staged, c.fenced} {
		for r := range from {
			c.rules[r] = true
		}
		clear(from)
	}
	return nil, nil
}

type replOf struct{ p *process }

func (r replOf) Lag(ctx context.Context, from, to dr.ClusterRef) (move.Lag, error) {
	leave, err := r.p.enter(ctx, "", r.p.w.of(from), r.p.w.of(to))
	if err != nil {
		return move.Lag{}, err
	}
	defer leave()
	return move.Lag{Records: r.p.w.lag(r.p.w.dir(from, to))}, nil
}

func (r replOf) AtRisk(ctx context.Context, from, to dr.ClusterRef) (dr.RiskReport, error) {
	leave, err := r.p.enter(ctx, "", r.p.w.of(to))
	if err != nil {
		return dr.RiskReport{}, err
	}
	defer leave()
	return dr.RiskReport{Records: r.p.w.lag(r.p.w.dir(from, to))}, nil
}

func (r replOf) Seal(ctx context.Context, from, to dr.ClusterRef, _ string, epoch int64) (move.Sealed, error) {
	leave, err := r.p.enter(ctx, "seal", r.p.w.of(to))
	if err != nil {
		return move.Sealed{}, err
	}
	defer leave()
	if d := r.p.w.dir(from, to); epoch >= d.epoch { // at one epoch the stop counts
		d.epoch, d.stopped = epoch, true
	}
	return move.Sealed{Whole: true, Risk: dr.RiskReport{Records: r.p.w.lag(r.p.w.dir(from, to))}}, nil
}

func (r replOf) Release(ctx context.Context, from, to dr.ClusterRef, _ string, epoch int64) error {
	leave, err := r.p.enter(ctx, "release replicator", r.p.w.of(to))
	if err != nil {
		return err
	}
	defer leave()
	r.release(from, to, epoch)
	return nil
}

func (r replOf) release(from, to dr.ClusterRef, epoch int64) {
	if d := r.p.w.dir(from, to); epoch > d.epoch {
		d.epoch, d.stopped = epoch, false
	}
}

func (r replOf) Running(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, error) {
	leave, err := r.p.enter(ctx, "", r.p.w.of(from), r.p.w.of(to))
	if err != nil {
		return nil, err
	}
	defer leave()
	d := r.p.w.dir(from, to)
	return []dr.Evidence{fine("running", !d.stopped && !r.p.w.held(d))}, nil
}

type groupsOf struct{ p *process }

func (g groupsOf) Drained(ctx context.Context, ref dr.ClusterRef) (int64, []dr.Evidence, error) {
	c := g.p.w.of(ref)
	leave, err := g.p.enter(ctx, "", c)
	if err != nil {
		return 0, nil, err
	}
	defer leave()
	return int64(len(c.log) - c.group), nil, nil
}

func (g groupsOf) Final(ctx context.Context, from, to dr.ClusterRef) (json.RawMessage, []dr.Evidence, error) {
	src, tgt := g.p.w.of(from), g.p.w.of(to)
	leave, err := g.p.enter(ctx, "final", src, tgt)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	tgt.group = unread(tgt, g.p.w.read)
	b, err := json.Marshal(src.group)
	if w := g.p.w; w.commitAfter > 0 {
		w.commitAfter--
		w.consume()
	}
	return b, nil, err
}

func (g groupsOf) Last(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, error) {
	src, tgt := g.p.w.of(from), g.p.w.of(to)
	leave, err := g.p.enter(ctx, "final", tgt)
	if err != nil {
		return nil, err
	}
	defer leave()
	if src.up {
		tgt.group = unread(tgt, g.p.w.read)
		return nil, nil
	}
	tgt.group = unread(tgt, tgt.memory)
	return []dr.Evidence{fine("groups_source", false)}, nil
}

func (g groupsOf) Same(ctx context.Context, ref dr.ClusterRef, seen json.RawMessage) (bool, error) {
	c := g.p.w.of(ref)
	leave, err := g.p.enter(ctx, "", c)
	if err != nil {
		return false, err
	}
	defer leave()
	var at int
	err = json.Unmarshal(seen, &at)
	return at == c.group, err
}

func (g groupsOf) Behind(ctx context.Context, returned, active dr.ClusterRef) ([]dr.Evidence, error) {
	leave, err := g.p.enter(ctx, "behind", g.p.w.of(returned), g.p.w.of(active))
	if err != nil {
		return nil, err
	}
	defer leave()
	return nil, nil
}

type verifyOf struct{ p *process }

func (v verifyOf) Tail(ctx context.Context, from, to dr.ClusterRef, _ int) ([]dr.Evidence, error) {
	src, tgt := v.p.w.of(from), v.p.w.of(to)
	leave, err := v.p.enter(ctx, "", src, tgt)
	if err != nil {
		return nil, err
	}
	defer leave()
	var copied, wanted []int
	there, back := v.p.w.dir(from, to), v.p.w.dir(to, from)
	for i, id := range src.log {
		if there.copies(i) && !v.p.w.tail[id] {
			wanted = append(wanted, id)
		}
	}
	for i, id := range tgt.log {
		if !tgt.native[i] && i >= back.below {
			copied = append(copied, id)
		}
	}
	return []dr.Evidence{fine("equal", slices.Equal(copied, wanted))}, nil
}

type ledgerOf struct{ p *process }

func (l ledgerOf) Make(ctx context.Context, returned, active dr.ClusterRef, run string) (dr.TailReport, error) {
	changes := "ledger"
	if run == "" { // a dry run
		changes = ""
	}
	leave, err := l.p.enter(ctx, changes, l.p.w.of(returned), l.p.w.of(active))
	if err != nil {
		return dr.TailReport{}, err
	}
	defer leave()
	return dr.TailReport{Records: l.p.w.lag(l.p.w.dir(returned, active))}, nil
}

func (l ledgerOf) Settle(ctx context.Context, returned, active dr.ClusterRef, _ string, policy dr.TailPolicy, epoch int64) error {
	w := l.p.w
	leave, err := l.p.enter(ctx, "settle", w.of(returned), w.of(active))
	if err != nil {
		return err
	}
	defer leave()
	d := w.dir(returned, active)
	if policy != dr.TailAppend && d.stopped && epoch > d.epoch {
		for ; d.position < len(d.from.log); d.position++ {
			if d.from.native[d.position] {
				w.tail[d.from.log[d.position]] = true
			}
		}
	}
	replOf(l).release(returned, active, epoch)
	return nil
}

func (l ledgerOf) Seed(ctx context.Context, rebuilt, active dr.ClusterRef, _, _ string, epoch int64) error {
	w := l.p.w
	leave, err := l.p.enter(ctx, "seed", w.of(rebuilt), w.of(active))
	if err != nil {
		return err
	}
	defer leave()
	replOf(l).release(rebuilt, active, epoch)
	replOf(l).release(active, rebuilt, epoch)
	return nil
}

type hooksOf struct{ p *process }

func (h hooksOf) Call(ctx context.Context, hook move.HookName, run dr.Run) (string, error) {
	w := h.p.w
	if hook == move.OnFence && w.slowHook > 0 {
		time.Sleep(w.slowHook)
	}
	leave, err := h.p.enter(ctx, "hook")
	if err != nil {
		return "", err
	}
	defer leave()
	w.hooks = append(w.hooks, string(hook))
	if hook == move.OnSwitch { // consumers are sent over
		w.reader = w.of(run.To)
	}
	return "", nil
}

type drillOf struct{ p *process }

func (d drillOf) Canary(ctx context.Context, from, to dr.ClusterRef) (dr.DrillReport, []dr.Evidence, error) {
	leave, err := d.p.enter(ctx, "canary", d.p.w.of(from), d.p.w.of(to))
	if err != nil {
		return dr.DrillReport{}, nil, err
	}
	defer leave()
	told := fine("canary_writer", false)
	told.Threshold = "" // without credentials of a client: told, and the drill goes on
	return dr.DrillReport{Topic: "canary", RecordSeconds: 0.5, GroupSeconds: 1.5}, []dr.Evidence{fine("canary", true), told}, nil
}
