package app

import (
	"context"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// pairsKept is for how long a look at a pair is answered again: a look opens
// connections to two clusters, and consoles ask every second.
const pairsKept = 2 * time.Second

// pairService answers the API about pairs.
type pairService struct {
	pairs *Pairs

	mu struct {
		sync.Mutex
		kept map[string]*pairAnswer
	}
}

// pairAnswer is one look, which several askers may wait for.
type pairAnswer struct {
	done   chan struct{} // closed when the rest is there
	status dr.PairStatus
	err    error
	at     time.Time
}

func newPairService(p *Pairs) *pairService {
	s := &pairService{pairs: p}
	s.mu.kept = map[string]*pairAnswer{}
	return s
}

// Pairs implements api.PairService.
func (s *pairService) Pairs(ctx context.Context) ([]dr.PairStatus, error) {
	names := s.pairs.Names()
	out := make([]dr.PairStatus, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { out[i], errs[i] = s.Pair(ctx, name) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Pair implements api.PairService. Those who ask at the same time share a look;
// it ends with the first asker's context, and the others look again.
func (s *pairService) Pair(ctx context.Context, name string) (dr.PairStatus, error) {
	if _, err := s.pairs.pair(name); err != nil {
		return dr.PairStatus{}, err
	}
	for {
		s.mu.Lock()
		a := s.mu.kept[name]
		mine := a == nil
		if mine {
			a = &pairAnswer{done: make(chan struct{})}
			s.mu.kept[name] = a
		}
		s.mu.Unlock()
		if mine {
			a.status, a.err = s.pairs.Status(ctx, name)
			a.at = time.Now()
			close(a.done)
			if a.err != nil {
				s.forget(name, a)
			}
			return a.status, a.err
		}
		select {
		case <-ctx.Done():
			return dr.PairStatus{}, context.Cause(ctx)
		case <-a.done:
		}
		if a.err == nil && time.Since(a.at) < pairsKept {
			return a.status, nil
		}
		s.forget(name, a)
	}
}

// forget drops an answer, unless another one took its place.
func (s *pairService) forget(name string, a *pairAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.kept[name] == a {
		delete(s.mu.kept, name)
	}
}

// Runs implements api.PairService.
func (s *pairService) Runs(ctx context.Context, pair string) ([]dr.Run, error) {
	return s.pairs.Runs(ctx, pair)
}

// Run implements api.PairService.
func (s *pairService) Run(ctx context.Context, id string) (dr.Run, error) {
	return s.pairs.Run(ctx, id)
}
