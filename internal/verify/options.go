package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/offsets"
)

// Defaults of Options.
const (
	DefaultRangeLength = 1 << 20 // source offsets
	DefaultSampleRange = 1 << 14 // the same, of a sample
	DefaultKeep        = 20      // differences of a partition that are listed
	DefaultParallel    = 4
	DefaultFetchBytes  = 1 << 20
)

// Side is one of the two clusters.
type Side struct {
	Name      string
	ClusterID string
	Client    *kgo.Client // for metadata and for reading; not closed
	// Origin returns who wrote under a producer id, as far as it was registered when
	// Options.Routes was called last; nil for a client of the cluster.
	Origin func(producerID int64) (*Origin, error)
}

// Origin is the replicator that wrote a batch, and the clusters that the batch came
// through: the one that it is native to first.
type Origin struct {
	Replicator string
	Path       []string // cluster ids
}

// Options configure a comparison. Source, Target and Routes are required.
type Options struct {
	Replicator     string
	Source, Target Side
	// Routes returns the offset maps of all partitions of the replicator, from state
	// that was read to its present end, the registrations on both clusters among it.
	Routes func(context.Context) ([]offsets.Route, error)
	// Selected reports whether the replicator copies a source topic; nil: all whose
	// routes there are.
	Selected func(topic string) bool
	// Through says whether the replicator copies what came through other clusters,
	// too (forward: all).
	Through Forward

	Topics     func(topic string) bool // of the source; nil: all
	Partitions []int32                 // empty: all
	From, To   *Place                  // nil: the beginning, the end
	Last       int64                   // compare the last so many copied records of each partition; 0: all
	Sample     float64                 // part of the ranges that is compared, between 0 and 1; 0: all
	Seed       uint64                  // of the sample
	// Known returns the source records of which it was decided that they are not
	// copied, from the state that Routes has read last; nil: there are none.
	Known func() ([]KnownRange, error)
	// Whole returns the source offset of a partition below which the replicator copies
	// everything, whoever wrote it, from the same state; nil: nowhere.
	Whole func(offsets.Route) int64
	// Wait is how long to wait until what the source holds at the beginning is
	// replicated; 0: what is not counts as lag.
	Wait time.Duration

	RangeLength int64         // of the digests, in source offsets; 0: DefaultRangeLength
	Keep        int           // 0: DefaultKeep
	Parallel    int           // partitions at a time; 0: DefaultParallel
	FetchBytes  int32         // bytes asked for at once; 0: DefaultFetchBytes
	RateLimit   int64         // bytes a second, read from both sides together; 0: no limit
	Every       time.Duration // between two calls of Progress; 0: a second
	// Progress is called now and then, never twice at the same time; nil: nobody
	// wants to know.
	Progress func(Progress)
	Tool     string       // version of the program, for the report
	Logger   *slog.Logger // nil: discard
}

// Forward says what a replicator copies.
type Forward int

// The choices of Forward.
const (
	ForwardNative Forward = iota // what clients wrote on the source
	ForwardAll                   // that, and what came through other clusters but the target
)

// Place is an offset, or the first offset of records from a time on.
type Place struct {
	Offset int64
	Time   time.Time // zero: Offset counts
}

// KnownRange is a range of source offsets that is rightly not on the target.
type KnownRange struct {
	TopicID   [16]byte // of the source: a topic of the same name that came later is another
	Partition int32
	From, To  int64
	Run       string // that decided it
}

// Progress says how far a comparison is. Offsets are those of the source.
type Progress struct {
	Partitions, PartitionsDone int
	Offsets, OffsetsDone       int64
	Records                    int64 // compared
	Bytes                      int64 // read from both sides
	Differences                int64
	Elapsed                    time.Duration
	Left                       time.Duration // about; negative: not known yet
}

// validate lists every problem.
func (o Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Source.Client == nil || o.Target.Client == nil || o.Source.Origin == nil || o.Target.Origin == nil {
		bad("source and target need a client and their origins")
	}
	if o.Routes == nil {
		bad("routes are missing")
	}
	if o.Sample < 0 || o.Sample > 1 {
		bad("sample %v: want a part between 0 and 1", o.Sample)
	}
	if o.Last < 0 || o.RateLimit < 0 || o.RangeLength < 0 || o.Wait < 0 {
		bad("last, rate limit, range length and wait must not be negative")
	}
	if o.Last > 0 && (o.Sample > 0 || o.From != nil || o.To != nil) {
		bad("last does not go with a sample, from or to")
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	set := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	length := int64(DefaultRangeLength)
	if o.sampled() {
		length = DefaultSampleRange
	}
	set(&o.RangeLength, length)
	if o.Keep == 0 {
		o.Keep = DefaultKeep
	}
	if o.Parallel == 0 {
		o.Parallel = DefaultParallel
	}
	if o.FetchBytes == 0 {
		o.FetchBytes = DefaultFetchBytes
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) sampled() bool { return o.Sample > 0 && o.Sample < 1 }

// scope is the word of the report.
func (o Options) scope() string {
	switch {
	case o.Last > 0:
		return "last"
	case o.sampled():
		return "sample"
	case o.From != nil || o.To != nil || len(o.Partitions) > 0:
		return "part"
	default:
		return "full"
	}
}

// wants reports whether a source topic is to be compared.
func (o Options) wants(topic string) bool { return o.Topics == nil || o.Topics(topic) }

// selected reports whether a source topic that has no copy should have one.
func (o Options) selected(topic string) bool {
	return o.Selected != nil && o.Selected(topic) && o.wants(topic)
}
