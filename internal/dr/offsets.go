package dr

// OffsetFit says how good the translation of a position is.
type OffsetFit string

// The fits of a translation.
const (
	OffsetExact   OffsetFit = "exact"   // the next record there is the next record here
	OffsetAhead   OffsetFit = "ahead"   // the position lies behind what is replicated: it is the end of the copy
	OffsetEarlier OffsetFit = "earlier" // records may be read again, none is skipped
)

// OffsetQuery asks where a position lies on the other side of a replicator. A
// position is the offset of the next record to be read.
type OffsetQuery struct {
	Topic     string `json:"topic"` // name at the source
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Reverse   bool   `json:"reverse"` // from the target to the source
}

// OffsetAnswer is a position and its translation, or why there is none.
type OffsetAnswer struct {
	Topic       string         `json:"topic"`
	Partition   int32          `json:"partition"`
	Offset      int64          `json:"offset"`
	Reverse     bool           `json:"reverse"`
	TargetTopic string         `json:"target_topic,omitempty"`
	Translated  int64          `json:"translated"` // -1: there is none
	Fit         OffsetFit      `json:"fit,omitempty"`
	Reason      string         `json:"reason,omitempty"` // why it is not exact
	Error       *OffsetProblem `json:"error,omitempty"`
}

// OffsetProblem is why a position has no translation.
type OffsetProblem struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Answer returns an answer without a translation.
func (q OffsetQuery) Answer() OffsetAnswer {
	return OffsetAnswer{Topic: q.Topic, Partition: q.Partition, Offset: q.Offset, Reverse: q.Reverse, Translated: -1}
}

// MaxOffsetQueries is how many positions one request may hold.
const MaxOffsetQueries = 2000
