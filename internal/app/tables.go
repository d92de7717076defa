package app

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kstate"
)

// Pauses between attempts of what failed, doubled from the first to the last.
const (
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 30 * time.Second
	steady       = time.Minute // what ran that long starts again with the first pause
)

// tables is the state table of one cluster. A table that can't go on is
// replaced by a new one, which reads the topic from its beginning.
type tables struct {
	cluster string
	reach   kclient.Options
	log     *slog.Logger
	follow  func(*kstate.Table, context.Context) error // Table.Run; tests end it early

	mu struct {
		sync.Mutex
		current generation
	}
}

// generation is one table of a cluster and its end.
type generation struct {
	table *kstate.Table
	ended chan struct{} // closed when another table took its place
}

func newTables(cluster string, reach kclient.Options, log *slog.Logger) *tables {
	t := &tables{cluster: cluster, reach: reach, log: log.With(slog.String("cluster", cluster)), follow: (*kstate.Table).Run}
	t.mu.current = t.make()
	return t
}

func (t *tables) make() generation {
	dial := func(opts ...kgo.Opt) (*kgo.Client, error) { return kclient.New(t.reach, opts...) }
	return generation{kstate.NewTable(kstate.TableOptions{Dial: dial, Logger: t.log}), make(chan struct{})}
}

func (t *tables) current() generation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.current
}

// run keeps a table running until ctx ends.
func (t *tables) run(ctx context.Context) {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		began := time.Now()
		err := t.follow(t.current().table, ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steady {
			wait = firstBackoff
		}
		t.log.LogAttrs(ctx, slog.LevelError, "state table ended, reading it anew", slog.Any("error", err), slog.Duration("pause", wait))
		pause(ctx, wait)
		t.replace()
	}
}

// replace puts a new table in the place of the current one, and tells its users.
func (t *tables) replace() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.mu.current.ended)
	t.mu.current = t.make()
}
