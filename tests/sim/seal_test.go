package sim

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/replicate"
)

// sealsKilled is how often a run that seals is killed before one comes to its end.
const sealsKilled = 4

// seal takes a replicator over from its target alone, and releases it. Nothing
// may arrive between. Whether the positions are right is seen at the end.
func (r *run) seal(f Fault) {
	to := r.clusters[r.s.Replicators[f.Replicator].To]
	ep := replicate.Endpoint{Name: to.name, Cluster: kclient.Options{Name: to.name, BootstrapServers: to.BootstrapServers(), Dialer: to.dial}}
	table := kstate.NewTable(kstate.TableOptions{Dial: ep.Dial})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- table.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			r.failf("state table of the run: %v", err)
		}
	}()
	o := replicate.SealOptions{Name: r.s.Name + "-" + r.s.Replicators[f.Replicator].name(), Target: ep, TargetState: table, Logger: r.log}
	o.Run, o.RoleEpoch = "run-1", r.roleEpoch()
	for n := 0; f.Gap > 0 && n < sealsKilled; n++ {
		r.mu.Lock()
		d := time.Duration(r.mu.rng.Int64N(int64(f.Gap)))
		r.mu.Unlock()
		kctx, kill := context.WithTimeout(ctx, d)
		_, err := replicate.Seal(kctx, o)
		kill()
		r.log.Info("a run that seals was killed", slog.Duration("after", d), slog.Any("error", err))
	}
	o.Timeout = r.limits.ready
	r.await(fmt.Sprintf("replicator %d is sealed", f.Replicator), r.limits.ready, func() string {
		rep, err := replicate.Seal(ctx, o)
		switch {
		case err != nil:
			return err.Error()
		case !rep.Sealed:
			return fmt.Sprintf("%d of %d slots: %v", rep.SealedSlots, rep.Slots, rep.Open)
		}
		return ""
	})
	before := r.onlyCopied(f.Replicator)
	time.Sleep(f.For)
	if after := r.onlyCopied(f.Replicator); before >= 0 && after != before {
		r.failf("%d records arrived behind the seal", after-before)
	}
	o.Run, o.RoleEpoch = "run-2", r.roleEpoch()
	r.await(fmt.Sprintf("replicator %d is released", f.Replicator), r.limits.ready, func() string {
		if err := replicate.Release(ctx, o); err != nil {
			return err.Error()
		}
		return ""
	})
}

// onlyCopied returns how many records the target of a replicator holds of topics
// that nobody else writes there, -1 if that can't be told now.
func (r *run) onlyCopied(replicator int) (count int) {
	to := r.s.Replicators[replicator].To
	ctx, cancel := context.WithTimeout(context.Background(), r.limits.ready)
	defer cancel()
	for _, t := range r.s.Topics {
		if slices.Contains(t.On, to) {
			continue
		}
		log, err := r.clusters[to].Read(ctx, r.topic(t.Name), ktest.ReadUncommitted)
		if err != nil {
			r.log.Info("can't be read now", slog.String("topic", t.Name), slog.Any("error", err))
			return -1
		}
		count += len(log.Records())
	}
	return count
}

// roleEpoch returns the next role epoch.
func (r *run) roleEpoch() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.epoch++
	return r.mu.epoch
}
