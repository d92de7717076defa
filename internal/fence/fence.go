package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

// Fence closes topics of one cluster.
type Fence struct{ o Options }

// New checks the options. It does no I/O and starts nothing.
func New(o Options) (*Fence, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("check options of the fence: %w", err)
	}
	f := &Fence{o}
	if f.o.MayWrite == nil {
		f.o.MayWrite = f.ownMayWrite
	}
	return f, nil
}

// Plan reads the rules from every live broker and returns what Apply would do. It
// changes nothing. Where a fence stands already, it returns what is lacking; such
// plans are undone in reverse order. The error wraps ErrNoAuthorizer where no rule
// binds anybody.
func (f *Fence) Plan(ctx context.Context) (Plan, error) {
	brokers, err := f.brokers(ctx)
	if err != nil {
		return Plan{}, err
	}
	topics, err := f.topics(ctx)
	if err != nil {
		return Plan{}, err
	}
	if f.o.Method != MethodACL {
		return f.signed(Plan{V: planVersion, Kind: KindTopics, Names: f.paired(topics)}), nil
	}
	rules, err := f.allRules(ctx, brokers)
	if err != nil {
		return Plan{}, err
	}
	s, err := f.settings(ctx, brokers)
	if err != nil {
		return Plan{}, err
	}
	w := world{rules: rules, topics: topics, pair: f.o.Topics.Match, own: f.o.Principals, supers: s.supers, byName: s.everybody, cluster: f.o.Reach.Name}
	if s.everybody == OpenOrShut {
		if w.byName, err = f.tryDefault(ctx, firstBare(rules, f.paired(topics))); err != nil {
			f.o.Logger.LogAttrs(ctx, slog.LevelWarn, "the canary cannot say what topics without rules are open to", slog.String("cluster", f.o.Reach.Name), slog.Any("error", err))
			w.byName = OpenOrShut
		}
	}
	p := planTopics(w)
	if !s.told {
		p.Findings = append(p.Findings, dr.Finding{
			Code: "fence_super_users", Severity: dr.SeverityInfo, Subject: "cluster " + f.o.Reach.Name,
			Message: "it has super users, which no rule keeps from writing, and its brokers do not say who they are", Fix: "see that no client writes as a super user",
		})
	}
	return f.signed(p), nil
}

// firstBare returns a topic that no rule is about, "" for none.
func firstBare(rules aclSet, topics []string) string {
	x := indexOf(rules)
	i := slices.IndexFunc(topics, func(t string) bool { return len(x.at(t)) == 0 })
	if i < 0 {
		return ""
	}
	return topics[i]
}

func (f *Fence) signed(p Plan) Plan {
	p.ClusterID, p.Method, p.At = f.o.ClusterID, f.o.Method, f.o.Now()
	return p
}

// mine refuses a plan of another cluster.
func (f *Fence) mine(p Plan) error {
	switch {
	case p.V != planVersion:
		return fmt.Errorf("read the plan of a fence: version %d is not known here", p.V)
	case p.ClusterID != f.o.ClusterID:
		return fmt.Errorf("read the plan of a fence: it is for cluster %s, not for %s", p.ClusterID, f.o.ClusterID)
	}
	return nil
}

// Apply does what a plan says. It may be called again after any failure or kill
// and goes on from there. When it returns an error because the replicators could
// not write any more, it gave everything back before.
//
// The order: brokers take rules over in the order in which the controller wrote
// them, so none of them is ever without what was kept when it learns what was
// removed. The replicators' right is tried when the denials are there, the only
// rules that could take it, and before any client loses anything for good.
func (f *Fence) Apply(ctx context.Context, p Plan) error {
	if err := f.mine(p); err != nil {
		return err
	}
	switch p.Method {
	case MethodACL:
	case MethodHook:
		return f.hook(ctx, HookClose, p)
	default:
		return nil // somebody gives his word
	}
	brokers, err := f.brokers(ctx)
	if err != nil {
		return err
	}
	if p.Empty() {
		return nil
	}
	if err := f.step("record the rules of the fence", func() error { return f.o.Record(ctx, p.note()) }); err != nil {
		return err
	}
	if err := f.close(ctx, brokers, p); err != nil {
		return err
	}
	f.o.Logger.LogAttrs(ctx, slog.LevelInfo, "clients' right to write taken away", slog.String("cluster", f.o.Reach.Name), slog.String("kind", string(p.Kind)),
		slog.Int("names", len(p.Names)), slog.Int("removed", len(p.Removed)), slog.Int("denied", len(p.Denied)), slog.Int("kept", len(p.Kept)))
	return nil
}

func (f *Fence) close(ctx context.Context, brokers []int32, p Plan) error {
	have, err := kclient.ACLs(ctx, f.o.Client)
	if err != nil {
		return f.surface("read the access rules", err)
	}
	// A bridge opens its topic to everybody, so it is built only while the other
	// rules of the topic are not complete.
	if len(aclSet(have).missing(p.Kept)) > 0 {
		if err := f.create(ctx, p.Bridges); err != nil {
			return err
		}
	}
	if err := f.create(ctx, p.Kept); err != nil {
		return err
	}
	if err := f.create(ctx, p.Denied); err != nil {
		return err
	}
	if err := f.mayWrite(ctx, brokers, p, aclSet{}.with(p.made(), nil)); err != nil {
		return err
	}
	if err := f.remove(ctx, p.Removed); err != nil {
		return err
	}
	if err := f.remove(ctx, p.Bridges); err != nil {
		return err
	}
	return f.mayWrite(ctx, brokers, p, aclSet{}.with(p.made(), nil), slices.Concat(p.Removed, p.Bridges)...)
}

// settle bounds how long brokers may take to show rules before the replicators'
// right is tried. One that takes longer keeps the proof open later.
const settle = 5 * time.Second

// mayWrite tries the replicators' right once the brokers show what was changed,
// and gives everything back when it is gone.
func (f *Fence) mayWrite(ctx context.Context, brokers []int32, p Plan, made aclSet, removed ...dr.ACL) error {
	deadline := f.o.Now().Add(settle)
	for _, b := range brokers {
		for f.o.Now().Before(deadline) {
			have, err := kclient.ACLs(ctx, f.o.Client.Broker(int(b)))
			if err != nil || (len(aclSet(have).missing(made.sorted())) == 0 && len(aclSet(have).present(removed)) == 0) {
				break
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	}
	err := f.step("try whether the replicators may write", func() error { return f.o.MayWrite(ctx) })
	if err == nil || ctx.Err() != nil {
		return err
	}
	err = &dr.Error{
		Code: dr.CodeRefused, Hint: "allow the replicators' principals to write by rules of their own; the fence was taken back",
		Err: fmt.Errorf("try whether the replicators may still write to cluster %s: %w", f.o.Reach.Name, err),
	}
	return errors.Join(err, f.Undo(ctx, p))
}

// Undo gives back what a plan took and removes what it made, and nothing else. It
// needs nothing but the plan, and may be called again after any failure or kill,
// also when the plan was carried out in part or not at all.
func (f *Fence) Undo(ctx context.Context, p Plan) error { return f.UndoExcept(ctx, p, nil) }

// UndoExcept is Undo without giving some rules back: those that were revoked while
// the fence stood, see access.Revoked.
func (f *Fence) UndoExcept(ctx context.Context, p Plan, revoked []dr.ACL) error {
	if err := f.mine(p); err != nil {
		return err
	}
	switch p.Method {
	case MethodACL:
	case MethodHook:
		return f.hook(ctx, HookOpen, p)
	default:
		return nil // somebody gives his word
	}
	if _, err := f.brokers(ctx); err != nil {
		return err
	}
	if p.Empty() {
		return nil
	}
	have, err := kclient.ACLs(ctx, f.o.Client)
	if err != nil {
		return f.surface("read the access rules", err)
	}
	if err := f.create(ctx, slices.DeleteFunc(slices.Clone(p.Removed), func(a dr.ACL) bool { return slices.Contains(revoked, a) })); err != nil {
		return err
	}
	if err := f.remove(ctx, p.Denied); err != nil {
		return err
	}
	if len(aclSet(have).present(p.Kept)) > 0 {
		if err := f.create(ctx, p.Bridges); err != nil {
			return err
		}
	}
	if err := f.remove(ctx, p.Kept); err != nil {
		return err
	}
	if err := f.remove(ctx, p.Bridges); err != nil {
		return err
	}
	if err := f.step("record that the fence is gone", func() error { return f.o.Record(ctx, Note{ID: p.id(), ClusterID: p.ClusterID}) }); err != nil {
		return err
	}
	f.o.Logger.LogAttrs(ctx, slog.LevelInfo, "clients' right to write given back", slog.String("cluster", f.o.Reach.Name), slog.String("kind", string(p.Kind)), slog.Int("names", len(p.Names)))
	return nil
}

func (f *Fence) hook(ctx context.Context, action HookAction, p Plan) error {
	call := HookCall{Action: action, Cluster: f.o.Reach.Name, ClusterID: p.ClusterID, Topics: p.Names}
	if f.o.Hook == nil {
		return &dr.Error{Code: dr.CodeConfig, Hint: "configure the pair's fence hook again", Err: fmt.Errorf("%s cluster %s: the plan needs a hook", action, f.o.Reach.Name)}
	}
	if err := f.step("run the fence hook", func() error { return f.o.Hook(ctx, call) }); err != nil {
		return &dr.Error{Code: dr.CodeRefused, Hint: "see what the hook says", Err: fmt.Errorf("%s cluster %s by the hook: %w", action, f.o.Reach.Name, err)}
	}
	return nil
}

// step does something that changes the world.
func (f *Fence) step(what string, fn func() error) error {
	if err := f.o.fault(what); err != nil {
		return err
	}
	return fn()
}

func (f *Fence) create(ctx context.Context, list []dr.ACL) error {
	return f.change("make rules", list, func(part []dr.ACL) error { return kclient.CreateACLs(ctx, f.o.Client, part) })
}

func (f *Fence) remove(ctx context.Context, list []dr.ACL) error {
	return f.change("remove rules", list, func(part []dr.ACL) error { return kclient.DeleteACLs(ctx, f.o.Client, part) })
}

func (f *Fence) change(what string, list []dr.ACL, fn func([]dr.ACL) error) error {
	if len(list) == 0 {
		return nil
	}
	return f.surface(what, f.step(what, func() error { return fn(list) }))
}

// pause waits, or returns why it may not.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// PlanTransactions returns what closes the transactional ids under which clients
// wrote to the topics lately, and those of the open transactions. It is planned
// once the topics are closed and no transaction is open, as a second plan: then
// nobody can end a transaction that the first one did not see. It changes nothing.
func (f *Fence) PlanTransactions(ctx context.Context) (Plan, error) {
	if f.o.Method != MethodACL {
		return f.signed(Plan{V: planVersion, Kind: KindTransactions}), nil
	}
	brokers, err := f.brokers(ctx)
	if err != nil {
		return Plan{}, err
	}
	rules, err := f.allRules(ctx, brokers)
	if err != nil {
		return Plan{}, err
	}
	ids, err := f.transactionalIDs(ctx, brokers)
	if err != nil {
		return Plan{}, err
	}
	return f.signed(planTransactions(rules, slices.Collect(maps.Keys(ids)))), nil
}
