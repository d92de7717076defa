package replicate

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kbatch"
)

var update = flag.Bool("update", false, "rewrite the expectations of testdata/pipeline")

// TestPipeline_Scripts runs testdata/pipeline: commands, a line of dashes, and
// what the pipeline looks like after each of them.
func TestPipeline_Scripts(t *testing.T) {
	files, err := filepath.Glob("testdata/pipeline/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { runScript(t, f) })
	}
}

func runScript(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s := &script{t: t}
	for block := range strings.SplitSeq(strings.TrimSpace(string(raw)), "\n\n") {
		commands, _, ok := strings.Cut(block, "\n----")
		if !ok && !strings.HasPrefix(block, "#") {
			t.Fatalf("%s: a block without a line of dashes: %q", file, block)
		}
		out.WriteString(commands)
		if ok {
			out.WriteString("\n----\n")
			for c := range strings.SplitSeq(commands, "\n") {
				if !strings.HasPrefix(c, "#") {
					out.WriteString(s.run(c))
				}
			}
		}
		out.WriteString("\n\n")
	}
	got := strings.TrimSpace(out.String())
	// Blocks are separated by one empty line, however many a block ends with.
	got = strings.ReplaceAll(got, "\n\n\n", "\n\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(string(raw), got); d != "" {
		t.Errorf("-expected +got, rewrite with -update\n%s", d)
	}
}

// script is the state of one file.
type script struct {
	t       *testing.T
	s       *slot
	p       *pipeline
	forward *producer
	verdict map[int64]verdict
	now     time.Time
	sent    []*item
	cover   []covered
	out     strings.Builder
}

func (s *script) printf(format string, a ...any) { fmt.Fprintf(&s.out, format+"\n", a...) }

// run executes one command and returns what it printed.
func (s *script) run(line string) string {
	s.out.Reset()
	f := strings.Fields(line)
	args := map[string]string{}
	for _, a := range f[1:] {
		k, v, _ := strings.Cut(a, "=")
		args[k] = v
	}
	if f[0] != "new" && s.p == nil {
		s.t.Fatalf("%q before new", line)
	}
	switch f[0] {
	case "new":
		s.new(args)
	case "fetch":
		s.fetch(f[1:])
	case "pump":
		if n := s.p.pump(); n > 0 {
			s.printf("released: %v", n > 0)
		}
	case "write":
		recs, c := s.s.gather(s.p)
		s.cover = append(s.cover, c)
		for _, r := range recs {
			s.printf("write %s", showState(s.t, r))
		}
	case "durable":
		for _, c := range s.cover {
			s.s.saved(c)
		}
		s.cover = nil
	case "send":
		for it := s.p.sendable(); it != nil; it = s.p.sendable() {
			h, err := kbatch.ParseHeader(it.bytes)
			if err != nil {
				s.t.Fatal(err)
			}
			s.sent = append(s.sent, it)
			s.printf("sent pid=%d epoch=%d sequence=%d records=%d crc=%v", h.ProducerID, h.ProducerEpoch, h.BaseSequence, h.Count, kbatch.VerifyCRC(it.bytes) == nil)
		}
	case "ack", "error", "conn-error":
		s.answer(f[0], args)
	case "tick":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
	case "rewind":
		s.p.rewind()
	case "unblock":
		s.verdict[s.p.blocked] = verdictCopy
		s.p.blocked = -1
	case "look": // the source's log was asked: gone or there
		s.p.lookedAt, s.p.lookedGone = s.p.blockedAt, f[1] == "gone"
		s.p.blocked, s.p.suspect = -1, -1
	case "map":
		for e := range s.p.extents.All() {
			s.printf("source %d..%d at target %d..%d", e.Source, e.Source+e.Length-1, e.Target, e.Target+e.Length-1)
		}
	default:
		s.t.Fatalf("unknown command %q", line)
	}
	s.state()
	return s.out.String()
}

// state prints the pipeline after a command.
func (s *script) state() {
	p := s.p
	s.printf("  %s", p.picture())
	if p.blocked >= 0 {
		if p.suspect >= 0 {
			s.printf("  blocked by producer id %d: is offset %d still in the log?", p.blocked, p.blockedAt)
		} else {
			s.printf("  blocked by producer id %d", p.blocked)
		}
	}
	if p.spent {
		s.printf("  spent: goes on in the next epoch")
	}
	if p.halt != nil {
		s.printf("  halt %s: %s", p.halt.Code, p.halt.Reason)
	}
	if p.doubt != nil {
		s.printf("  doubt: %v", p.doubt)
	}
}

func (s *script) number(args map[string]string, key string, or int64) int64 {
	v, ok := args[key]
	if !ok {
		return or
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		s.t.Fatalf("%s=%s: %v", key, v, err)
	}
	return n
}

// new makes a pipeline: at= source offset, max= max.message.bytes, seq= first
// sequence, skip=, foreign=, unknown=, forward= producer ids with a verdict.
func (s *script) new(args map[string]string) {
	s.now, s.sent, s.cover = time.UnixMilli(1_700_000_000_000), nil, nil
	s.verdict = map[int64]verdict{}
	for k, v := range map[string]verdict{"skip": verdictSkip, "foreign": verdictForeign, "unknown": verdictUnknown} {
		if _, ok := args[k]; ok {
			s.verdict[s.number(args, k, 0)] = v
		}
	}
	primary := &producer{txn: "p", id: 100, epoch: 3}
	s.forward = &producer{txn: "f", id: 101, epoch: 3}
	forwarded := s.number(args, "forward", -2)
	s.s = &slot{e: &Engine{o: Options{Name: "r"}}, log: slog.New(slog.DiscardHandler), primary: primary, touched: map[*pipeline]struct{}{}}
	s.s.e.stats.init()
	s.p = newPipeline(pipelineOptions{
		id: tp{[16]byte{1}, 0}, topic: "t", target: "t", targetID: [16]byte{2}, maxBytes: int(s.number(args, "max", 1048588)),
		codec: kbatch.CodecSource, expiry: 24 * time.Hour, bench: &workbench{}, now: func() time.Time { return s.now },
		provenance: func(_ tp, h kbatch.Header, have evidence) (verdict, *producer, error) {
			if h.ProducerID == forwarded {
				return verdictCopy, s.forward, nil
			}
			if v, ok := s.verdict[h.ProducerID]; ok && v != verdictCopy {
				if v == verdictForeign && have == evidenceGone {
					v = verdictSkip
				}
				return v, nil, nil
			}
			return verdictCopy, primary, nil
		},
	})
	s.p.next, s.p.targetEnd = s.number(args, "at", 0), 0
	s.p.beginEpoch(primary)
	l := s.p.lanes[primary]
	l.seq = s.number(args, "seq", 0)
	l.pieceSeq, l.ackedPieceSeq, l.ackedSeq = l.seq, l.seq, l.seq
	s.p.intents, s.p.unsavedTo, s.p.dirty = 1, 1, true
}

// fetch feeds batches: "0..4" is one with these offsets, "0,2,5" one with gaps.
// Behind slashes: pid=, txn, abort=, commit= (markers of a producer id), size=
// (bytes of a value), codec=, append (LogAppendTime), magic=, corrupt, age=
// (of the records), tail= (offsets without records behind). "aborted=7@3" says
// that producer id 7 aborted a transaction that began at offset 3.
func (s *script) fetch(list []string) {
	f := fetched{id: s.p.id, highWater: 1000}
	for _, a := range list {
		if v, ok := strings.CutPrefix(a, "aborted="); ok {
			id, first, _ := strings.Cut(v, "@")
			args := map[string]string{"id": id, "first": first}
			f.aborted = append(f.aborted, kmsg.FetchResponseTopicPartitionAbortedTransaction{ProducerID: s.number(args, "id", 0), FirstOffset: s.number(args, "first", 0)})
			continue
		}
		f.bytes = append(f.bytes, s.batch(a)...)
	}
	s.p.feed(f)
}

func (s *script) batch(spec string) []byte {
	parts := strings.Split(spec, "/")
	args := map[string]string{}
	for _, a := range parts[1:] {
		k, v, _ := strings.Cut(a, "=")
		args[k] = v
	}
	b := kbatch.Builder{LeaderEpoch: 1, TailGap: int32(s.number(args, "tail", 0))}
	var err error
	if c, ok := args["codec"]; ok {
		if b.Codec, err = kbatch.ParseCodec(c); err != nil {
			s.t.Fatal(err)
		}
	}
	at := s.now
	if v, ok := args["age"]; ok {
		d, err := time.ParseDuration(v)
		if err != nil {
			s.t.Fatal(err)
		}
		at = at.Add(-d)
	}
	var recs []kbatch.Record
	for _, o := range s.offsets(parts[0]) {
		v := []byte(strconv.FormatInt(o, 10))
		for i := range s.number(args, "size", 0) { // not to be compressed away
			v = append(v, byte((i*i+o)*7919>>5))
		}
		recs = append(recs, kbatch.Record{Offset: o, Timestamp: at.UnixMilli(), Value: v})
	}
	if id, ok := args["pid"]; ok {
		b.Stamp = &kbatch.Stamp{ProducerID: s.number(map[string]string{"pid": id}, "pid", 0), BaseSequence: int32(recs[0].Offset)}
	}
	if _, ok := args["txn"]; ok {
		b.Attributes |= kbatch.AttrTransactional
	}
	if _, ok := args["append"]; ok {
		b.Attributes, b.Time = b.Attributes|kbatch.AttrLogAppendTime, at.UnixMilli()
	}
	for name, typ := range map[string]kbatch.ControlType{"abort": kbatch.ControlAbort, "commit": kbatch.ControlCommit} {
		if _, ok := args[name]; ok {
			b.Stamp = &kbatch.Stamp{ProducerID: s.number(args, name, 0), BaseSequence: -1}
			return b.Control(recs[0].Offset, at.UnixMilli(), typ)
		}
	}
	if m, ok := args["magic"]; ok {
		return b.Legacy(int8(s.number(map[string]string{"magic": m}, "magic", 0)), recs...)
	}
	out := b.Build(recs...)
	if _, ok := args["corrupt"]; ok {
		out[len(out)-1] ^= 1
	}
	return out
}

func (s *script) offsets(spec string) (out []int64) {
	one := func(v string) int64 { return s.number(map[string]string{"o": v}, "o", 0) }
	if first, last, ok := strings.Cut(spec, ".."); ok {
		for o := one(first); o <= one(last); o++ {
			out = append(out, o)
		}
		return out
	}
	for v := range strings.SplitSeq(spec, ",") {
		out = append(out, one(v))
	}
	return out
}

// answer tells the answer of one batch: of the oldest that was sent and not
// answered, or of the nth= of them. at= is the base offset of an ack, code=
// Kafka's name of an error.
func (s *script) answer(kind string, args map[string]string) {
	n := int(s.number(args, "nth", 0))
	if n >= len(s.sent) {
		s.t.Fatalf("%s nth=%d: %d batches were sent", kind, n, len(s.sent))
	}
	it := s.sent[n]
	s.sent = slices.Delete(s.sent, n, n+1)
	var a produceAnswer
	var err error
	switch kind {
	case "ack":
		a.baseOffset = s.number(args, "at", s.p.targetEnd)
	case "conn-error":
		err = errors.New("connection reset")
	default:
		for code := int16(1); code < 200; code++ {
			if k, ok := errors.AsType[*kerr.Error](kerr.ErrorForCode(code)); ok && k.Message == args["code"] {
				a.code = code
			}
		}
		if a.code == 0 {
			s.t.Fatalf("no error %s", args["code"])
		}
	}
	if acked := s.p.answered(it, a, err); len(acked) > 0 {
		s.printf("acknowledged: %d", len(acked))
	}
}

// showState prints one record of the state topic.
func showState(t *testing.T, r stateRecord) string {
	switch r.key[0] {
	case 'i':
		rec, err := decode[intentRecord](r.value)
		if err != nil {
			t.Fatal(err)
		}
		var rows []string
		for _, x := range rec.Pieces {
			rows = append(rows, fmt.Sprintf("%s@%d=%d", x.Producer, x.Seq, x.Src))
		}
		return "intents " + strings.Join(rows, " ")
	case 'p':
		ck, err := decode[checkpoint](r.value)
		if err != nil {
			t.Fatal(err)
		}
		var lanes []string
		for _, l := range ck.Lanes {
			lanes = append(lanes, fmt.Sprintf("%s@%d(piece %d=%d)", l.Producer, l.Seq, l.PieceSeq, l.PieceSrc))
		}
		slices.Sort(lanes)
		halt := ""
		if ck.Halt != nil {
			halt = " halt=" + string(ck.Halt.Code)
		}
		return fmt.Sprintf("checkpoint position=%d target_end=%d quiescent=%v lanes=%s%s", ck.Position, ck.TargetEnd, ck.Quiescent, strings.Join(lanes, ","), halt)
	}
	return "segment"
}
