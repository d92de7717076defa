package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kmodel"
	"github.com/anabranch/anabranch/internal/ktest"
)

// FaultKind is what goes wrong.
type FaultKind string

// Faults of workers.
const (
	// Crash silences the worker's network and starts a successor under the same
	// id, at once or after Gap. After For the old one, which still runs, has its
	// network back, and what it wrote last arrives. For 0: it never has.
	Crash FaultKind = "crash"
	// Stop stops the worker in order, and starts it again after For.
	Stop FaultKind = "stop"
	// Silence stops all packets between the worker and Side for For.
	Silence FaultKind = "silence"
	// Reset breaks all connections between the worker and Side.
	Reset FaultKind = "reset"
	// Pause pauses the replicator, and resumes it after For.
	Pause FaultKind = "pause"
	// Seal takes the replicator over as a failover does, from its target alone, and
	// releases it after For. With Gap the run is killed some times before, each time
	// within Gap.
	Seal FaultKind = "seal"
	// Twin starts another process under the worker's id, and stops it after For.
	Twin FaultKind = "twin"
	// Resolve decides about what is halted.
	Resolve FaultKind = "resolve"
	// Impostor uses the transactional ids of the replicator, as a client that
	// may: its epochs are taken.
	Impostor FaultKind = "impostor"
	// Foreign writes Records to a partition of the replicator's target under each
	// of its transactional ids, as a client of the target.
	Foreign FaultKind = "foreign"
	// Arrived is no fault: it fails unless everything that was acknowledged
	// before arrives within For, whatever else is wrong.
	Arrived FaultKind = "arrived"
)

// Faults of topics and logs.
const (
	// Create makes Topic on its clusters, and writes to it at once.
	Create FaultKind = "create"
	// Grow gives Topic more partitions and writes to them.
	Grow FaultKind = "grow"
	// Write writes Records more to a topic.
	Write FaultKind = "write"
	// Retain deletes the records below an offset, as retention does.
	Retain FaultKind = "retain"
	// Recreate deletes a topic and makes it again under its name.
	Recreate FaultKind = "recreate"
	// Compact runs the cleaner.
	Compact FaultKind = "compact"
	// Unclean elects a leader that lacks the last Records offsets, or more: a
	// whole batch is lost.
	Unclean FaultKind = "unclean"
	// Relapse elects the leader of before the last Unclean, with its own log:
	// what was written since is gone, what was cut is back.
	Relapse FaultKind = "relapse"
	// Poison puts a batch into a log that no broker would take from a client.
	Poison FaultKind = "poison"
	// Forget makes the brokers forget the producers of partitions.
	Forget FaultKind = "forget"
)

// Faults of brokers.
const (
	// Leaders moves the leaders of all partitions of Side.
	Leaders FaultKind = "leaders"
	// Outage kills a broker of Side and starts it again after For.
	Outage FaultKind = "outage"
	// Freeze pauses a broker of Side for For.
	Freeze FaultKind = "freeze"
	// Isolate cuts a broker of Side off from the other brokers for For, not from
	// clients: it goes on to believe that it leads.
	Isolate FaultKind = "isolate"
	// Leaderless takes the leader of partitions away for For: of all of a topic,
	// of one, or of some of every topic.
	Leaderless FaultKind = "leaderless"
	// Lag keeps partitions of Side from being replicated.
	Lag FaultKind = "lag"
	// Markers makes the markers of Side take up to Delay.
	Markers FaultKind = "markers"
	// Skip has the coordinator leave out the next Records markers of replicators.
	Skip FaultKind = "skip-markers"
	// Answers loses a share of the answers of Side to the workers, and delays
	// others.
	Answers FaultKind = "answers"
	// Cut loses the next Records answers to a kind of request.
	Cut FaultKind = "cut"
	// Deny withdraws a right to a topic from everybody and gives it back.
	Deny FaultKind = "deny"
	// Quota slows the clients of Side.
	Quota FaultKind = "quota"
	// DropGroup deletes the group of a replicator's workers under them.
	DropGroup FaultKind = "drop-group"
	// Exhaust uses up the epochs of the replicator's producers.
	Exhaust FaultKind = "exhaust"
)

// spec is what a kind of fault takes, and where it can be done.
type spec struct {
	args  string   // r: replicator, c: cluster, t: topic, o: topic that may be left out
	must  []string // options
	may   []string
	where []Harness
	many  bool // the cluster needs several brokers
}

func everywhere() []Harness { return []Harness{Fake, Model, Real} }
func modelOnly() []Harness  { return []Harness{Model} }

// kinds is the table of faults.
func kinds() map[FaultKind]spec {
	return map[FaultKind]spec{
		Crash:      {args: "r", must: []string{"worker"}, may: []string{"gap", "for"}, where: everywhere()},
		Stop:       {args: "r", must: []string{"worker", "for"}, where: everywhere()},
		Silence:    {args: "r", must: []string{"worker", "side", "for"}, where: everywhere()},
		Reset:      {args: "r", must: []string{"worker", "side"}, where: everywhere()},
		Pause:      {args: "r", must: []string{"for"}, where: everywhere()},
		Seal:       {args: "r", must: []string{"for"}, may: []string{"gap"}, where: everywhere()},
		Twin:       {args: "r", must: []string{"worker", "for"}, where: everywhere()},
		Resolve:    {args: "rt", must: []string{"action"}, may: []string{"partition", "at-offset"}, where: everywhere()},
		Impostor:   {args: "r", where: everywhere()},
		Foreign:    {args: "rt", must: []string{"partition", "records"}, where: everywhere()},
		Arrived:    {args: "rt", must: []string{"for"}, may: []string{"partition"}, where: everywhere()},
		Create:     {args: "t", must: []string{"partitions", "kind", "on"}, where: everywhere()},
		Grow:       {args: "t", must: []string{"partitions", "on"}, where: everywhere()},
		Write:      {args: "t", must: []string{"records", "on"}, where: everywhere()},
		Retain:     {args: "ct", must: []string{"below"}, may: []string{"partition"}, where: everywhere()},
		Recreate:   {args: "ct", where: everywhere()},
		Compact:    {args: "ct", where: modelOnly()},
		Unclean:    {args: "ct", must: []string{"partition", "records"}, where: modelOnly()},
		Relapse:    {args: "ct", must: []string{"partition"}, where: modelOnly(), many: true},
		Poison:     {args: "ct", must: []string{"partition", "with"}, where: []Harness{Model, Real}},
		Forget:     {args: "co", may: []string{"partition"}, where: modelOnly()},
		Leaders:    {args: "c", where: []Harness{Fake, Model}, many: true},
		Outage:     {args: "c", must: []string{"broker", "for"}, where: []Harness{Model, Real}},
		Freeze:     {args: "c", must: []string{"broker", "for"}, where: []Harness{Model, Real}},
		Isolate:    {args: "c", must: []string{"broker", "for"}, where: modelOnly(), many: true},
		Leaderless: {args: "co", must: []string{"for"}, may: []string{"partition"}, where: modelOnly()},
		Lag:        {args: "co", must: []string{"for"}, may: []string{"partition"}, where: modelOnly(), many: true},
		Markers:    {args: "c", must: []string{"delay", "for"}, where: modelOnly()},
		Skip:       {args: "c", must: []string{"records"}, where: modelOnly()},
		Answers:    {args: "c", must: []string{"for"}, may: []string{"lose", "slow"}, where: modelOnly()},
		Cut:        {args: "c", must: []string{"request", "records"}, where: modelOnly()},
		Deny:       {args: "ct", must: []string{"operation", "for"}, where: modelOnly()},
		Quota:      {args: "c", must: []string{"operation", "delay", "for"}, where: modelOnly()},
		DropGroup:  {args: "r", where: modelOnly()},
		Exhaust:    {args: "r", where: modelOnly()},
	}
}

// option is a field of a fault as NAME=VALUE.
type option struct {
	name string
	zero string // what get says of a field that was not given
	set  func(f *Fault, value string) error
	get  func(f Fault) string
}

// options are all of them, in the order in which they are printed.
func options() []option {
	return []option{
		amount("worker", func(f *Fault) *int { return &f.Worker }),
		text("side", func(f *Fault) *string { return &f.Side }, checkName),
		amount("broker", func(f *Fault) *int { return &f.Broker }),
		{"partition", "-1", func(f *Fault, v string) error {
			n, err := parseCount(v, maxPartitions)
			f.Partition = int32(n)
			return err
		}, func(f Fault) string { return strconv.Itoa(int(f.Partition)) }},
		{"partitions", "0", func(f *Fault, v string) error {
			n, err := parseCount(v, maxPartitions)
			f.Partitions = int32(n)
			return err
		}, func(f Fault) string { return strconv.Itoa(int(f.Partitions)) }},
		{"kind", "", func(f *Fault, v string) (err error) {
			f.Writes, err = parseTopicKind(v)
			return err
		}, func(f Fault) string { return topicKindName(f.Writes) }},
		{"on", "", func(f *Fault, v string) (err error) {
			f.On, err = parseNames(v)
			return err
		}, func(f Fault) string { return strings.Join(f.On, ",") }},
		amount("records", func(f *Fault) *int { return &f.Records }),
		{"below", "", parseOffset, printOffset},
		{"at-offset", "end", parseOffset, printOffset},
		duration("gap", func(f *Fault) *time.Duration { return &f.Gap }),
		duration("delay", func(f *Fault) *time.Duration { return &f.Delay }),
		share("lose", func(f *Fault) *float64 { return &f.Lose }),
		share("slow", func(f *Fault) *float64 { return &f.Slow }),
		text("request", func(f *Fault) *string { return &f.Request }, checkRequest),
		text("operation", func(f *Fault) *string { return &f.Operation }, checkName),
		text("with", func(f *Fault) *string { return (*string)(&f.Poison) }, checkPoison),
		{"action", "", func(f *Fault, v string) error {
			f.Action = dr.ResolveAction(v)
			if !slices.Contains([]dr.ResolveAction{dr.ResolveStartAt, dr.ResolveContinue, dr.ResolveRestart, dr.ResolveRecreate}, f.Action) {
				return fmt.Errorf("%q is no action", v)
			}
			return nil
		}, func(f Fault) string { return string(f.Action) }},
		duration("for", func(f *Fault) *time.Duration { return &f.For }),
	}
}

// Offsets that are words.
const (
	endOfLog = -1 // end: of the log
	copied   = -2 // copied: all below is on the targets
	matched  = -3 // matched: what match proposes
)

func parseOffset(f *Fault, v string) (err error) {
	switch v {
	case "end":
		f.Offset = endOfLog
	case "copied":
		f.Offset = copied
	case "matched":
		f.Offset = matched
	default:
		f.Offset, err = parseNumber(v)
	}
	return err
}

func printOffset(f Fault) string {
	switch f.Offset {
	case endOfLog:
		return "end"
	case copied:
		return "copied"
	case matched:
		return "matched"
	default:
		return strconv.FormatInt(f.Offset, 10)
	}
}

func amount(name string, field func(*Fault) *int) option {
	return option{name, "0", func(f *Fault, v string) (err error) {
		*field(f), err = parseCount(v, 1_000_000)
		return err
	}, func(f Fault) string { return strconv.Itoa(*field(&f)) }}
}

func text(name string, field func(*Fault) *string, check func(string) error) option {
	return option{name, "", func(f *Fault, v string) error {
		*field(f) = v
		return check(v)
	}, func(f Fault) string { return *field(&f) }}
}

func duration(name string, field func(*Fault) *time.Duration) option {
	return option{name, "0s", func(f *Fault, v string) (err error) {
		*field(f), err = parseDuration(v)
		return err
	}, func(f Fault) string { return field(&f).String() }}
}

func share(name string, field func(*Fault) *float64) option {
	return option{name, "0", func(f *Fault, v string) (err error) {
		*field(f), err = parseShare(v)
		return err
	}, func(f Fault) string { return formatShare(*field(&f)) }}
}

// newFault is a fault in which nothing is given.
func newFault(kind FaultKind) Fault { return Fault{Kind: kind, Partition: -1, Offset: endOfLog} }

// operations are what Deny can withdraw.
func operations() map[string]kmodel.Operation {
	return map[string]kmodel.Operation{"read": kmodel.Read, "write": kmodel.Write, "describe": kmodel.Describe}
}

// requestKey is the key of a kind of request.
func requestKey(name string) (int16, bool) {
	for key := range int16(kmsg.MaxKey + 1) {
		if kmsg.NameForKey(key) == name {
			return key, true
		}
	}
	return 0, false
}

func checkRequest(name string) error {
	if _, ok := requestKey(name); !ok {
		return fmt.Errorf("%q is no request of the protocol", name)
	}
	return nil
}

func checkPoison(v string) error {
	all := []kmodel.Poison{kmodel.PoisonCRC, kmodel.PoisonCount, kmodel.PoisonMagic, kmodel.PoisonOversize, kmodel.PoisonFuture, kmodel.PoisonNullKey}
	if !slices.Contains(all, kmodel.Poison(v)) {
		return fmt.Errorf("%q is not one of %v", v, all)
	}
	return nil
}

func topicKindName(k ktest.TopicKind) string {
	return [...]string{ktest.Plain: "plain", ktest.Compacted: "compacted", ktest.Transactional: "transactional"}[k]
}

func parseTopicKind(v string) (ktest.TopicKind, error) {
	for _, k := range []ktest.TopicKind{ktest.Plain, ktest.Compacted, ktest.Transactional} {
		if topicKindName(k) == v {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%q is not plain, compacted or transactional", v)
}
