package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/runbook"
)

// firstRoleKey is where the first roles of a pair are kept, which serve writes. It
// is a key of its own since that write is not fenced: one that comes late must not
// take back what a move decided.
func firstRoleKey(pair string) string { return "c/role-first/" + pair }

// readRole returns the roles of a pair as one cluster has them: what a move
// decided, else the first ones, else none.
func readRole(table *kstate.Table, pair string) (dr.Role, error) {
	for _, key := range []string{dr.RoleKey(pair), firstRoleKey(pair)} {
		if b, ok := table.Get(0, key); ok && len(b) > 0 {
			return dr.DecodeRole(b)
		}
	}
	return dr.Role{}, nil
}

// keepRole sees to it that the roles of the pair are on the target, while this
// worker leads. What fails is tried again, and stops nothing else.
func (r *replicator) keepRole(ctx context.Context) error {
	if r.settings.Pair == "" {
		return nil
	}
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		err := r.firstRole(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // It was told to end.
		}
		if err == nil {
			return nil
		}
		r.log.LogAttrs(ctx, slog.LevelWarn, "roles of pair not kept, trying again", slog.String("pair", r.settings.Pair), slog.Any("error", err), slog.Duration("pause", wait))
		pause(ctx, wait)
	}
}

// firstRole writes the first roles of a pair on the target where neither cluster
// has any, or those of the source where the target has none, once.
func (r *replicator) firstRole(ctx context.Context) error {
	engine, err := r.working()
	if err != nil {
		return err
	}
	source, target := r.source.current().table, r.target.current().table
	for _, t := range []*kstate.Table{source, target} {
		if err := t.RefreshPartition(ctx, 0); err != nil {
			return fmt.Errorf("read the roles of pair %s: %w", r.settings.Pair, err)
		}
	}
	mine, err := readRole(target, r.settings.Pair)
	if err != nil || !mine.IsZero() {
		return err
	}
	role, err := readRole(source, r.settings.Pair)
	if err != nil {
		return err
	}
	if role.IsZero() {
		sourceID, targetID := engine.ClusterIDs()
		active, standby := dr.ClusterRef{ID: sourceID, Name: r.settings.Source}, dr.ClusterRef{ID: targetID, Name: r.settings.Target}
		if r.initialActive == r.settings.Target {
			active, standby = standby, active
		}
		role = dr.FirstRole(r.settings.Pair, active, standby, r.options.WorkerID, r.now())
	}
	store := runbook.NewKafkaStore(runbook.KafkaOptions{
		Pair: r.settings.Pair, Table: target, Layout: r.options.Layout,
		Dial: func(opts ...kgo.Opt) (*kgo.Client, error) { return kclient.New(r.options.Target.Cluster, opts...) },
	})
	defer store.Close()
	if err := store.Put(ctx, runbook.Record{Key: firstRoleKey(r.settings.Pair), Value: role.Encode()}); err != nil {
		return fmt.Errorf("write the first roles of pair %s: %w", r.settings.Pair, err)
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "roles of pair written", slog.String("pair", r.settings.Pair), slog.String("active", role.Names[role.Active]), slog.Int64("epoch", role.Epoch))
	return nil
}

// decidesSettings reports whether the topics of the target take the settings of
// the source now. In a pair they do while the source is active.
func (r *replicator) decidesSettings() dr.TopicSettings {
	if r.settings.Pair == "" || r.settings.TopicSettings == dr.SettingsOwn {
		return r.settings.TopicSettings
	}
	var role dr.Role
	for _, t := range []*tables{r.source, r.target} {
		// A copy that can't be read does not count: the other one does.
		if own, err := readRole(t.current().table, r.settings.Pair); err == nil && own.Supersedes(role) {
			role = own
		}
	}
	active := r.initialActive == r.settings.Source
	if engine, err := r.working(); err == nil && !role.IsZero() {
		source, _ := engine.ClusterIDs()
		active = role.Active == source
	}
	if active {
		return dr.SettingsFollow
	}
	return dr.SettingsOwn
}

// whileSettled calls run with a context that ends when decidesSettings would say
// something else, again and again until ctx ends or run fails.
func (r *replicator) whileSettled(ctx context.Context, run func(context.Context) error) error {
	if r.settings.Pair == "" {
		return run(ctx)
	}
	for ctx.Err() == nil {
		settled, end := context.WithCancel(ctx)
		now := r.decidesSettings()
		var wg sync.WaitGroup
		wg.Go(func() {
			defer end()
			for tick(settled, rolePause) && r.decidesSettings() == now {
				continue
			}
		})
		err := run(settled)
		changed := settled.Err() != nil
		end()
		wg.Wait()
		if err != nil && !changed {
			return err
		}
		if !changed {
			return nil
		}
	}
	return nil
}

// rolePause is how often it is looked whether the roles changed.
const rolePause = 500 * time.Millisecond

// tick waits for d and reports whether ctx still holds then.
func tick(ctx context.Context, d time.Duration) bool {
	pause(ctx, d)
	return ctx.Err() == nil
}

// journal returns the journal of a pair on the clusters that answered.
func (p *Pairs) journal(name string, sides [2]*pairSide) *runbook.Journal {
	o := runbook.JournalOptions{Pair: name, Logger: p.o.Logger, Wait: p.o.Patience}
	for i, s := range sides {
		o.Sides[i].Cluster = dr.ClusterRef{ID: s.id, Name: s.name}
		if s.store != nil {
			o.Sides[i].Store = s.store
		}
	}
	return runbook.NewJournal(o)
}
