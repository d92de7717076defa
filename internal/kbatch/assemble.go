package kbatch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/anabranch/anabranch/internal/seeded"
)

const (
	defaultTargetBytes = 1 << 20
	defaultMaxBytes    = 1048588 // Kafka's default of max.message.bytes

	// maxExpansion bounds how much larger than TargetBytes the records of a
	// compressed output may be, so that readers of the target need no more
	// memory than the sizes of the batches suggest.
	maxExpansion = 8
)

// Assembler makes dense batches of magic 2 out of entries that cannot be passed
// through or are better sent together: it coalesces small ones, rebuilds gaps,
// old magic, starts in the middle and LogAppendTime, splits what is larger than
// MaxBytes and compresses anew. The zero value is ready to use. An Assembler is
// not safe for concurrent use and cheap: large buffers are shared between all.
type Assembler struct {
	// Codec is the compression of the outputs. CodecSource keeps the inputs':
	// consecutive inputs with the same codec merge, another one starts a new
	// output, and zstd works at its fastest level: together they are far smaller
	// than they were apart, and nobody asked for more. A codec that was chosen
	// has its default level.
	Codec Codec
	// TargetBytes is the size near which a new output starts; 0 means 1 MiB.
	TargetBytes int
	// MaxBytes is never exceeded by an output, the 12 bytes of the log overhead
	// included: the target's max.message.bytes. 0 means Kafka's default, 1048588.
	MaxBytes int
	// MaxDecoded is how many bytes one entry may decompress to; 0 means 256 MiB.
	MaxDecoded int

	ratio [len(codecNames)]float64 // records to compressed bytes, as seen last
}

// Input is one entry to assemble.
type Input struct {
	Entry []byte // one whole entry of any magic, as Next returns it; it is not changed
	From  int64  // records below this source offset are dropped
}

// Piece stands for records with consecutive source offsets.
type Piece struct {
	SourceOffset int64 // of the first record
	Count        int32
}

// Output is a batch that can be patched and produced.
type Output struct {
	Batch        []byte  // dense, checksum right, without producer id; the caller's to keep or to Recycle
	Count        int32   // of records
	Pieces       []Piece // where the records came from, in order, merged where contiguous
	MaxTimestamp int64   // milliseconds, NoTimestamp if no record has one
	FirstSource  int64   // source offset of the first record
	LastSource   int64   // source offset of the last record
}

// Assemble returns the records of in, in order, as batches. Keys, values,
// headers and timestamps keep their bytes; records with LogAppendTime get that
// time as their own, and those of magic 0 get NoTimestamp. Inputs without
// records, or with none from From on, yield nothing.
//
// The checksum of every input is verified before it is opened. Errors are a
// *CorruptError for an input that cannot be trusted, a *TooLargeError for a
// record that does not fit alone, and ErrControl. The outputs made from all that
// came before are returned along with the error: they are complete and can be
// sent.
func (a *Assembler) Assemble(in []Input) ([]Output, error) {
	w := getWorkspace(a.MaxDecoded)
	defer w.release()
	r := run{a: a, w: w, max: a.MaxBytes, target: a.TargetBytes, last: -1}
	if r.max <= 0 {
		r.max = defaultMaxBytes
	}
	if r.target <= 0 {
		r.target = defaultTargetBytes
	}
	r.target = min(r.target, r.max)
	if a.Codec != CodecSource && !a.Codec.known() {
		return nil, fmt.Errorf("assemble: %s", a.Codec)
	}
	for i := range in {
		r.ahead += len(in[i].Entry)
	}
	for i := range in {
		err := r.input(in[i])
		if err != nil {
			if sealErr := r.flush(); sealErr != nil {
				err = sealErr
			}
			return r.outs, err
		}
		r.ahead -= len(in[i].Entry)
	}
	err := r.flush()
	return r.outs, err
}

// run is one call of Assemble.
type run struct {
	a           *Assembler
	w           *workspace
	target, max int
	ahead       int   // bytes of the inputs that are not taken yet
	last        int64 // source offset of the last record taken
	open        pending
	outs        []Output
}

// input takes all records of one input. It checks the whole input first, so
// that a bad one leaves no trace.
func (r *run) input(in Input) error {
	e, rest, magic, err := Next(in.Entry)
	if err != nil {
		return corruptEntry(err)
	}
	if len(rest) > 0 {
		return fmt.Errorf("assemble: %d bytes after the entry at offset %d", len(rest), entryOffset(e))
	}
	if magic < 2 {
		return r.legacy(e, in.From)
	}
	h, err := ParseHeader(e)
	if err != nil {
		return err
	}
	if h.IsControl() {
		return fmt.Errorf("assemble offset %d: %w", h.BaseOffset, ErrControl)
	}
	if h.LastOffset() < in.From {
		return nil
	}
	if err := verifyCRC(h, e); err != nil && !seeded.Bug("opened-unverified") {
		return err
	}
	records, err := r.w.openBatch(h, e)
	if err != nil {
		return err
	}
	if h.Count == 0 {
		return nil
	}
	if from := max(in.From, h.BaseOffset); from <= r.last {
		return corrupt(h.BaseOffset, "offset %d follows %d", from, r.last)
	}
	if err := r.begin(h.Codec(), len(records), h.Size()-headerSize); err != nil {
		return err
	}
	for range h.Count {
		f, rest, _ := nextFrame(records)
		records = rest
		offset := h.BaseOffset + f.offset
		if offset < in.From {
			continue
		}
		ts := h.BaseTimestamp + f.tsDelta
		if h.LogAppendTime() || h.Codec() != CodecNone && seeded.Bug("compressed-restamped") {
			ts = h.MaxTimestamp
		}
		if err := r.add(offset, ts, f); err != nil {
			return err
		}
	}
	return nil
}

// openBatch returns the checked records of a batch of magic 2 whose checksum
// was found right.
func (w *workspace) openBatch(h Header, batch []byte) ([]byte, error) {
	records := batch[headerSize:h.Size()]
	if h.Count > 0 || len(records) > 0 {
		var err error
		if records, err = w.decompress(h.Codec(), records); err != nil {
			return nil, corrupt(h.BaseOffset, "decompress %s: %v", h.Codec(), err)
		}
	}
	if err := checkFrames(h, records); err != nil {
		return nil, err
	}
	return records, nil
}

// legacy takes the records of an entry of magic 0 or 1.
func (r *run) legacy(e []byte, from int64) error {
	if entryOffset(e) < from {
		return nil
	}
	set, err := openLegacy(e, r.w)
	if err != nil {
		return err
	}
	if first := max(from, set.first); first <= r.last {
		return corrupt(set.last, "offset %d follows %d", first, r.last)
	}
	if err := r.begin(set.codec, len(set.messages), len(e)); err != nil {
		return err
	}
	return set.each(func(m message) error {
		if m.offset < from {
			return nil
		}
		b := appendLengthPrefixed(r.w.body[:0], m.key)
		b = appendLengthPrefixed(b, m.value)
		b = append(b, 0) // no headers
		r.w.body = b
		return r.add(m.offset, m.timestamp, frame{body: r.w.body})
	})
}

// begin makes sure that the open output has the codec that an input with the
// given codec needs.
func (r *run) begin(c Codec, records, compressed int) error {
	if c != CodecNone && compressed > 0 && r.a.ratio[c] == 0 {
		r.a.ratio[c] = float64(records) / float64(compressed)
	}
	if r.a.Codec != CodecSource {
		c = r.a.Codec
	}
	if r.open.count > 0 && r.open.codec != c {
		if err := r.flush(); err != nil {
			return err
		}
	}
	r.open.codec = c
	return nil
}

// add puts one record behind the others.
func (r *run) add(offset, ts int64, f frame) error {
	p := &r.open
	if seeded.Bug("headers-dropped") {
		_, rest, _ := lengthPrefixed(f.body)
		_, rest, _ = lengthPrefixed(rest)
		n := len(f.body) - len(rest)
		f.body = append(f.body[:n:n], 0)
	}
	if p.count > 0 {
		f.tsDelta, f.offset = ts-p.base, int64(p.count)
		if len(p.buf)+frameSize(f.tsDelta, f.offset, len(f.body)) > p.limit {
			codec := p.codec
			if err := r.flush(); err != nil {
				return err
			}
			p.codec = codec
		}
	}
	if p.count == 0 {
		size := headerSize + frameSize(0, 0, len(f.body))
		if p.codec == CodecNone && size > r.max {
			return &TooLargeError{Offset: offset, Size: size, Max: r.max}
		}
		r.start(p, size)
		f.tsDelta, f.offset = 0, 0
	}
	p.add(offset, ts, f)
	r.last = offset
	return nil
}

// start gives an empty output its memory and its limit. size is that of the
// output if it stays with one record.
func (r *run) start(p *pending, size int) {
	p.limit = r.target
	if p.codec == CodecNone {
		room := min(r.target, r.ahead+headerSize)
		p.buf = takeBuffer(max(size, room))[:headerSize]
		return
	}
	ratio := min(max(r.a.ratio[p.codec], 1), maxExpansion)
	p.limit = headerSize + int(float64(r.target-headerSize)*ratio*0.95)
	p.buf = r.w.records[:0]
	p.buf = append(p.buf, make([]byte, headerSize)...)
}

// flush closes the open output.
func (r *run) flush() error {
	p := r.open
	r.open = pending{}
	if p.count == 0 {
		return nil
	}
	if p.codec != CodecNone {
		r.w.records = p.buf // keeps what it grew to
	}
	return r.seal(p)
}

// seal turns collected records into an output, or into several if they are too
// large together.
func (r *run) seal(p pending) error {
	batch := p.buf
	if p.codec != CodecNone {
		var err error
		if r.w.output, err = r.w.compress(p.codec, r.a.effort(), append(r.w.output[:0], p.buf[:headerSize]...), p.buf[headerSize:]); err != nil {
			return err
		}
		r.learn(p.codec, len(p.buf), len(r.w.output))
		if len(r.w.output) > r.max {
			return r.split(p, len(r.w.output))
		}
		batch = append(takeBuffer(len(r.w.output)), r.w.output...)
	}
	p.putHeader(batch)
	r.outs = append(r.outs, Output{
		Batch:        batch,
		Count:        p.count,
		Pieces:       p.pieces,
		MaxTimestamp: p.max,
		FirstSource:  p.pieces[0].SourceOffset,
		LastSource:   p.last,
	})
	return nil
}

// effort is what may be spent on outputs.
func (a *Assembler) effort() effort {
	if a.Codec == CodecSource {
		return effortLeast
	}
	return effortUsual
}

// learn remembers how well records compress.
func (r *run) learn(c Codec, records, compressed int) {
	seen := float64(records) / float64(compressed)
	if old := r.a.ratio[c]; old > 0 {
		seen = (3*old + seen) / 4
	}
	r.a.ratio[c] = seen
}

// split seals both halves of records that are larger than MaxBytes when
// compressed together.
func (r *run) split(p pending, size int) error {
	if p.count == 1 {
		return &TooLargeError{Offset: p.last, Size: size, Max: r.max}
	}
	left := pending{codec: p.codec, buf: make([]byte, headerSize, len(p.buf)/2+headerSize)}
	right := pending{codec: p.codec, buf: make([]byte, headerSize, len(p.buf)/2+headerSize)}
	records, i := p.buf[headerSize:], int32(0)
	for _, piece := range p.pieces {
		for n := range int64(piece.Count) {
			f, rest, _ := nextFrame(records)
			half := &right
			if i == 0 || (i < p.count-1 && len(rest) >= len(p.buf)/2) {
				half = &left
			}
			ts := p.base + f.tsDelta
			if half.count == 0 {
				half.base = ts
			}
			f.tsDelta, f.offset = ts-half.base, int64(half.count)
			half.add(piece.SourceOffset+n, ts, f)
			records, i = rest, i+1
		}
	}
	if err := r.seal(left); err != nil {
		return err
	}
	return r.seal(right)
}

// pending is an output that still takes records.
type pending struct {
	codec     Codec
	buf       []byte // room for the header, then framed records
	limit     int    // of buf
	count     int32
	base, max int64 // timestamps
	last      int64 // source offset
	pieces    []Piece
}

// add appends a record whose deltas are right already.
func (p *pending) add(offset, ts int64, f frame) {
	if p.count == 0 {
		p.base, p.max = ts, ts
	}
	p.buf = appendFrame(p.buf, f)
	p.count++
	p.max = max(p.max, ts)
	if p.count > 1 && (offset == p.last+1 || seeded.Bug("gap-closed")) {
		p.pieces[len(p.pieces)-1].Count++
	} else {
		p.pieces = append(p.pieces, Piece{SourceOffset: offset, Count: 1})
	}
	p.last = offset
}

// putHeader fills in the header of a batch that holds the records.
func (p *pending) putHeader(batch []byte) {
	putHeader(batch, Header{
		LeaderEpoch:     -1,
		Attributes:      int16(p.codec),
		LastOffsetDelta: p.count - 1,
		BaseTimestamp:   p.base,
		MaxTimestamp:    p.max,
		ProducerID:      NoStamp.ProducerID,
		ProducerEpoch:   NoStamp.Epoch,
		BaseSequence:    NoStamp.BaseSequence,
		Count:           p.count,
	})
}

// putHeader writes h to the begin of batch. Length, magic and checksum are
// those of the bytes.
func putHeader(batch []byte, h Header) {
	be := binary.BigEndian
	be.PutUint64(batch, uint64(h.BaseOffset))
	be.PutUint32(batch[posLength:], uint32(len(batch)-logOverhead))
	be.PutUint32(batch[posLeaderEpoch:], uint32(h.LeaderEpoch))
	batch[posMagic] = 2
	be.PutUint16(batch[posAttributes:], uint16(h.Attributes))
	be.PutUint32(batch[posLastDelta:], uint32(h.LastOffsetDelta))
	be.PutUint64(batch[posBaseTimestamp:], uint64(h.BaseTimestamp))
	be.PutUint64(batch[posMaxTimestamp:], uint64(h.MaxTimestamp))
	putStamp(batch, Stamp{ProducerID: h.ProducerID, Epoch: h.ProducerEpoch, BaseSequence: h.BaseSequence})
	be.PutUint32(batch[posCount:], uint32(h.Count))
	be.PutUint32(batch[posCRC:], crc32.Checksum(batch[posAttributes:], castagnoli))
}
