package runbook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/seeded"
)

const (
	// renewEvery is how often a holder says that it is alive.
	renewEvery = 2 * time.Second
	// lockFresh is how long it is believed. It is courtesy, not safety: clocks
	// may differ, and what keeps two holders apart is the fence.
	lockFresh = 10 * time.Second
	// otherPatience bounds each request to the cluster that may be gone.
	otherPatience = 3 * time.Second
)

// Side is one cluster of the pair, as the journal uses it.
type Side struct {
	Cluster dr.ClusterRef // the id is empty where the cluster did not answer
	Store   Store
}

// is reports whether the side is the cluster of that reference. A rebuilt
// cluster has the name of the old one and another id.
func (s Side) is(c dr.ClusterRef) bool {
	if s.Cluster.ID != "" && c.ID != "" {
		return s.Cluster.ID == c.ID
	}
	return s.Cluster.Name == c.Name
}

// JournalOptions configures a Journal.
type JournalOptions struct {
	Pair   string
	Sides  [2]Side
	Logger *slog.Logger  // nil means discard
	Wait   time.Duration // for each side when both are read; 0 means 5 s
}

// Journal keeps the runs and the roles of one pair, on both clusters. It starts
// nothing; all methods may be called from any goroutine.
type Journal struct {
	o   JournalOptions
	log *slog.Logger
}

// NewJournal returns a journal.
func NewJournal(o JournalOptions) *Journal {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Wait == 0 {
		o.Wait = 5 * time.Second
	}
	return &Journal{o: o, log: o.Logger.With(slog.String("pair", o.Pair))}
}

// HeldError is returned when a process that seems to be alive holds the lock of
// the pair.
type HeldError struct{ Holder dr.Holder }

func (e *HeldError) Error() string {
	at := ""
	if e.Holder.Run != "" {
		at = " on run " + e.Holder.Run
	}
	return fmt.Sprintf("%s (process %d) works%s since %s, last heard of at %s", e.Holder.Who, e.Holder.PID, at,
		e.Holder.Since.Format(time.RFC3339), e.Holder.RenewedAt.Format(time.RFC3339))
}

// ErrOvertaken is returned when another process took the run over: this one has
// stopped writing, and what it does no longer counts.
var ErrOvertaken = errors.New("another process took the run over")

// Lease is the right to write the journal, while the function that Hold calls
// runs. Its methods may be called from any goroutine.
type Lease struct {
	j      *Journal
	home   Side
	token  string
	writer Writer    // of the loop only
	wrote  time.Time // the last time that it was not refused; of the loop only
	locked bool      // the lock was written; of the loop only
	writes chan leaseWrite
	copies *copier

	mu struct {
		sync.Mutex
		lock lockRecord
	}
}

type leaseWrite struct {
	records []Record
	done    chan error
}

// Hold takes the lock of the pair on the cluster home, calls fn and gives the
// lock back. The context of fn ends with ErrOvertaken when somebody else takes
// the lock. Hold returns *HeldError, and does nothing, while another process
// holds it; what fn returned otherwise. The other cluster gets a copy of what is
// written, as far as it can be reached; what is behind then is made up by the
// next Hold.
func (j *Journal) Hold(ctx context.Context, home dr.ClusterRef, who dr.Holder, fn func(context.Context, *Lease) error) error {
	mine, other, err := j.sides(home)
	if err != nil {
		return err
	}
	now := time.Now()
	l := &Lease{j: j, home: mine, token: strconv.FormatUint(rand.Uint64(), 36), wrote: now, writes: make(chan leaseWrite)}
	l.mu.lock = lockRecord{V: entryVersion, Token: l.token, Who: who.Who, PID: who.PID, Run: who.Run, SinceMs: now.UnixMilli()}
	for tries := 0; ; tries++ {
		if err := j.free(ctx, mine, other, l.token); err != nil {
			return err
		}
		if l.writer, err = mine.Store.Take(ctx); err == nil {
			break
		}
		// Others take it at the same time: whoever is behind finds the lock.
		if !errors.Is(err, ErrFenced) || tries == 5 || sleep(ctx, rand.N(200*time.Millisecond)) != nil {
			return fmt.Errorf("take the lock of pair %s on cluster %s: %w", j.o.Pair, mine.Cluster.Name, err)
		}
	}
	// Who looked before we wrote the lock, and took the store before us, says so
	// there. We have fenced it, and it takes the store back.
	if err := j.free(ctx, mine, Side{}, l.token); err != nil {
		return err
	}
	if err := l.put(ctx, l.lockNow()); err != nil {
		return fmt.Errorf("take the lock of pair %s on cluster %s: %w", j.o.Pair, mine.Cluster.Name, j.winner(ctx, mine, l.token, err))
	}
	return l.run(ctx, other, fn)
}

// winner says who was faster, where that was why the lock was not written.
func (j *Journal) winner(ctx context.Context, mine Side, token string, err error) error {
	for tries := 0; errors.Is(err, ErrOvertaken) && tries < 20; tries++ {
		if held := j.free(ctx, mine, Side{}, token); held != nil {
			return held
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			break
		}
	}
	return err
}

// sides returns the home and the other side.
func (j *Journal) sides(home dr.ClusterRef) (mine, other Side, err error) {
	for i, s := range j.o.Sides {
		if s.Store != nil && s.is(home) {
			return s, j.o.Sides[1-i], nil
		}
	}
	return Side{}, Side{}, fmt.Errorf("open the journal of pair %s: cluster %s (%s) is none of the pair's", j.o.Pair, home.Name, home.ID)
}

// free returns *HeldError while somebody else holds the lock, as one of the
// sides has it. The other side counts only as far as it answers.
func (j *Journal) free(ctx context.Context, mine, other Side, token string) error {
	for _, s := range []Side{mine, other} {
		if s.Store == nil {
			continue
		}
		rctx, cancel := ctx, context.CancelFunc(func() {})
		if s != mine {
			rctx, cancel = context.WithTimeout(ctx, otherPatience)
		}
		values, err := s.Store.Read(rctx, keyLock(j.o.Pair))
		cancel()
		if err != nil && s == mine {
			return fmt.Errorf("read the lock of pair %s on cluster %s: %w", j.o.Pair, s.Cluster.Name, err)
		}
		if l, ok := lockIn(values, j.o.Pair); ok && l.Token != token && fresh(l, time.Now()) {
			return &HeldError{Holder: l.holder()}
		}
	}
	return nil
}

func lockIn(values map[string][]byte, pair string) (lockRecord, bool) {
	v, ok := values[keyLock(pair)]
	if !ok {
		return lockRecord{}, false
	}
	var l lockRecord
	if err := decodeLock(v, &l); err != nil {
		return lockRecord{}, false // of a newer program: the fence decides
	}
	return l, true
}

func fresh(l lockRecord, now time.Time) bool {
	return now.Sub(time.UnixMilli(l.RenewedMs)).Abs() < lockFresh
}

// run owns the lease's goroutines.
func (l *Lease) run(ctx context.Context, other Side, fn func(context.Context, *Lease) error) error {
	// Writing goes on while fn ends: what it did is to be recorded although the
	// caller has lost patience.
	wctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	fctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	l.copies = newCopier(l, other)
	var wg sync.WaitGroup
	wg.Go(func() { l.serve(wctx, lose) })
	wg.Go(func() { l.copies.run(wctx) })
	err := fn(fctx, l)
	if cause := context.Cause(fctx); errors.Is(cause, ErrOvertaken) && !errors.Is(err, ErrOvertaken) {
		err = errors.Join(cause, err)
	}
	if !errors.Is(err, ErrOvertaken) {
		if rerr := l.write(wctx, Record{Key: keyLock(l.j.o.Pair)}); rerr != nil {
			l.j.log.LogAttrs(ctx, slog.LevelWarn, "lock was not given back", slog.String("error", rerr.Error()))
		}
	}
	l.copies.finish(wctx)
	stop()
	wg.Wait()
	return err
}

// serve writes, and renews the lock, until ctx ends.
func (l *Lease) serve(ctx context.Context, lose context.CancelCauseFunc) {
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-l.writes:
			err := l.put(ctx, w.records...)
			if errors.Is(err, ErrOvertaken) {
				lose(err)
			}
			w.done <- err
			if err == nil && w.records[0].Value == nil && w.records[0].Key == keyLock(l.j.o.Pair) {
				return // the lock was given back
			}
		case <-renew.C:
			switch err := l.put(ctx, l.lockNow()); {
			case errors.Is(err, ErrOvertaken):
				lose(err)
			case err != nil:
				l.j.log.LogAttrs(ctx, slog.LevelWarn, "lock was not renewed", slog.String("error", err.Error()))
			}
		}
	}
}

// lockNow is the lock record, renewed.
func (l *Lease) lockNow() Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.lock.RenewedMs = time.Now().UnixMilli()
	return Record{Key: keyLock(l.j.o.Pair), Value: encode(l.mu.lock)}
}

// write writes records to the home, all or none, and has them copied. It does
// not end with ctx's cancellation while a write is under way: callers give it
// one that lasts.
func (l *Lease) write(ctx context.Context, records ...Record) error {
	w := leaseWrite{records: records, done: make(chan error, 1)}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case l.writes <- w:
	}
	err := <-w.done
	if err == nil {
		l.copies.add(records)
	}
	return err
}

// put writes to the home. A refusal by somebody who took the store and did not
// take the lock is answered by taking the store back; a write in doubt by looking
// whether it is there.
func (l *Lease) put(ctx context.Context, records ...Record) error {
	err := errSilent
	if time.Since(l.wrote) < lockFresh {
		err = l.writer.Write(ctx, records...)
	}
	for tries := 0; err != nil && ctx.Err() == nil && tries < 4; tries++ {
		if oerr := l.stillOurs(ctx, err); oerr != nil {
			return oerr
		}
		w, terr := l.home.Store.Take(ctx)
		if errors.Is(terr, ErrFenced) && sleep(ctx, rand.N(200*time.Millisecond)) == nil {
			err = errSilent // whose the lock is says who may take it once more
			continue
		}
		if terr != nil {
			return fmt.Errorf("%w (%w)", err, terr)
		}
		// Behind the fence it is plain what was written, and whose the lock is.
		l.writer = w
		values, rerr := l.home.Store.Read(ctx, keysOf(records)...)
		if rerr != nil {
			return fmt.Errorf("%w (%w)", err, rerr)
		}
		if holds(values, records) && !errors.Is(err, errSilent) {
			err = nil
			break
		}
		if oerr := l.stillOurs(ctx, err); oerr != nil {
			return oerr
		}
		err = l.writer.Write(ctx, records...)
	}
	if err == nil {
		l.wrote, l.locked = time.Now(), true
	}
	return err
}

// stillOurs returns ErrOvertaken where the lock is another's, or is gone: it was
// taken, used and given back. A lease that has not written its lock so far finds
// none, and is overtaken only where it was refused.
func (l *Lease) stillOurs(ctx context.Context, refused error) error {
	values, err := l.home.Store.Read(ctx, keyLock(l.j.o.Pair))
	if err != nil {
		return fmt.Errorf("%w (%w)", refused, err)
	}
	lock, ok := lockIn(values, l.j.o.Pair)
	switch {
	case ok && lock.Token != l.token:
		return fmt.Errorf("%w: %s", ErrOvertaken, lock.Who)
	case !ok && (l.locked && !seeded.Bug("returned-lock-taken") || errors.Is(refused, ErrFenced)):
		return ErrOvertaken
	}
	return nil
}

func keysOf(records []Record) []string {
	keys := make([]string, len(records))
	for i, r := range records {
		keys[i] = r.Key
	}
	return keys
}

// holds reports whether the records are what the values say.
func holds(values map[string][]byte, records []Record) bool {
	for _, r := range records {
		if v, ok := values[r.Key]; string(v) != string(r.Value) || ok != (r.Value != nil) {
			return false
		}
	}
	return true
}

// errSilent makes a holder that was silent for as long as a lock is believed
// look whether the lock is still its own, and take the store anew: the id of its
// producer may have expired meanwhile, and another id fences nobody.
var errSilent = errors.New("nothing was written for a while")
