package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/offsets"
)

// stream reads one log from one offset to another and makes entries of its
// records. fetching and parsing are goroutines of their own; next hands over.
type stream struct {
	c        *cluster
	log      logID
	of       side
	from, to int64
	ends     ends
	bytes    int32
	counts   *counters
	limit    *limiter

	own      func(producerID int64) (bool, error) // whether the records of a producer are compared
	place    *placer
	known    []KnownRange
	whole    int64 // what lies below counts, whoever wrote it
	digester digester
	start    *atomic.Int64 // where the log begins by now
	toEnd    bool          // it ends where the log does

	told               int64 // up to where counts know of it
	fetchErr, parseErr error // why raw or out was closed; read behind that only
	raw                chan fetched
	out                chan []entry
	free               chan []entry
	owned              map[int64]bool
	block              []entry
	active             map[int64]struct{} // producers in an aborted transaction
}

const (
	blockEntries = 8192
	// patience bounds how long a log may be unreadable, or shorter than it should be:
	// the high watermark of a new leader lags (KIP-207).
	patience      = 30 * time.Second
	shortPatience = 5 * time.Second
)

func (s *stream) begin() {
	s.told = s.from
	s.raw, s.out, s.free = make(chan fetched, 1), make(chan []entry, 2), make(chan []entry, 4)
	s.owned, s.active = map[int64]bool{}, map[int64]struct{}{}
}

// feed returns what was parsed, piece for piece.
func (s *stream) feed(ctx context.Context) feed {
	var before []entry
	return func() ([]entry, error) {
		if before != nil {
			select {
			case s.free <- before[:0]:
			default:
			}
		}
		select {
		case b, ok := <-s.out:
			if before = b; !ok {
				return nil, s.parseErr
			}
			return b, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// fetch reads the log. A log that ends too early is not an error: its records are
// missing.
func (s *stream) fetch(ctx context.Context) {
	s.fetchErr = s.fetchAll(ctx)
	close(s.raw)
}

func (s *stream) fetchAll(ctx context.Context) error {
	at, good := s.from, time.Now()
	for at < s.to {
		f, err := s.c.fetch(ctx, s.log, at, s.bytes, s.ends)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && f.start >= 0 {
			s.start.Store(f.start)
		}
		next := at
		if err == nil && len(f.batches) > 0 {
			next, err = behind(f.batches, at)
		}
		switch {
		case errors.Is(err, errGone), isCorrupt(err):
			return s.fail(at, err)
		case errors.Is(err, kerr.OffsetOutOfRange):
			r, rerr := s.c.ranges(ctx, endsAll, []string{s.log.topic})
			if now, ok := r[logKey{s.log.topic, s.log.partition}]; rerr == nil && ok && now.start > at {
				s.start.Store(now.start) // it was deleted meanwhile
				at, good = now.start, time.Now()
				continue
			}
			if time.Since(good) > shortPatience {
				return nil
			}
		case err != nil && time.Since(good) > patience:
			return s.fail(at, err)
		case err == nil && next == at && f.end <= at && (s.toEnd || time.Since(good) > shortPatience):
			return nil
		}
		if next == at {
			if err := s.again(ctx, err); err != nil {
				return err
			}
			continue
		}
		good = time.Now()
		f.next = next
		select {
		case s.raw <- f:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.counts.bytes.Add(int64(len(f.batches)))
		if err := s.limit.wait(ctx, len(f.batches)); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// again waits before the next attempt, and looks who leads if one failed.
func (s *stream) again(ctx context.Context, err error) error {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err != nil {
		if _, lerr := s.c.list(ctx, s.log.topic); lerr != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *stream) fail(at int64, err error) error {
	return s.c.fail(fmt.Sprintf("read topic %s partition %d at offset %d", s.log.topic, s.log.partition, at), err)
}

func isCorrupt(err error) bool {
	_, ok := errors.AsType[*kbatch.CorruptError](err)
	return ok
}

// behind returns the offset after the whole entries of an answer.
func behind(b []byte, at int64) (int64, error) {
	next := at
	for len(b) > 0 {
		e, rest, _, err := kbatch.Next(b)
		if errors.Is(err, kbatch.ErrPartial) {
			break
		}
		if err != nil {
			return next, err
		}
		_, last, err := kbatch.OffsetRange(e)
		if err != nil {
			return next, err
		}
		next, b = max(next, last+1), rest
	}
	return next, nil
}

// parse makes entries of what was fetched.
func (s *stream) parse(ctx context.Context) {
	s.parseErr = s.parseAll(ctx)
	if s.parseErr == nil {
		s.parseErr = s.fetchErr // raw is closed
	}
	close(s.out)
}

func (s *stream) parseAll(ctx context.Context) error {
	for f := range s.raw {
		aborted := slices.Clone(f.aborted)
		slices.SortFunc(aborted, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) int {
			return cmp.Compare(a.FirstOffset, b.FirstOffset)
		})
		clear(s.active)
		for b := f.batches; len(b) > 0; {
			e, rest, magic, err := kbatch.Next(b)
			if errors.Is(err, kbatch.ErrPartial) {
				break
			}
			if err != nil {
				return s.fail(s.from, err)
			}
			if aborted, err = s.batch(e, magic, aborted); err != nil {
				return s.fail(s.from, err)
			}
			if b = rest; len(s.block) >= blockEntries {
				if err := s.hand(ctx); err != nil {
					return err
				}
			}
		}
		if err := s.hand(ctx); err != nil {
			return err
		}
		if s.of == onSource && !s.toEnd && f.next > s.told {
			s.counts.doneOffsets.Add(min(f.next, s.to) - s.told)
			s.told = min(f.next, s.to)
		}
	}
	return nil
}

// hand gives a block away.
func (s *stream) hand(ctx context.Context) error {
	if len(s.block) == 0 {
		return nil
	}
	select {
	case s.out <- s.block:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case s.block = <-s.free:
	default:
		s.block = make([]entry, 0, blockEntries+blockEntries/8)
	}
	return nil
}

// batch makes entries of one batch. It returns the aborted transactions that begin
// behind it.
func (s *stream) batch(b []byte, magic int8, aborted []kmsg.FetchResponseTopicPartitionAbortedTransaction) ([]kmsg.FetchResponseTopicPartitionAbortedTransaction, error) {
	first, last, err := kbatch.OffsetRange(b)
	if err != nil {
		return aborted, err
	}
	producer := int64(-1)
	if magic == 2 {
		h, err := kbatch.ParseHeader(b)
		if err != nil {
			return aborted, err
		}
		for len(aborted) > 0 && aborted[0].FirstOffset <= last {
			s.active[aborted[0].ProducerID] = struct{}{}
			aborted = aborted[1:]
		}
		if h.IsControl() {
			if t, err := h.ControlType(b); err == nil && t == kbatch.ControlAbort {
				delete(s.active, h.ProducerID)
			}
			return aborted, kbatch.VerifyCRC(b)
		}
		if _, dead := s.active[h.ProducerID]; h.Count == 0 || dead && h.IsTransactional() {
			return aborted, kbatch.VerifyCRC(b)
		}
		producer = h.ProducerID
	}
	if last < s.from || first >= s.to {
		return aborted, nil
	}
	own, err := s.isOwn(producer)
	if err != nil {
		return aborted, err
	}
	own = own || last < s.whole
	if !own && !s.digester.keys && !s.place.holds(max(first, s.from), last) {
		return aborted, nil
	}
	return aborted, kbatch.Parse(b, func(r kbatch.Record) error {
		if r.Offset < s.from || r.Offset >= s.to {
			return nil
		}
		e := entry{offset: r.Offset}
		var held bool
		if e.place, held = s.place.at(r.Offset); held {
			e.flags |= mapped
		}
		if s.of == onSource && isKnown(s.known, r.Offset) {
			e.flags |= known
		}
		switch {
		case own || held:
			s.digester.digest(&e, r)
		case s.digester.keys:
			e.flags |= foreign
			s.digester.note(&e, r)
		default:
			return nil
		}
		s.block = append(s.block, e)
		return nil
	})
}

func isKnown(list []KnownRange, offset int64) bool {
	return slices.ContainsFunc(list, func(k KnownRange) bool { return offset >= k.From && offset < k.To })
}

// isOwn asks about a producer once.
func (s *stream) isOwn(producer int64) (bool, error) {
	own, ok := s.owned[producer]
	if ok {
		return own, nil
	}
	own, err := s.own(producer)
	if err == nil {
		s.owned[producer] = own
	}
	return own, err
}

// placer says where the counterparts of ascending offsets lie.
type placer struct {
	cursor *offsets.Cursor
	of     side
	now    offsets.Extent
	ended  bool
	end    int64 // of the other side, behind the last extent
}

func newPlacer(m *offsets.Map, of side, from, end int64) *placer {
	p := &placer{of: of, end: end, cursor: m.FromSource(from)}
	if of == onTarget {
		p.cursor = m.FromTarget(from)
	}
	p.next()
	return p
}

func (p *placer) next() {
	e, ok := p.cursor.Next()
	p.now, p.ended = e, !ok
}

// here returns where the present extent begins on the log that is read, and on the
// other.
func (p *placer) here() (own, other int64) {
	if p.of == onSource {
		return p.now.Source, p.now.Target
	}
	return p.now.Target, p.now.Source
}

// at returns where the counterpart of an offset lies, and whether the map knows the
// offset; otherwise where that of the next one does that it knows.
func (p *placer) at(offset int64) (place int64, held bool) {
	for !p.ended {
		own, other := p.here()
		switch {
		case offset < own:
			return other, false
		case offset < own+p.now.Length:
			return other + offset - own, true
		}
		p.next()
	}
	return p.end, false
}

// holds reports whether the map knows one of the offsets from first to last.
func (p *placer) holds(first, last int64) bool {
	for !p.ended {
		own, _ := p.here()
		if own+p.now.Length > first {
			return own <= last
		}
		p.next()
	}
	return false
}
