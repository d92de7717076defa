package runbook

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// Records of the journal. Their shapes are frozen by a test.

const entryVersion = 1

// entryKind says what an entry tells.
type entryKind string

const (
	entryStarted    entryKind = "started"     // the run: header and steps
	entryBegun      entryKind = "begun"       // a step is about to be done, with what it was planned to do
	entryGate       entryKind = "gate"        // a condition that is waited for, now and then
	entryDone       entryKind = "done"        // a step; Committed: it is the point of no return
	entryFailed     entryKind = "failed"      // a step
	entryApproved   entryKind = "approved"    // a step, by Who
	entryResumed    entryKind = "resumed"     // another process, or another attempt, goes on
	entryAborting   entryKind = "aborting"    // from here on steps are undone
	entryUndone     entryKind = "undone"      // a step
	entryUndoFailed entryKind = "undo_failed" // a step
	entryStopped    entryKind = "stopped"     // behind the point of no return
	entryFinished   entryKind = "finished"    //
	entryAborted    entryKind = "aborted"     // everything was undone
	entryClosed     entryKind = "closed"      // overtaken by a later decision
)

// entry is one record of the journal.
type entry struct {
	V         int             `json:"v"`
	Run       string          `json:"run"`
	Seq       int             `json:"seq"`
	AtMs      int64           `json:"at_ms"`
	Kind      entryKind       `json:"kind"`
	Who       string          `json:"who,omitempty"`
	Step      string          `json:"step,omitempty"`
	Plan      json.RawMessage `json:"plan,omitempty"`
	Gate      *dr.Gate        `json:"gate,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Committed bool            `json:"committed,omitempty"`
	Error     string          `json:"error,omitempty"`
	Header    *headerRecord   `json:"header,omitempty"`
	Report    *dr.RunReport   `json:"report,omitempty"`
}

// headerRecord is what a run was begun with.
type headerRecord struct {
	Pair       string          `json:"pair"`
	Kind       dr.RunKind      `json:"kind"`
	From       dr.ClusterRef   `json:"from"`
	To         dr.ClusterRef   `json:"to"`
	Home       dr.ClusterRef   `json:"home"`
	Epoch      int64           `json:"epoch"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	Steps      []stepRecord    `json:"steps"`
}

type stepRecord struct {
	ID              string `json:"id"`
	Title           string `json:"title"`
	PointOfNoReturn bool   `json:"point_of_no_return,omitempty"`
}

// lockRecord says who works on a pair.
type lockRecord struct {
	V         int    `json:"v"`
	Token     string `json:"token"` // of one Hold
	Who       string `json:"who"`
	PID       int    `json:"pid"`
	Run       string `json:"run,omitempty"`
	SinceMs   int64  `json:"since_ms"`
	RenewedMs int64  `json:"renewed_ms"`
}

func (l lockRecord) holder() dr.Holder {
	return dr.Holder{Who: l.Who, PID: l.PID, Run: l.Run, Since: time.UnixMilli(l.SinceMs).UTC(), RenewedAt: time.UnixMilli(l.RenewedMs).UTC()}
}

// askRecord is the wish of somebody who does not hold the lock. It is not
// fenced: the last one counts, and the holder acts upon it.
type askRecord struct {
	V    int    `json:"v"`
	By   string `json:"by"`
	AtMs int64  `json:"at_ms"`
}

// askAbort is the name of the wish to abort; others are names of steps that are
// approved.
const askAbort = "abort"

func keyLock(pair string) string           { return "c/lock/" + pair }
func prefixRuns(pair string) string        { return "c/run/" + pair + "/" }
func prefixRun(pair, run string) string    { return prefixRuns(pair) + run + "/" }
func prefixAsks(pair, run string) string   { return "c/ask/" + pair + "/" + run + "/" }
func keyAsk(pair, run, what string) string { return prefixAsks(pair, run) + what }

func keyEntry(pair, run string, seq int) string {
	return prefixRun(pair, run) + fmt.Sprintf("%06d", seq)
}

// newRunID returns an id that sorts by time, to the minute.
func newRunID(kind dr.RunKind, at time.Time) string {
	const letters = "bcdfghjkmnpqrstvwxz23456789"
	tail := make([]byte, 4)
	for i := range tail {
		tail[i] = letters[rand.IntN(len(letters))]
	}
	return at.UTC().Format("20060102-1504") + "-" + string(kind) + "-" + string(tail)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("bug: encode journal record: " + err.Error())
	}
	return b
}

// decodeEntry reads an entry and checks that it is what its key says.
func decodeEntry(pair, key string, value []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(value, &e); err != nil {
		return entry{}, fmt.Errorf("read journal entry %s: %w", key, err)
	}
	if e.V > entryVersion {
		return entry{}, fmt.Errorf("read journal entry %s: version %d is newer than %d", key, e.V, entryVersion)
	}
	run, seq, ok := strings.Cut(strings.TrimPrefix(key, prefixRuns(pair)), "/")
	if n, err := strconv.Atoi(seq); !ok || err != nil || run != e.Run || n != e.Seq {
		return entry{}, fmt.Errorf("read journal entry %s: it says run %q, entry %d", key, e.Run, e.Seq)
	}
	return e, nil
}

// entriesByRun decodes what a store holds, in the order of the entries.
func entriesByRun(pair string, values map[string][]byte) (map[string][]entry, error) {
	out := map[string][]entry{}
	for key, value := range values {
		if !strings.HasPrefix(key, prefixRuns(pair)) {
			continue
		}
		e, err := decodeEntry(pair, key, value)
		if err != nil {
			return nil, err
		}
		out[e.Run] = append(out[e.Run], e)
	}
	for _, es := range out {
		slices.SortFunc(es, func(a, b entry) int { return a.Seq - b.Seq })
	}
	return out, nil
}
