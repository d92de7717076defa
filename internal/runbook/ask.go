package runbook

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Approve records that somebody wants a step of a run to go on. The process that
// works on the run sees it within a second; without one it waits for resume. It
// needs the run's home.
func (j *Journal) Approve(ctx context.Context, run, step, by string) error {
	return j.ask(ctx, run, step, by)
}

// AskAbort records that somebody wants a run to be aborted by the process that
// works on it. It is not acted upon behind the point of no return.
func (j *Journal) AskAbort(ctx context.Context, run, by string) error {
	return j.ask(ctx, run, askAbort, by)
}

func (j *Journal) ask(ctx context.Context, run, what, by string) error {
	l, err := j.List(ctx)
	if err != nil {
		return err
	}
	r, ok := l.Run(run)
	if !ok {
		return fmt.Errorf("ask run %s: %w", run, ErrNoRun)
	}
	home, _, err := j.sides(r.Home)
	if err != nil {
		return err
	}
	rec := Record{keyAsk(j.o.Pair, run, what), encode(askRecord{V: entryVersion, By: by, AtMs: time.Now().UnixMilli()})}
	if err := home.Store.Put(ctx, rec); err != nil {
		return fmt.Errorf("ask run %s on cluster %s: %w", run, home.Cluster.Name, err)
	}
	return nil
}

// asks reads what is wanted of a run, by step.
func (l *Lease) asks(ctx context.Context, run string) (map[string]askRecord, error) {
	prefix := prefixAsks(l.j.o.Pair, run)
	values, err := l.home.Store.Read(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := map[string]askRecord{}
	for key, value := range values {
		var a askRecord
		if err := json.Unmarshal(value, &a); err != nil {
			return nil, fmt.Errorf("read what is asked of run %s: %w", run, err)
		}
		out[strings.TrimPrefix(key, prefix)] = a
	}
	return out, nil
}
