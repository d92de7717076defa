package replicate

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/offsets"
)

// The model is one partition: a source log, a target broker, a state topic, and
// a line of owners, each of which dies at some point. What runs inside is the
// real pipeline, the real gather and saved, the real position.

// model is the whole of it.
type model struct {
	rt     *rapid.T
	broker modelBroker
	source []sourceEntry
	state  map[string][]byte // the slot's state partition
	now    time.Time
	epoch  int16
	id     tp

	s       *slot
	p       *pipeline
	forward *producer // nil: nothing is forwarded
	fetchAt int64
	wire    []*item // sent, in order, not yet at the broker
	answers []modelAnswer
	flying  []stateRecord // the state write under way
	cover   []covered
	crashes int
	steps   map[string]int
}

type modelAnswer struct {
	it  *item
	a   produceAnswer
	err error
}

func newModel(rt *rapid.T, forward bool) *model {
	m := &model{rt: rt, state: map[string][]byte{}, now: modelNow, steps: map[string]int{}, id: tp{[16]byte{1}, 0}}
	m.broker.producers = map[int64]*modelProducer{}
	m.source = drawSource(rt, rapid.IntRange(1, 40).Draw(rt, "entries"), forward)
	m.s = &slot{e: &Engine{o: Options{Name: "m"}, limits: newLimits(nil), targetState: kstate.NewTable(kstate.TableOptions{})}, log: slog.New(slog.DiscardHandler), pipes: map[tp]*pipeline{}}
	m.s.e.stats.init()
	if forward {
		m.forward = &producer{txn: "m-fwd", id: 101}
	}
	m.begin(nil, nil)
	return m
}

// begin makes the next owner, with a new epoch. A clean pipeline keeps what it
// knows.
func (m *model) begin(ck *checkpoint, clean *pipeline) {
	m.epoch++
	s := m.s
	s.primary = &producer{txn: "m", id: 100, epoch: m.epoch}
	s.ours = map[int64]struct{}{100: {}}
	if m.forward != nil {
		m.forward = &producer{txn: "m-fwd", id: 101, epoch: m.epoch}
		s.ours[101] = struct{}{}
	}
	s.touched, s.state = map[*pipeline]struct{}{}, stateWriter{due: map[*pipeline]struct{}{}}
	m.wire, m.answers, m.flying, m.cover = nil, nil, nil, nil
	switch {
	case clean != nil:
		m.p = s.renew(clean)
	default:
		m.p = s.build(m.id, "t", "t", [16]byte{2}, 1<<20)
	}
	p := m.p
	p.provenance, p.now = m.provenance, func() time.Time { return m.now }
	switch {
	case clean != nil:
	case ck == nil: // as startOne does
		p.next, p.targetEnd = m.source[0].base, m.broker.end
		p.beginEpoch(s.primary)
		p.intents, p.unsavedTo, p.dirty = 1, 1, true
	default:
		m.recover(*ck)
	}
	if ck != nil || clean != nil {
		p.wantQuiet, p.dirty = true, true
		m.write()
		m.durable()
		if p.durable < p.unsavedTo {
			m.rt.Fatalf("the state of the new epoch was not written")
		}
	}
	m.fetchAt = p.next
}

func (m *model) provenance(_ tp, h kbatch.Header, _ evidence) (verdict, *producer, error) {
	switch h.ProducerID {
	case modelCopied:
		return verdictSkip, nil, nil
	case modelForward:
		return verdictCopy, m.forward, nil
	}
	return verdictCopy, m.s.primary, nil
}

// stored reads the checkpoint, intents and segments of the state topic.
func (m *model) stored() (*checkpoint, *slotRecord) {
	raw, ok := m.state[keyCheckpoint("m", m.id)]
	if !ok {
		return nil, nil
	}
	ck, err := decode[checkpoint](raw)
	if err != nil {
		m.rt.Fatal(err)
	}
	r := &slotRecord{ck: ck}
	for k, v := range m.state {
		if strings.HasPrefix(k, prefixIntent("m", m.id)) {
			rec, err := decode[intentRecord](v)
			if err != nil {
				m.rt.Fatal(err)
			}
			r.intents = append(r.intents, rec.Pieces...)
		}
	}
	for n := ck.FirstSeg; n < ck.NextSeg; n++ {
		if _, ok := m.state[keySegment("m", m.id, n)]; !ok {
			m.rt.Fatalf("segment %d of [%d, %d) of the offset map is not in the state topic", n, ck.FirstSeg, ck.NextSeg)
		}
	}
	return &ck, r
}

// recover does to the new pipeline what slot.recover does, with the fence.
func (m *model) recover(ck checkpoint) {
	p := m.p
	_, r := m.stored()
	p.next, p.last, p.targetEnd, p.started = ck.Position, ck.SourceEpoch, ck.TargetEnd, ck.Started
	recs, err := readMap(ck, "m", m.id, func(key string) ([]byte, bool) { v, ok := m.state[key]; return v, ok }, nil)
	if err != nil {
		m.rt.Fatal(err)
	}
	p.restoreMap("m", ck, recs.m)
	p.beginEpoch(m.s.primary)
	if !ck.Quiescent {
		at := m.broker.fence(m.s.primary)
		if m.forward != nil {
			at = m.broker.fence(m.forward)
		}
		f := fencedTail{marker: at}
		for _, b := range m.broker.log {
			if b.offset >= ck.TargetEnd && !b.control {
				f.batches = append(f.batches, tailBatch{producerID: b.h.ProducerID, epoch: b.h.ProducerEpoch, sequence: b.h.BaseSequence, length: b.h.LastOffsetDelta + 1, offset: b.offset})
			}
		}
		r.fenced = &f
		if err := m.s.readTail(m.rt.Context(), p, r); err != nil {
			m.rt.Fatal(err)
		}
		if p.halt != nil {
			m.rt.Fatalf("halted: %s: %s", p.halt.Code, p.halt.Reason)
		}
	}
	p.beginEpoch(m.s.primary)
	m.exact(p.next)
}

// exact checks that the target holds every record below the position, once, in
// order, and nothing else.
func (m *model) exact(position int64) {
	var want, got []string
	for _, e := range m.source {
		for _, o := range e.copied {
			if o < position {
				want = append(want, strconv.FormatInt(o, 10))
			}
		}
	}
	for _, b := range m.broker.log {
		got = append(got, b.records...)
	}
	if !slices.Equal(want, got) {
		m.rt.Fatalf("position %d: the target holds\n%v, want\n%v", position, got, want)
	}
}

// mapped checks the offset map against the target's log.
func (m *model) mapped() {
	at := map[int64]string{}
	for _, b := range m.broker.log {
		for i, v := range b.records {
			at[b.offset+int64(i)] = v
		}
	}
	for e := range m.p.extents.All() {
		for i := range e.Length {
			if v := at[e.Target+i]; v != strconv.FormatInt(e.Source+i, 10) {
				m.rt.Fatalf("the map says that target offset %d holds source offset %d, it holds %q", e.Target+i, e.Source+i, v)
			}
		}
	}
}

func (m *model) fetch() {
	n := rapid.IntRange(1, 6).Draw(m.rt, "batches")
	f := fetched{id: m.id, gen: m.p.gen, offset: m.fetchAt, highWater: m.source[len(m.source)-1].last + 1, logStart: 0}
	var from, to int64 = -1, -1
	for _, e := range m.source {
		if e.last < m.fetchAt || n == 0 {
			continue
		}
		if from < 0 {
			from = e.base
		}
		f.bytes = append(f.bytes, e.bytes...)
		m.fetchAt, to = e.last+1, e.last
		n--
	}
	for _, e := range m.source { // as TransactionIndex.collectAbortedTxns
		if e.abortsFrom >= 0 && e.last >= from && e.abortsFrom <= to {
			f.aborted = append(f.aborted, kmsg.FetchResponseTopicPartitionAbortedTransaction{ProducerID: modelTxn, FirstOffset: e.abortsFrom})
		}
	}
	m.p.feed(f)
}

// write starts a state write, as slot.writeState does.
func (m *model) write() {
	if m.cover != nil {
		return
	}
	recs, c := m.s.gather(m.p)
	m.flying, m.cover = recs, []covered{c}
}

// durable ends the state write.
func (m *model) durable() {
	for _, r := range m.flying {
		m.state[r.key] = r.value
	}
	cover := m.cover
	m.flying, m.cover = nil, nil
	for _, c := range cover {
		m.s.saved(c)
	}
}

// arrive lets the broker take the oldest batch on the wire.
func (m *model) arrive() {
	if len(m.wire) == 0 {
		return
	}
	it := m.wire[0]
	m.wire = m.wire[1:]
	refuse := func(e *kerr.Error) {
		m.answers = append(m.answers, modelAnswer{it: it, a: produceAnswer{code: e.Code, baseOffset: -1}})
	}
	switch rapid.SampledFrom([]string{"ok", "ok", "ok", "ok", "ok", "leader moved", "leader moved behind the append", "too few replicas", "lost", "lost behind the append"}).Draw(m.rt, "fate") {
	case "leader moved":
		refuse(kerr.NotLeaderForPartition)
	case "leader moved behind the append":
		m.broker.append(it.bytes) //nolint:errcheck // the answer is lost
		refuse(kerr.NotLeaderForPartition)
	case "too few replicas":
		refuse(kerr.NotEnoughReplicas)
	case "lost":
		m.answers = append(m.answers, modelAnswer{it: it, err: errors.New("connection reset")})
	case "lost behind the append":
		m.broker.append(it.bytes) //nolint:errcheck // the answer is lost
		m.answers = append(m.answers, modelAnswer{it: it, err: errors.New("connection reset")})
	default:
		base, kind := m.broker.append(it.bytes)
		if kind != nil {
			refuse(kind)
			return
		}
		m.answers = append(m.answers, modelAnswer{it: it, a: produceAnswer{baseOffset: base}})
	}
}

func (m *model) tell(n int) {
	for ; n > 0 && len(m.answers) > 0; n-- {
		i := rapid.IntRange(0, len(m.answers)-1).Draw(m.rt, "answer")
		a := m.answers[i]
		m.answers = slices.Delete(m.answers, i, i+1)
		m.p.answered(a.it, a.a, a.err)
	}
}

// step does one thing that can happen.
func (m *model) step() {
	p := m.p
	what := rapid.SampledFrom([]string{"fetch", "pump", "pump", "write", "durable", "durable", "send", "send", "arrive", "arrive", "arrive", "tell", "tell", "tick", "native", "idle", "park", "crash", "retake", "drain"}).Draw(m.rt, "step")
	m.steps[what]++
	switch what {
	case "fetch":
		m.fetch()
	case "pump":
		p.pump()
	case "write":
		if len(p.unsaved) > 0 || p.unsavedTo > p.durable || p.dirty || p.wantQuiet || p.segmentsDue() {
			m.write()
		}
	case "durable":
		m.durable()
	case "send":
		for it := p.sendable(); it != nil; it = p.sendable() {
			m.wire = append(m.wire, it)
		}
	case "arrive":
		m.arrive()
	case "tell":
		m.tell(1)
	case "tick":
		m.now = m.now.Add(time.Second)
	case "native":
		m.broker.native(int64(rapid.IntRange(1, 3).Draw(m.rt, "natives")))
	case "idle":
		if !p.quiescent && len(p.ready)+len(p.flying)+len(p.queue) == 0 {
			p.wantQuiet = true
		}
	case "park": // and go on: slot.park, slot.unpark
		p.rewind()
		m.fetchAt = p.next
		if p.spent {
			m.retake()
		}
	case "crash":
		m.crash()
	case "retake":
		m.retake()
	case "drain":
		m.drain()
	}
	if m.p.doubt != nil {
		m.retake()
	}
	if m.p.halt != nil {
		m.rt.Fatalf("halted: %s: %s", m.p.halt.Code, m.p.halt.Reason)
	}
}

// crash is the end of an owner: what is on the wire may or may not arrive, the
// state write that is under way too. Then the next one takes over.
func (m *model) crash() {
	if m.crashes++; m.crashes > 12 {
		return
	}
	for range rapid.IntRange(0, len(m.wire)).Draw(m.rt, "arrives") {
		m.broker.append(m.wire[0].bytes) //nolint:errcheck // nobody hears the answer
		m.wire = m.wire[1:]
	}
	if m.cover != nil && rapid.Bool().Draw(m.rt, "written") {
		m.durable()
	}
	ck, _ := m.stored()
	m.begin(ck, nil)
}

// retake is a doubt about something in the slot, such as a state write that
// failed: this pipeline waits for what flies, and keeps its position when
// nothing is in doubt.
func (m *model) retake() {
	if m.crashes++; m.crashes > 12 && m.p.doubt == nil && !m.p.spent {
		return
	}
	for len(m.wire) > 0 {
		m.arrive()
	}
	m.tell(len(m.answers))
	if rapid.Bool().Draw(m.rt, "written") {
		m.durable()
	}
	if m.clean(m.p) {
		m.begin(nil, m.p)
		return
	}
	ck, _ := m.stored()
	m.begin(ck, nil)
}

// clean is the condition of slot.acquire.
func (m *model) clean(p *pipeline) bool { return p.clean() }

// drain is a hand-over, as slot.drain does it.
func (m *model) drain() {
	if m.crashes++; m.crashes > 12 {
		return
	}
	p := m.p
	p.rewind()
	for len(m.wire) > 0 {
		m.arrive()
	}
	m.tell(len(m.answers))
	m.durable()
	if p.doubt == nil && p.quiet() {
		if !p.quiescent {
			p.wantQuiet, p.dirty = true, true
			m.write()
			m.durable()
		}
	}
	ck, _ := m.stored()
	m.begin(ck, nil)
}

// finish lets everything arrive that is left.
func (m *model) finish() {
	end := m.source[len(m.source)-1].last + 1
	for i := 0; m.p.frontier() < end || len(m.p.flying) > 0; i++ {
		if i > 2000 {
			m.rt.Fatalf("stands still at %d of %d: %s", m.p.frontier(), end, m.p.picture())
		}
		m.fetch()
		m.p.pump()
		m.write()
		m.durable()
		for it := m.p.sendable(); it != nil; it = m.p.sendable() {
			m.wire = append(m.wire, it)
		}
		for len(m.wire) > 0 {
			it := m.wire[0]
			m.wire = m.wire[1:]
			a := modelAnswer{it: it}
			base, kind := m.broker.append(it.bytes)
			a.a.baseOffset = base
			if kind != nil {
				a.a.code = kind.Code
			}
			m.answers = append(m.answers, a)
		}
		for len(m.answers) > 0 {
			a := m.answers[0]
			m.answers = m.answers[1:]
			m.p.answered(a.it, a.a, a.err)
		}
		m.now = m.now.Add(3 * time.Second)
		if m.p.doubt != nil {
			m.retake()
		}
		if m.p.halt != nil {
			m.rt.Fatalf("halted: %s: %s", m.p.halt.Code, m.p.halt.Reason)
		}
	}
	m.exact(end)
	m.mapped()
}

// picture is a pipeline in one line, for scripts and failures.
func (p *pipeline) picture() string {
	items := func(list []*item) string {
		var out []string
		for _, it := range list {
			var src []string
			for _, pc := range it.pieces {
				src = append(src, fmt.Sprintf("%d+%d", pc.SourceOffset, pc.Count))
			}
			out = append(out, fmt.Sprintf("%s@%d[%s]", it.producer.txn, it.seq, strings.Join(src, " ")))
		}
		return strings.Join(out, " ")
	}
	return fmt.Sprintf("frontier=%d next=%d ready={%s} flying={%s}", p.frontier(), p.next, items(p.ready), items(p.flying))
}

// checkModel runs the model in 3000 histories, or as many as -rapid.checks says.
func checkModel(t *testing.T, forward bool) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("3000"); err != nil {
			t.Fatal(err)
		}
		defer f.Value.Set(f.DefValue) //nolint:errcheck // it was set to it before
	}
	seen := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(rt, forward)
		for range rapid.IntRange(20, 200).Draw(rt, "steps") {
			m.step()
		}
		m.finish()
		for k, n := range m.steps {
			seen[k] += n
		}
	})
	if t.Logf("steps: %v", seen); !t.Failed() && len(seen) < 13 {
		t.Error("not every kind of step was taken")
	}
}

// Whatever happens between any two steps, the last durable checkpoint, the
// durable intents and the target's tail give exactly the next record that is
// not on the target: nothing is lost, nothing is doubled.
func TestModel_NothingIsLostOrDoubled(t *testing.T) { checkModel(t, false) }

// Segments of the offset map that a failed write took with it are written again
// by the next epoch: the checkpoint names them.
func TestModel_SegmentsSurviveAFailedWrite(t *testing.T) {
	s := &slot{e: &Engine{o: Options{Name: "m"}, limits: newLimits(nil)}, log: slog.New(slog.DiscardHandler), primary: &producer{txn: "m", id: 100, epoch: 1}, touched: map[*pipeline]struct{}{}}
	p := s.build(tp{[16]byte{1}, 0}, "t", "t", [16]byte{2}, 1<<20)
	p.beginEpoch(s.primary)
	at := int64(0)
	for i := range int64(3 * offsets.SegmentRuns) {
		p.record(offsets.Extent{Source: at + i%3, Target: i, Length: 1})
		at += i%3 + 1
	}
	s.gather(p) // and the write fails
	s.primary = &producer{txn: "m", id: 100, epoch: 2}
	p = s.renew(p)
	p.dirty = true
	recs, _ := s.gather(p)
	written := map[string]bool{}
	for _, r := range recs {
		written[r.key] = true
	}
	first, full := p.extents.Full()
	if len(full) == 0 {
		t.Fatal("no full segment was made")
	}
	for n := first; n < p.extents.Next(); n++ {
		if !written[keySegment("m", p.id, n)] {
			t.Errorf("segment %d of [%d, %d) is in no write that succeeded", n, first, p.extents.Next())
		}
	}
}

// The same with records that are forwarded by a second producer.
func TestModel_NothingIsLostOrDoubledWhenForwarding(t *testing.T) { checkModel(t, true) }
