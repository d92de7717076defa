package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Pause is a time in which a reader of the target got no copy of a partition
// that is written all the time.
type Pause struct {
	Replicator string        `json:"replicator"`
	Partition  int32         `json:"partition"`
	At         time.Duration `json:"at_ns"` // since the load began
	Took       time.Duration `json:"took_ns"`
	During     []string      `json:"during"` // faults that overlap with it
}

// shortestPause is what is worth noting.
const shortestPause = 500 * time.Millisecond

// watcher reads topic plain of a side as it grows, and notes when copies come.
type watcher struct {
	replicator string
	began      time.Time

	mu     sync.Mutex
	last   map[int32]time.Time // guarded by mu
	pauses []Pause             // guarded by mu
}

// watch reads until ctx ends. Errors pass: brokers are killed meanwhile.
func (w *watcher) watch(ctx context.Context, opts []kgo.Opt) error {
	cl, err := kgo.NewClient(slices.Concat(opts, []kgo.Opt{
		kgo.ConsumeTopics("plain"), kgo.FetchMaxWait(100 * time.Millisecond), kgo.MetadataMinAge(100 * time.Millisecond),
	})...)
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.replicator, err)
	}
	defer cl.Close()
	native := w.replicator[:1]
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		now := time.Now()
		fs.EachRecord(func(r *kgo.Record) {
			if nativeTo(r) == native {
				w.seen(r.Partition, now)
			}
		})
	}
	return nil
}

func (w *watcher) seen(partition int32, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, ok := w.last[partition]
	if d := now.Sub(last); ok && d >= shortestPause {
		w.pauses = append(w.pauses, Pause{Replicator: w.replicator, Partition: partition, At: last.Sub(w.began), Took: d})
	}
	w.last[partition] = now
}

// longest returns the longest pause that no operator asked for, with what went
// on meanwhile.
func (w *watcher) longest(faults []Fault) (Pause, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.SortFunc(w.pauses, func(x, y Pause) int { return cmp.Compare(y.Took, x.Took) })
	for _, p := range w.pauses {
		asked := false
		p.During = nil
		for _, f := range faults {
			if f.At > p.At+p.Took || f.At+f.Took < p.At {
				continue
			}
			asked = asked || f.Kind == pauseKind && strings.HasPrefix(f.What, p.Replicator)
			p.During = append(p.During, f.Kind)
		}
		if !asked {
			return p, true
		}
	}
	return Pause{}, false
}

// nativeTo returns the side that a record of the load was written on, which its
// id begins with.
func nativeTo(r *kgo.Record) string {
	id, _ := bytes.CutPrefix(r.Value, []byte("ktest-id:"))
	for _, h := range r.Headers {
		if h.Key == "ktest-id" {
			id = h.Value
		}
	}
	if len(id) < 2 || id[1] != '-' {
		return ""
	}
	return string(id[:1])
}
