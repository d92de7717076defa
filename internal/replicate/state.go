package replicate

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/offsets"
)

// What is kept in the state topic. Records of a slot are written under the
// slot's producer into the slot's partition; control records (registry,
// configuration, decisions) live in partition 0 and are written by any worker.
// Every value carries a version; the shapes are frozen by a test.

const stateVersion = 1

// longMapVersion is of checkpoints with an offset map that is not kept as plain
// extents, and of its segments.
const longMapVersion = 2

// controlPartition holds the control records.
const controlPartition = 0

// ownerRecord says who owns a slot.
type ownerRecord struct {
	V       int    `json:"v"`
	Worker  string `json:"worker"`
	Epoch   int16  `json:"epoch"`
	Version int    `json:"version"`
	Digest  string `json:"digest"`
	Clean   bool   `json:"clean"` // handed over with nothing unanswered
	AtMs    int64  `json:"at_ms"`

	// What the slot has to do by order of a move, see judgeStop.
	RoleEpoch int64  `json:"role_epoch,omitempty"`
	Stopped   bool   `json:"stopped,omitempty"`
	Run       string `json:"run,omitempty"`
}

// laneRecord is where the sequence of one producer stands in one partition.
// Sequences are counted in 64 bits from the start of the epoch; the wire has
// the low 31.
type laneRecord struct {
	Producer string `json:"producer"` // its transactional id
	ID       int64  `json:"id"`
	Epoch    int16  `json:"epoch"`
	Seq      int64  `json:"seq"`       // of the next record behind Position
	PieceSeq int64  `json:"piece_seq"` // the linear piece that Seq lies in or continues:
	PieceSrc int64  `json:"piece_src"` // record PieceSeq has source offset PieceSrc
}

// checkpoint says how far a pipeline got, durably.
type checkpoint struct {
	V           int            `json:"v"`
	Topic       string         `json:"topic"`
	Target      string         `json:"target"`
	TargetID    string         `json:"target_id"` // hex
	Partition   int32          `json:"partition"`
	Position    int64          `json:"position"`       // next source offset; everything below is on the target or rightly skipped
	SourceEpoch int32          `json:"source_epoch"`   // leader epoch of the last record read, -1: unknown
	KnownEpoch  int32          `json:"known_epoch"`    // newest leader epoch of any record read: older leaders are not asked
	TargetEnd   int64          `json:"target_end"`     // everything of ours below this target offset is covered
	Rest        int64          `json:"rest,omitempty"` // records at or behind Position get target offsets from here on; 0: from TargetEnd on
	TargetEpoch int32          `json:"target_epoch"`   // leader epoch of the target when TargetEnd was acknowledged
	Quiescent   bool           `json:"quiescent"`      // nothing was sent behind this checkpoint
	Lanes       []laneRecord   `json:"lanes,omitempty"`
	Floor       offsets.Floor  `json:"floor"`
	Begin       *offsets.Begin `json:"begin,omitempty"` // of the offset map; nil: not known
	FirstSeg    int64          `json:"first_segment"`   // full segments of the offset map: [FirstSeg, NextSeg)
	NextSeg     int64          `json:"next_segment"`
	Extents     []byte         `json:"extents,omitempty"` // the newest, not yet full segment
	Runs        []byte         `json:"runs,omitempty"`    // the same from longMapVersion on, see offsets.Segment
	Halt        *haltRecord    `json:"halt,omitempty"`
	Retired     bool           `json:"retired,omitempty"`  // over by decision: only the offset map still speaks
	Resolved    string         `json:"resolved,omitempty"` // id of the last decision that was carried out
	HighWater   int64          `json:"high_water"`
	LogStart    int64          `json:"log_start"`
	CheckBelow  int64          `json:"check_below,omitempty"` // native source records below it may be on the target already: they halt
	SourceCuts  offsets.Cuts   `json:"source_cuts,omitempty"` // that were decided about
	TargetCuts  offsets.Cuts   `json:"target_cuts,omitempty"`
	Started     bool           `json:"started"` // something native was copied, or it was seen that nothing stands against it
	AtMs        int64          `json:"at_ms"`
}

// haltRecord is why a pipeline stands.
type haltRecord struct {
	Code   dr.HaltCode `json:"code"`
	Reason string      `json:"reason"`
	AtMs   int64       `json:"at_ms"`

	// Behind is the first source offset that was not copied as the source has
	// it now, where its log was truncated and the halt knows.
	Behind *int64 `json:"behind,omitempty"`
}

// intentRecord promises the source offsets of sequences before they are sent.
type intentRecord struct {
	V      int         `json:"v"`
	Pieces []intentRow `json:"pieces"`
}

// intentRow starts a linear piece: from Seq of this producer and epoch on,
// source offsets count from Src.
type intentRow struct {
	Producer string `json:"producer"`
	Epoch    int16  `json:"epoch"`
	Seq      int64  `json:"seq"`
	Src      int64  `json:"src"`
}

// registration says whose a producer id is. Registrations are never deleted.
type registration struct {
	V          int      `json:"v"`
	Replicator string   `json:"replicator"`
	Slot       int32    `json:"slot"`
	Path       []string `json:"path"` // cluster ids that the records came through: native cluster first, source last
	AtMs       int64    `json:"at_ms"`
}

// configRecord is the configuration that a replicator runs with.
type configRecord struct {
	V       int             `json:"v"`
	Version int             `json:"version"`
	Digest  string          `json:"digest"`
	Content json.RawMessage `json:"content,omitempty"`
	Worker  string          `json:"worker"`
	AtMs    int64           `json:"at_ms"`
}

// pauseRecord is the wish to pause.
type pauseRecord struct {
	V      int   `json:"v"`
	Paused bool  `json:"paused"`
	AtMs   int64 `json:"at_ms"`
}

// createdRecord closes the first start of a replicator: topics that are not
// among its start records are newer and are copied from their first record.
type createdRecord struct {
	V      int    `json:"v"`
	Source string `json:"source_cluster_id"`
	Slots  int32  `json:"slots"`
	AtMs   int64  `json:"at_ms"`

	// Rebuilt is part of the transactional ids since the source was replaced:
	// the ids before are registered with the path of the retired one.
	Rebuilt string `json:"rebuilt,omitempty"`
}

// startRecord is where the copying of a topic starts that existed when the
// replicator was created.
type startRecord struct {
	V       int     `json:"v"`
	Topic   string  `json:"topic"`
	Offsets []int64 `json:"offsets"` // by partition
	// Where the target had a topic of this name too: the ends of both sides
	// when the replicator was created. What lies below may be there already.
	SourceEnds []int64 `json:"source_ends,omitempty"`
	TargetEnds []int64 `json:"target_ends,omitempty"`
}

// resolveRecord is the decision of an operator about one partition.
type resolveRecord struct {
	V      int              `json:"v"`
	ID     string           `json:"id"`
	Action dr.ResolveAction `json:"action"`
	Offset int64            `json:"offset"` // start-at: source offset
	AtMs   int64            `json:"at_ms"`
	About  dr.HaltCode      `json:"about,omitempty"` // the halt that was decided about; for a whole topic the one that made it so
}

// workerRecord is what a worker says of itself every few seconds.
type workerRecord struct {
	V          int     `json:"v"`
	Slots      []int32 `json:"slots"`
	Version    int     `json:"version"`
	Latency    float64 `json:"latency_seconds"`
	Throughput float64 `json:"throughput"`
	BytesIn    float64 `json:"bytes_in"`

	Throttled dr.Throttled `json:"throttled,omitzero"`

	AtMs int64 `json:"at_ms"`
}

func keyOwner(rep string) string          { return "o/" + rep }
func keyRegistration(pid int64) string    { return "c/pid/" + strconv.FormatInt(pid, 10) }
func keyConfig(rep string) string         { return "c/config/" + rep }
func keyPause(rep string) string          { return "c/pause/" + rep }
func keyCreated(rep string) string        { return "c/created/" + rep }
func keyWorker(rep, worker string) string { return "c/worker/" + rep + "/" + worker }
func prefixWorker(rep string) string      { return "c/worker/" + rep + "/" }
func prefixCheckpoint(rep string) string  { return "p/" + rep + "/" }

func keyStart(rep string, topic [16]byte) string {
	return "c/start/" + rep + "/" + hex.EncodeToString(topic[:])
}

func keyTopic(rep string, topic [16]byte) string {
	return prefixTopic(rep) + hex.EncodeToString(topic[:])
}
func prefixTopic(rep string) string { return ledgerKind + "/" + rep + "/" }

// ledgerKind begins the keys of the ledgers of all replicators.
const ledgerKind = "c/topic"

func keyResolve(rep string, id tp) string    { return "c/resolve/" + rep + "/" + id.key() }
func keyCheckpoint(rep string, id tp) string { return prefixCheckpoint(rep) + id.key() }
func keyIntent(rep string, id tp, ring int) string {
	return prefixIntent(rep, id) + strconv.Itoa(ring)
}
func prefixIntent(rep string, id tp) string { return "i/" + rep + "/" + id.key() + "/" }
func keySegment(rep string, id tp, n int64) string {
	return "y/" + rep + "/" + id.key() + "/" + strconv.FormatInt(n%maxSegments, 10)
}

// keyPlainSegment is where the first version kept segments.
func keyPlainSegment(rep string, id tp, n int64) string {
	return "x/" + rep + "/" + id.key() + "/" + strconv.FormatInt(n%plainSegments, 10)
}

func (id tp) key() string {
	return hex.EncodeToString(id.topicID[:]) + "/" + strconv.Itoa(int(id.partition))
}

// parseKey reads "<topic id>/<partition>" back.
func parseKey(s string) (tp, error) {
	h, p, ok := strings.Cut(s, "/")
	if !ok {
		return tp{}, fmt.Errorf("key %q: no partition", s)
	}
	var id tp
	if len(h) != 32 {
		return tp{}, fmt.Errorf("key %q: bad topic id", s)
	}
	if _, err := hex.Decode(id.topicID[:], []byte(h)); err != nil {
		return tp{}, fmt.Errorf("key %q: bad topic id: %w", s, err)
	}
	n, err := strconv.ParseInt(p, 10, 32)
	if err != nil || n < 0 {
		return tp{}, fmt.Errorf("key %q: bad partition", s)
	}
	id.partition = int32(n)
	return id, nil
}

// slotOf assigns a source partition to a slot. The function is frozen by a
// test: another result would mean two owners for one partition.
func slotOf(id tp, slots int32) int32 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range id.topicID {
		h = (h ^ uint64(b)) * 1099511628211
	}
	for i := range 4 {
		h = (h ^ uint64(byte(id.partition>>(8*i)))) * 1099511628211
	}
	return int32((h ^ h>>32) % uint64(slots))
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("bug: encode state: " + err.Error()) // plain structs always encode
	}
	return b
}

func decode[T any](b []byte) (T, error) {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("decode %T: %w", v, err)
	}
	var ver struct {
		V int `json:"v"`
	}
	newest := stateVersion
	switch any(v).(type) {
	case checkpoint, segmentRecord:
		newest = longMapVersion
	}
	if err := json.Unmarshal(b, &ver); err != nil || ver.V < 1 || ver.V > newest {
		return v, fmt.Errorf("decode %T: version %d is not known here: a newer anabranch wrote it", v, ver.V)
	}
	return v, nil
}

// segmentRecord is one full segment of an offset map.
type segmentRecord struct {
	V       int    `json:"v"`
	N       int64  `json:"n"`
	Extents []byte `json:"extents,omitempty"` // of the first version
	Runs    []byte `json:"runs,omitempty"`    // see offsets.Segment
}

func encodeExtents(e []offsets.Extent) []byte {
	if len(e) == 0 {
		return nil
	}
	return offsets.Encode(e)
}

func hexID(id [16]byte) string { return hex.EncodeToString(id[:]) }

func parseID(s string) ([16]byte, error) {
	var id [16]byte
	if len(s) != 32 {
		return id, fmt.Errorf("topic id %q: want 32 hexadecimal digits", s)
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err
}

func decodeExtents(b []byte) ([]offsets.Extent, error) {
	if len(b) == 0 {
		return nil, nil
	}
	return offsets.Decode(b)
}

// pathKey names a path in a transactional id: the clusters behind the native
// one are told apart by a hash of their ids.
func pathKey(path []string) string {
	h := uint64(14695981039346656037)
	for _, c := range path {
		for _, b := range []byte(c + "\x00") {
			h = (h ^ uint64(b)) * 1099511628211
		}
	}
	return strconv.FormatUint(h, 36)
}
