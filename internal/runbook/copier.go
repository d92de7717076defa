package runbook

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// copier brings what the home holds to the other cluster, as far as that can be
// reached. What it writes there is a note: nobody decides by it while the home
// answers.
type copier struct {
	j           *Journal
	home, other Side
	lock        func() Record
	token       string
	writer      Writer // of run only; nil: to be taken

	mu struct {
		sync.Mutex
		queue   []Record
		behind  bool // what the other side lacks is to be found out
		flying  bool
		changed chan struct{}
	}
}

func newCopier(l *Lease, other Side) *copier {
	c := &copier{j: l.j, home: l.home, other: other, lock: l.lockNow, token: l.token}
	c.mu.behind, c.mu.changed = other.Store != nil, make(chan struct{})
	return c
}

// add has records copied. They are shown on the other side in the order of the
// calls.
func (c *copier) add(records []Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.other.Store == nil {
		return
	}
	c.mu.queue = append(c.mu.queue, records...)
	c.signal()
}

// signal wakes those who wait; the caller holds the lock.
func (c *copier) signal() {
	close(c.mu.changed)
	c.mu.changed = make(chan struct{})
}

// run copies until ctx ends.
func (c *copier) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.mu.Lock()
		queue, behind, changed := c.mu.queue, c.mu.behind, c.mu.changed
		c.mu.flying = len(queue) > 0 || behind
		c.mu.Unlock()
		if len(queue) == 0 && !behind {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		err := c.copy(ctx, queue, behind)
		c.mu.Lock()
		c.mu.flying = false
		if err == nil {
			c.mu.queue, c.mu.behind = c.mu.queue[len(queue):], false
		}
		c.signal()
		c.mu.Unlock()
		if err != nil {
			c.writer = nil
			c.j.log.LogAttrs(ctx, slog.LevelDebug, "journal copy is behind", slog.String("cluster", c.other.Cluster.Name), slog.String("error", err.Error()))
			if sleep(ctx, time.Second) != nil {
				return
			}
		}
	}
}

// finish waits a moment for what is under way.
func (c *copier) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, otherPatience)
	defer cancel()
	for ctx.Err() == nil {
		c.mu.Lock()
		idle, changed := len(c.mu.queue) == 0 && !c.mu.behind && !c.mu.flying, c.mu.changed
		c.mu.Unlock()
		if idle {
			return
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// copy writes the records, and before them what the other side lacks.
func (c *copier) copy(ctx context.Context, queue []Record, behind bool) error {
	ctx, cancel := context.WithTimeout(ctx, otherPatience)
	defer cancel()
	if c.writer == nil {
		// Another holder that lives is not to be fenced by a copy.
		values, err := c.other.Store.Read(ctx, keyLock(c.j.o.Pair))
		if err != nil {
			return err
		}
		if l, ok := lockIn(values, c.j.o.Pair); ok && l.Token != c.token && fresh(l, time.Now()) {
			return &HeldError{Holder: l.holder()}
		}
		w, err := c.other.Store.Take(ctx)
		if err != nil {
			return err
		}
		c.writer = w
	}
	if behind {
		lacks, err := c.lacking(ctx)
		if err != nil {
			return err
		}
		queue = append(append([]Record{c.lock()}, lacks...), queue...)
	}
	values, err := c.other.Store.Read(ctx, dr.RoleKey(c.j.o.Pair))
	if err != nil {
		return err
	}
	const most = 100 // records a write
	for len(queue) > 0 {
		n := min(most, len(queue))
		if part := withoutOlderRoles(queue[:n], values, c.j.o.Pair); len(part) > 0 {
			if err := c.writer.Write(ctx, part...); err != nil {
				return err
			}
		}
		queue = queue[n:]
	}
	return nil
}

// withoutOlderRoles leaves out role records that the other side's own supersedes.
func withoutOlderRoles(records []Record, values map[string][]byte, pair string) []Record {
	has, ok := roleIn(values, pair)
	var out []Record
	for _, r := range records {
		if r.Key == dr.RoleKey(pair) && ok {
			if role, err := dr.DecodeRole(r.Value); err != nil || has.Supersedes(role) {
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// lacking returns what the home holds of its own runs, and of the roles, and the
// other side does not.
func (c *copier) lacking(ctx context.Context) ([]Record, error) {
	pair := c.j.o.Pair
	prefixes := []string{prefixRuns(pair), dr.RoleKey(pair)}
	here, err := c.home.Store.Read(ctx, prefixes...)
	if err != nil {
		return nil, err
	}
	there, err := c.other.Store.Read(ctx, prefixes...)
	if err != nil {
		return nil, err
	}
	runs, err := entriesByRun(pair, here)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(here, func(key string, value []byte) bool {
		run, _, _ := strings.Cut(strings.TrimPrefix(key, prefixRuns(pair)), "/")
		es := runs[run]
		notHome := len(es) > 0 && (es[0].Header == nil || !c.home.is(es[0].Header.Home))
		return string(there[key]) == string(value) || notHome
	})
	out := make([]Record, 0, len(here))
	for key, value := range here {
		out = append(out, Record{key, value})
	}
	// The first entries first: a copy that ends early is a shorter story, not
	// another one.
	sortRecords(out)
	return withoutOlderRoles(out, there, pair), nil
}
