package runbook

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
)

// MemoryStore is a Store in memory, for simulations. The zero value is ready.
type MemoryStore struct {
	mu struct {
		sync.Mutex
		epoch  int
		values map[string][]byte
	}
}

type memoryWriter struct {
	s     *MemoryStore
	epoch int
}

// Take implements Store.
func (s *MemoryStore) Take(ctx context.Context) (Writer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.epoch++
	return memoryWriter{s, s.mu.epoch}, ctx.Err()
}

// Read implements Store.
func (s *MemoryStore) Read(ctx context.Context, prefixes ...string) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]byte{}
	for k, v := range s.mu.values {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(k, p) }) {
			out[k] = v
		}
	}
	return out, ctx.Err()
}

// Put implements Store.
func (s *MemoryStore) Put(ctx context.Context, r Record) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applyLocked([]Record{r})
	return nil
}

// Write implements Writer.
func (w memoryWriter) Write(ctx context.Context, records ...Record) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.epoch != w.s.mu.epoch {
		return ErrFenced
	}
	w.s.applyLocked(records)
	return nil
}

func (s *MemoryStore) applyLocked(records []Record) {
	values := maps.Clone(s.mu.values)
	if values == nil {
		values = map[string][]byte{}
	}
	for _, r := range records {
		if r.Value == nil {
			delete(values, r.Key)
		} else {
			values[r.Key] = r.Value
		}
	}
	s.mu.values = values
}

// Fate is what becomes of a write of a process that may die.
type Fate int

// The fates.
const (
	Written     Fate = iota
	NotWritten       // the process dies before it
	Unanswered       // the process dies behind it
	Interrupted      // the write happens, its answer is lost, the process lives
)

// ErrDead is what a process that has died gets from its stores.
var ErrDead = errors.New("the process is dead")

// Mortal is a Store as one process uses it that may die, for simulations. Ask is
// asked before each write what becomes of it.
type Mortal struct {
	Store Store
	Ask   func(records []Record) Fate
	Dead  func() bool // whether the process is dead; asked before everything
}

type mortalWriter struct {
	m *Mortal
	w Writer
}

// Take implements Store.
func (m *Mortal) Take(ctx context.Context) (Writer, error) {
	if m.Dead() {
		return nil, ErrDead
	}
	w, err := m.Store.Take(ctx)
	return mortalWriter{m, w}, err
}

// Read implements Store.
func (m *Mortal) Read(ctx context.Context, prefixes ...string) (map[string][]byte, error) {
	if m.Dead() {
		return nil, ErrDead
	}
	return m.Store.Read(ctx, prefixes...)
}

// Put implements Store.
func (m *Mortal) Put(ctx context.Context, r Record) error {
	return m.write([]Record{r}, func() error { return m.Store.Put(ctx, r) })
}

// Write implements Writer.
func (w mortalWriter) Write(ctx context.Context, records ...Record) error {
	return w.m.write(records, func() error { return w.w.Write(ctx, records...) })
}

var errUnanswered = errors.New("no answer")

func (m *Mortal) write(records []Record, do func() error) error {
	if m.Dead() {
		return ErrDead
	}
	switch m.Ask(records) {
	case NotWritten:
		return ErrDead
	case Unanswered:
		_ = do() // nobody is left to hear of it
		return ErrDead
	case Interrupted:
		if err := do(); err != nil {
			return err
		}
		return errUnanswered
	default:
		return do()
	}
}
