package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

const (
	minRetry = time.Second      // first pause after a failure, of a topic or of a cluster
	maxRetry = 30 * time.Second // doubled up to this

	// refusalLife is how long a refused setting is not tried again, unless its
	// value changes at the source.
	refusalLife = 10 * time.Minute

	// awaitLife is how long a created topic may take to be listed by a broker
	// of the target. After that it is created once more, which does nothing if
	// it exists.
	awaitLife = 30 * time.Second

	// soon is the pause before the next look when something was changed.
	soon = 50 * time.Millisecond
)

// Topics keeps the topics of the target like those of the source.
type Topics struct {
	o Options

	mu struct {
		sync.Mutex
		sourceID, targetID string                 // cluster ids, pinned by the first answers
		planned            map[string]TopicReport // of the last plan of Run, by source name
		failures           map[string]failure     // by source name
		refused            map[[16]byte][]timedRefusal
		awaited            map[[16]byte]time.Time // source topic ids of created topics, until when
		gone               map[[16]byte]struct{}  // topic ids never come back, so this is final
		problem            error
	}
}

// failure is the last failed change of a topic.
type failure struct {
	code    dr.HaltCode
	reason  string
	pause   time.Duration
	retryAt time.Time
}

type timedRefusal struct {
	refusal
	until time.Time
}

// New checks the options. It does no I/O and starts nothing.
func New(o Options) (*Topics, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("check mirror options: %w", err)
	}
	t := &Topics{o: o}
	t.mu.sourceID, t.mu.targetID = o.SourceClusterID, o.TargetClusterID
	t.mu.failures = make(map[string]failure)
	t.mu.refused = make(map[[16]byte][]timedRefusal)
	t.mu.awaited = make(map[[16]byte]time.Time)
	t.mu.gone = make(map[[16]byte]struct{})
	return t, nil
}

// Run looks at both clusters again and again and does what the plan says, until
// ctx is cancelled; then it returns nil. Failures are retried with growing
// pauses and shown by Status (of one topic) and Problem (of a cluster or the
// ledger).
func (t *Topics) Run(ctx context.Context) error {
	cache := &settingsCache{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := minRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		start := time.Now()
		changed, err := t.round(ctx, cache)
		took := time.Since(start)
		if ctx.Err() != nil {
			return nil
		}
		t.setProblem(ctx, err)
		if err != nil {
			timer.Reset(retry)
			retry = min(2*retry, maxRetry)
			continue
		}
		retry = minRetry
		pause := t.o.DiscoveryInterval
		if changed > 0 {
			pause = min(pause, soon)
		}
		// After a slow look comes a rest of the same length, the interval at
		// most: a busy cluster is not kept busy by our looking at it.
		timer.Reset(max(pause-took, min(took, t.o.DiscoveryInterval), time.Millisecond))
	}
}

// round reads, plans and applies once. It returns how many changes there were.
func (t *Topics) round(ctx context.Context, cache *settingsCache) (int, error) {
	v, err := t.read(ctx, cache)
	if err != nil {
		return 0, err
	}
	changes, reports := plan(v)
	t.setPlanned(ctx, changes, reports)
	due := t.due(changes)
	err = t.Apply(ctx, due)
	for _, c := range due {
		if c.Action == ActionAlter {
			delete(cache.target, c.TargetTopicID) // compare with what the broker made of it
		}
	}
	if _, partial := errors.AsType[*PartialError](err); partial {
		err = nil // shown per topic
	}
	return len(due), err
}

// Plan returns what would be done now. It reads both clusters anew and changes
// nothing on them. Drift is part of a plan, although Apply leaves it alone.
func (t *Topics) Plan(ctx context.Context) ([]Change, error) {
	v, err := t.read(ctx, &settingsCache{})
	if err != nil {
		return nil, err
	}
	changes, _ := plan(v)
	return changes, nil
}

// Status returns what is known of every selected topic, sorted by name. It is
// empty before Run has read both clusters once; see Problem.
func (t *Topics) Status() []TopicReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]TopicReport, 0, len(t.mu.planned))
	for _, name := range slices.Sorted(maps.Keys(t.mu.planned)) {
		r := t.mu.planned[name]
		r.Drift = slices.Clone(r.Drift)
		if f, ok := t.mu.failures[name]; ok && r.Code == "" {
			r.Code, r.Reason = f.code, f.reason
			if r.State == dr.TopicCreating && f.code != "" {
				r.State = dr.TopicHalted
			}
		}
		out = append(out, r)
	}
	return out
}

// Problem returns why the last round could not look at both clusters or write
// the ledger, nil if it could. Status is from the last round that could.
func (t *Topics) Problem() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.problem
}

func (t *Topics) setProblem(ctx context.Context, err error) {
	t.mu.Lock()
	before := t.mu.problem
	t.mu.problem = err
	t.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		t.o.Logger.LogAttrs(ctx, slog.LevelWarn, "topics cannot be kept in step", slog.Any("error", err))
	case err == nil && before != nil:
		t.o.Logger.LogAttrs(ctx, slog.LevelInfo, "topics are kept in step again")
	}
}

// setPlanned publishes the reports of a plan, logs what changed, and forgets
// the failures of topics that the plan has nothing to do for.
func (t *Topics) setPlanned(ctx context.Context, changes []Change, reports map[string]TopicReport) {
	busy := make(map[string]struct{}, len(changes))
	for _, c := range changes {
		if c.Action != ActionDrift {
			busy[c.Source] = struct{}{}
		}
	}
	t.mu.Lock()
	before := t.mu.planned
	t.mu.planned = reports
	for name := range t.mu.failures {
		if _, ok := busy[name]; !ok {
			delete(t.mu.failures, name)
		}
	}
	t.mu.Unlock()
	for name, r := range reports {
		if r.Code == before[name].Code && r.State == before[name].State {
			continue
		}
		level := slog.LevelInfo
		if r.Code != "" {
			level = slog.LevelWarn
		}
		t.o.Logger.LogAttrs(ctx, level, "topic changed state", slog.String("topic", name), slog.String("target_topic", r.Target),
			slog.String("state", string(r.State)), slog.String("code", string(r.Code)), slog.String("reason", r.Reason))
	}
}

// due leaves out the changes of topics that failed a short time ago.
func (t *Topics) due(changes []Change) []Change {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool {
		f, failed := t.mu.failures[c.Source]
		return c.Action == ActionDrift || (failed && now.Before(f.retryAt))
	})
}

// setFailures remembers which topics failed, and which did not.
func (t *Topics) setFailures(ctx context.Context, changes []Change, failed map[string]error) {
	now := time.Now()
	var fresh []string
	t.mu.Lock()
	for _, c := range changes {
		if failed[c.Source] == nil {
			delete(t.mu.failures, c.Source)
		}
	}
	for name, err := range failed {
		f := failure{reason: err.Error(), pause: minRetry}
		if te, ok := errors.AsType[*topicError](err); ok {
			f.code = te.halt()
		}
		old, again := t.mu.failures[name]
		if again {
			f.pause = min(2*old.pause, maxRetry)
		}
		if old.reason != f.reason {
			fresh = append(fresh, name)
		}
		f.retryAt = now.Add(f.pause)
		t.mu.failures[name] = f
	}
	t.mu.Unlock()
	for _, name := range fresh {
		t.o.Logger.LogAttrs(ctx, slog.LevelWarn, "topic cannot follow the source", slog.String("topic", name), slog.Any("error", failed[name]))
	}
}

// setAwaited remembers that the target topic of a source topic id was created.
func (t *Topics) setAwaited(sourceTopicID [16]byte) {
	until := time.Now().Add(awaitLife)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.awaited[sourceTopicID] = until
}

// wasAwaited ends the waiting and reports whether there was any.
func (t *Topics) wasAwaited(sourceTopicID [16]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.mu.awaited[sourceTopicID]
	delete(t.mu.awaited, sourceTopicID)
	return ok
}

// setRefused remembers that the target refuses settings of a topic.
func (t *Topics) setRefused(sourceTopicID [16]byte, refused []refusal) {
	until := time.Now().Add(refusalLife)
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := slices.DeleteFunc(t.mu.refused[sourceTopicID], func(old timedRefusal) bool {
		return slices.ContainsFunc(refused, func(r refusal) bool { return r.setting.Name == old.setting.Name })
	})
	for _, r := range refused {
		kept = append(kept, timedRefusal{r, until})
	}
	t.mu.refused[sourceTopicID] = kept
}
