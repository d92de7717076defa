package runbook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/seeded"
)

// Listing is what the journal holds of a pair.
type Listing struct {
	Role   dr.Role            // the one that counts of those that were read; zero: none
	Roles  map[string]dr.Role // by the name of the cluster that holds it
	Runs   []dr.Run           // newest first
	Unread map[string]error   // by the name of the cluster that did not answer
}

// Knowledge says whether both clusters answered.
func (l Listing) Knowledge() dr.RoleKnowledge {
	if len(l.Unread) == 0 {
		return dr.RoleKnownFromBoth
	}
	return dr.RoleKnownFromOne
}

// Open returns the run that is not over, nil if there is none.
func (l Listing) Open() *dr.Run {
	for i := range l.Runs {
		if !l.Runs[i].State.Over() {
			return &l.Runs[i]
		}
	}
	return nil
}

// Run returns the run of that id.
func (l Listing) Run(id string) (dr.Run, bool) {
	i := slices.IndexFunc(l.Runs, func(r dr.Run) bool { return r.ID == id })
	if i < 0 {
		return dr.Run{}, false
	}
	return l.Runs[i], true
}

// List reads both clusters and merges what they hold. It returns an error only
// where none of them could be read.
func (j *Journal) List(ctx context.Context) (Listing, error) {
	b, err := j.read(ctx)
	if err != nil {
		return Listing{}, err
	}
	return b.listing(time.Now()), nil
}

// books is what was read of both sides.
type books struct {
	pair  string
	sides [2]book
	out   map[string]error
}

type book struct {
	side    Side
	read    bool
	role    dr.Role
	lock    *lockRecord
	entries map[string][]entry
}

func (j *Journal) read(ctx context.Context) (books, error) {
	b := books{pair: j.o.Pair, out: map[string]error{}}
	ctx, cancel := context.WithTimeout(ctx, j.o.Wait)
	defer cancel()
	var errs [2]error
	var wg sync.WaitGroup
	for i, s := range j.o.Sides {
		b.sides[i].side = s
		wg.Go(func() { errs[i] = b.sides[i].fill(ctx, j.o.Pair) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			b.out[j.o.Sides[i].Cluster.Name] = err
		}
	}
	if errs[0] != nil && errs[1] != nil {
		return books{}, fmt.Errorf("read the journal of pair %s: %w", j.o.Pair, errors.Join(errs[:]...))
	}
	return b, nil
}

func (b *book) fill(ctx context.Context, pair string) error {
	if b.side.Store == nil {
		return errors.New("the cluster cannot be reached")
	}
	values, err := b.side.Store.Read(ctx, prefixRuns(pair), keyLock(pair), dr.RoleKey(pair), dr.FirstRoleKey(pair))
	if err != nil {
		return err
	}
	for _, key := range []string{dr.FirstRoleKey(pair), dr.RoleKey(pair)} {
		if v, ok := values[key]; ok {
			if b.role, err = dr.DecodeRole(v); err != nil {
				return err
			}
		}
	}
	if l, ok := lockIn(values, pair); ok {
		b.lock = &l
	}
	if b.entries, err = entriesByRun(pair, values); err != nil {
		return err
	}
	b.read = true
	return nil
}

func (b books) role() dr.Role {
	var role dr.Role
	for _, s := range b.sides {
		if !s.role.IsZero() && (role.IsZero() || s.role.Supersedes(role)) {
			role = s.role
		}
	}
	return role
}

func (b books) listing(now time.Time) Listing {
	l := Listing{Role: b.role(), Roles: map[string]dr.Role{}, Unread: b.out}
	ids := map[string]struct{}{}
	for _, s := range b.sides {
		if !s.role.IsZero() {
			l.Roles[s.side.Cluster.Name] = s.role
		}
		for id := range s.entries {
			ids[id] = struct{}{}
		}
	}
	for id := range ids {
		if run, ok := b.run(id, now); ok {
			l.Runs = append(l.Runs, run)
		}
	}
	slices.SortFunc(l.Runs, func(a, b dr.Run) int {
		return cmp.Or(b.StartedAt.Compare(a.StartedAt), cmp.Compare(b.ID, a.ID))
	})
	return l
}

// entries returns the entries of a run that count: its home's, where that was
// read and has any; and whether the home has spoken.
func (b books) entries(id string) (es []entry, home bool) {
	for _, s := range b.sides {
		if of := s.entries[id]; len(of) > 0 && of[0].Header != nil {
			if s.side.is(of[0].Header.Home) {
				return of, true
			}
			es = of
		}
	}
	return es, false
}

// run folds the entries of a run.
func (b books) run(id string, now time.Time) (dr.Run, bool) {
	es, home := b.entries(id)
	if len(es) == 0 {
		return dr.Run{}, false
	}
	r := fold(es)
	r.HomeUnread = !home
	role := b.role()
	// A role of a later decision than the run's own closes the run.
	if !r.State.Over() && role.Epoch > r.Epoch && role.Run != r.ID && !seeded.Bug("older-roles-resumed") {
		r.State = dr.RunClosed
		r.Reason = fmt.Sprintf("the roles have epoch %d since, by run %s: this one began at %d", role.Epoch, cmp.Or(role.Run, "none"), r.Epoch)
	}
	for _, s := range b.sides {
		if s.lock != nil && s.lock.Run == id && fresh(*s.lock, now) && !r.State.Over() {
			h := s.lock.holder()
			r.Holder = &h
		}
	}
	return r, true
}

// fold makes a run out of its entries, which are not empty and in order. It is
// pure: what a run is follows from the journal alone.
func fold(es []entry) dr.Run {
	r := dr.Run{ID: es[0].Run, State: dr.RunRunning, By: es[0].Who, StartedAt: at(es[0])}
	if h := es[0].Header; h != nil {
		r.Pair, r.Kind, r.From, r.To, r.Home, r.Epoch, r.Parameters = h.Pair, h.Kind, h.From, h.To, h.Home, h.Epoch, h.Parameters
		for _, s := range h.Steps {
			r.Steps = append(r.Steps, dr.StepStatus{ID: s.ID, Title: s.Title, PointOfNoReturn: s.PointOfNoReturn, State: dr.StepPending})
		}
	}
	for _, e := range es[1:] {
		foldStep(&r, e)
		foldRun(&r, e)
	}
	return r
}

func foldRun(r *dr.Run, e entry) {
	switch e.Kind {
	case entryResumed:
		if r.State == dr.RunStopped {
			r.State, r.Reason = dr.RunRunning, ""
		}
	case entryAborting:
		r.State, r.Reason = dr.RunAborting, e.Error
	case entryStopped:
		r.State, r.Reason = dr.RunStopped, e.Error
	case entryFinished:
		r.State, r.EndedAt, r.Report = dr.RunFinished, at(e), e.Report
	case entryAborted:
		r.State, r.EndedAt = dr.RunAborted, at(e)
	case entryClosed:
		r.State, r.EndedAt, r.Reason = dr.RunClosed, at(e), e.Error
	case entryGate:
		if r.State == dr.RunRunning || r.State == dr.RunWaiting {
			r.State = dr.RunRunning
			if e.Gate != nil && e.Gate.Approve && !e.Gate.Passed {
				r.State = dr.RunWaiting
			}
		}
	case entryDone:
		r.Committed = r.Committed || e.Committed
		if r.State == dr.RunWaiting {
			r.State = dr.RunRunning
		}
	default:
	}
}

func foldStep(r *dr.Run, e entry) {
	i := slices.IndexFunc(r.Steps, func(s dr.StepStatus) bool { return s.ID == e.Step })
	if e.Step == "" || i < 0 {
		return
	}
	s := &r.Steps[i]
	switch e.Kind {
	case entryBegun:
		s.State, s.EndedAt, s.Error = dr.StepRunning, time.Time{}, ""
		if s.StartedAt.IsZero() {
			s.StartedAt = at(e)
		}
		if e.Plan != nil {
			s.Plan = e.Plan
		}
	case entryGate:
		s.Gate, s.State = e.Gate, dr.StepRunning
		if e.Gate != nil && e.Gate.Approve && !e.Gate.Passed {
			s.State = dr.StepWaiting
		}
	case entryDone:
		s.State, s.EndedAt, s.Error, s.Result = dr.StepDone, at(e), "", e.Result
		if e.Gate != nil {
			s.Gate = e.Gate
		}
	case entryFailed:
		s.State, s.EndedAt, s.Error = dr.StepFailed, at(e), e.Error
		if s.StartedAt.IsZero() { // it could not even be planned
			s.StartedAt = s.EndedAt
		}
		if e.Gate != nil {
			s.Gate = e.Gate
		}
	case entryUndone:
		s.State, s.EndedAt, s.Error = dr.StepUndone, at(e), ""
	case entryUndoFailed:
		s.State, s.Error = dr.StepStuck, e.Error
	default:
	}
}

func at(e entry) time.Time { return time.UnixMilli(e.AtMs).UTC() }

func roleIn(values map[string][]byte, pair string) (dr.Role, bool) {
	v, ok := values[dr.RoleKey(pair)]
	if !ok {
		return dr.Role{}, false
	}
	role, err := dr.DecodeRole(v)
	return role, err == nil
}

func decodeLock(value []byte, l *lockRecord) error {
	if err := json.Unmarshal(value, l); err != nil {
		return fmt.Errorf("read lock record: %w", err)
	}
	if l.V > entryVersion {
		return fmt.Errorf("read lock record: version %d is newer than %d", l.V, entryVersion)
	}
	return nil
}

func sortRecords(rs []Record) {
	slices.SortFunc(rs, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
}
