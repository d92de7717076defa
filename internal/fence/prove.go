package fence

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Result is what became of one check.
type Result string

// The results of a check.
const (
	Passed   Result = "passed"
	Failed   Result = "failed"
	Unproven Result = "unproven" // it could not be looked at, and nobody asked for it
)

// The ids of the checks of an Evidence. They are stable.
const (
	CheckBrokers      = "brokers"      // every live broker answers
	CheckRules        = "rules"        // every broker shows the rules of the fence, and none that lets clients write
	CheckLeaders      = "leaders"      // brokers agree on the leaders, which answer at that epoch
	CheckCanary       = "canary"       // every broker refuses a write of an ordinary client
	CheckTransactions = "transactions" // last stable offset = high watermark = end of the log
	CheckNativeEnds   = "native_ends"  // nothing of a client's was written for a while
)

// Check is one thing that a proof looked at.
type Check struct {
	ID        string `json:"id"`
	Value     string `json:"value"`     // what was seen
	Threshold string `json:"threshold"` // what had to be seen
	Result    Result `json:"result"`
	Reason    string `json:"reason,omitempty"` // why it did not pass
}

// PartitionEnd is the end of the log of one partition.
type PartitionEnd struct {
	dr.TopicPartition
	End
}

// Evidence is what a proof saw, at one moment.
type Evidence struct {
	ClusterID string         `json:"cluster_id"`
	At        time.Time      `json:"at"`
	Checks    []Check        `json:"checks"`
	Ends      []PartitionEnd `json:"ends,omitempty"` // sorted; only of a proof that read them

	// ShownAt is when every broker was seen to show the rules of the fence, zero
	// where one did not, or there are none. Who may write then is bound by no rule,
	// and will not be.
	ShownAt time.Time `json:"shown_at,omitzero"`
	// Leaks are what clients wrote behind ShownAt, or while the proof looked.
	Leaks []Growth `json:"leaks,omitempty"`
	// CanaryWrites says that the canary's write was not refused.
	CanaryWrites bool `json:"canary_writes,omitempty"`
}

// Closed reports whether no check failed. What is unproven does not count here:
// it is for people to judge.
func (e Evidence) Closed() bool {
	return len(e.Checks) > 0 && !slices.ContainsFunc(e.Checks, func(c Check) bool { return c.Result == Failed })
}

// Proven reports whether every check passed.
func (e Evidence) Proven() bool {
	return len(e.Checks) > 0 && !slices.ContainsFunc(e.Checks, func(c Check) bool { return c.Result != Passed })
}

// proof collects checks.
type proof struct {
	Evidence
}

func (p *proof) note(id, value, threshold string, err error) bool {
	c := Check{ID: id, Value: value, Threshold: threshold, Result: Passed}
	if err != nil {
		c.Result, c.Reason = Failed, err.Error()
	}
	p.Checks = append(p.Checks, c)
	return err == nil
}

func (p *proof) leave(id, value, threshold, reason string) {
	p.Checks = append(p.Checks, Check{ID: id, Value: value, Threshold: threshold, Result: Unproven, Reason: reason})
}

// Prove looks whether the fence of some plans holds. It changes nothing and may be
// called as often as liked: what it says is true for its moment. What goes wrong
// with the cluster is a check that failed, for a broker that does not answer keeps
// the fence unproven; the error is one of ctx, or of a plan that is not this
// cluster's. It stops at the first group of checks that failed, and takes at least
// Quiet when it does not.
//
// The quiet time begins after every broker was seen to refuse. A broker decides
// when it takes a request up, and appends at once, so after it nothing is left
// that was taken before (KafkaApis.handleProduceRequest).
func (f *Fence) Prove(ctx context.Context, plans ...Plan) (Evidence, error) {
	for _, p := range plans {
		if err := f.mine(p); err != nil {
			return Evidence{}, err
		}
	}
	p := &proof{Evidence{ClusterID: f.o.ClusterID}}
	err := f.prove(ctx, p, plans)
	p.At = f.o.Now()
	if ctx.Err() != nil {
		return p.Evidence, context.Cause(ctx)
	}
	return p.Evidence, err
}

// patience bounds how long one group of questions waits for brokers: a proof that
// is late is worth less than one that is asked for again.
const patience = 5 * time.Second

func (f *Fence) prove(ctx context.Context, p *proof, plans []Plan) error {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	brokers, err := f.brokers(asking)
	var topics []string
	if err == nil {
		topics, err = f.topics(asking)
		topics = f.paired(topics)
	}
	value := fmt.Sprintf("%d brokers, %d topics", len(brokers), len(topics))
	if lost := f.givenUp(asking); len(lost) > 0 {
		value += fmt.Sprintf("; brokers %v are given up by the controller and not asked", lost)
	}
	if !p.note(CheckBrokers, value, "all known", err) {
		return nil
	}
	var shape layout
	var wg sync.WaitGroup
	var rulesErr, leadersErr error
	wg.Go(func() { rulesErr = f.shown(asking, brokers, topics, plans) })
	wg.Go(func() {
		if shape, leadersErr = agreed(asking, f.o.Client, brokers, topics); leadersErr == nil {
			_, leadersErr = shape.ends(asking, f.o.Client, readUncommitted)
		}
	})
	wg.Wait()
	ok := f.noteRules(p, brokers, plans, rulesErr)
	ok = p.note(CheckLeaders, fmt.Sprintf("%d partitions", len(shape.leaders)), "one leader epoch on every broker, and its leader answers", leadersErr) && ok
	if ok && slices.ContainsFunc(plans, func(x Plan) bool { return x.Method == MethodACL }) {
		p.ShownAt = f.o.Now()
	}
	if !ok || !f.noteCanary(ctx, p, brokers, shape) {
		return nil
	}
	return f.noteEnds(ctx, p, shape)
}

// givenUp returns the brokers that the controller has fenced, where brokers tell
// (KIP-1073, Kafka 4.0). They lead nothing any more: what one of them takes before
// it learns that is in no log that counts, and clients that asked for one
// acknowledgement only lose it, as they do whenever a broker is lost.
func (f *Fence) givenUp(ctx context.Context) []int32 {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeFencedBrokers = true
	resp, err := ask[*kmsg.DescribeClusterResponse](ctx, f.o.Client, req)
	if err != nil || resp.ErrorCode != 0 {
		return nil // it is for people to know; what live brokers say decides
	}
	var out []int32
	for _, b := range resp.Brokers {
		if b.IsFenced {
			out = append(out, b.NodeID)
		}
	}
	slices.Sort(out)
	return out
}

func (f *Fence) noteRules(p *proof, brokers []int32, plans []Plan, err error) bool {
	if !slices.ContainsFunc(plans, func(x Plan) bool { return x.Method == MethodACL }) {
		p.leave(CheckRules, "no rules", "the same on every broker", "the method of the fence is "+string(f.o.Method))
		return true
	}
	return p.note(CheckRules, fmt.Sprintf("%d brokers", len(brokers)), "every broker shows the fence, and no rule that lets clients write", err)
}

// shown asks every broker whether it shows the rules of the plans, and whether any
// client may write by the rules that it has: also to a topic that came later.
func (f *Fence) shown(ctx context.Context, brokers []int32, topics []string, plans []Plan) error {
	plans = slices.DeleteFunc(slices.Clone(plans), func(p Plan) bool { return p.Method != MethodACL })
	if len(plans) == 0 {
		return nil
	}
	var made, gone []dr.ACL
	guarded := false // whether a topic without rules was found to be open
	for _, p := range plans {
		made, gone = append(made, p.made()...), append(gone, p.Removed...)
		guarded = guarded || len(p.Bridges) > 0
		gone = append(gone, p.Bridges...)
	}
	wanted := aclSet{}.with(made, nil)
	return eachBroker(ctx, brokers, func(ctx context.Context, b int32) error {
		list, err := kclient.ACLs(ctx, f.o.Client.Broker(int(b)))
		if err != nil {
			return err
		}
		have := aclSet(list)
		if lacks := have.missing(made); len(lacks) > 0 {
			return fmt.Errorf("it does not show %d rules of the fence, such as %s", len(lacks), lacks[0])
		}
		if left := have.present(gone); len(left) > 0 && !wanted.has(left[0]) {
			return fmt.Errorf("it still shows %d rules that were removed, such as %s", len(left), left[0])
		}
		x := indexOf(have)
		for _, t := range topics {
			rules := x.at(t)
			if len(rules) == 0 && guarded {
				return fmt.Errorf("no rule is about topic %s, which is open to everybody then", t)
			}
			if open := openings(rules, f.o.Principals); len(open) > 0 {
				return fmt.Errorf("clients may write to topic %s by the rule %s", t, open[0])
			}
		}
		return nil
	})
}

// noteEnds looks at the ends of the logs twice.
func (f *Fence) noteEnds(ctx context.Context, p *proof, shape layout) error {
	const quiet = "the same twice, %v apart"
	if f.o.Ends == nil {
		p.leave(CheckNativeEnds, "not read", fmt.Sprintf(quiet, f.o.Quiet), "nobody tells the ends of the logs")
		return nil
	}
	before, err := f.o.Ends(ctx)
	if err == nil {
		err = pause(ctx, f.o.Quiet)
	}
	var after map[dr.TopicPartition]End
	if err == nil {
		after, err = f.o.Ends(ctx)
	}
	if err == nil {
		err = complete(after, shape)
	}
	if !p.note(CheckNativeEnds, fmt.Sprintf("%d partitions", len(after)), fmt.Sprintf(quiet, f.o.Quiet), firstOf(err, func() error { return still(before, after) })) {
		if err == nil {
			seen := make(map[dr.TopicPartition]int64, len(before))
			for id, e := range before {
				seen[id] = e.Native
			}
			p.Leaks = f.named(ctx, grown(seen, after))
		}
		return nil
	}
	for _, tp := range slices.SortedFunc(maps.Keys(after), dr.ComparePartitions) {
		p.Ends = append(p.Ends, PartitionEnd{tp, after[tp]})
	}
	open, err := openEnds(after)
	p.note(CheckTransactions, fmt.Sprintf("%d partitions with open transactions", open), "last stable offset = high watermark = end of the log", err)
	return nil
}

func firstOf(err error, fn func() error) error {
	if err != nil {
		return err
	}
	return fn()
}

// complete refuses ends that leave a partition out.
func complete(ends map[dr.TopicPartition]End, shape layout) error {
	for _, p := range slices.SortedFunc(maps.Keys(shape.leaders), dr.ComparePartitions) {
		if _, ok := ends[p]; !ok {
			return fmt.Errorf("the end of %s is not known", p)
		}
	}
	return nil
}

// still reports what grew between two looks.
func still(before, after map[dr.TopicPartition]End) error {
	var grown []string
	for _, p := range slices.SortedFunc(maps.Keys(after), dr.ComparePartitions) {
		if b, ok := before[p]; !ok || b.Native != after[p].Native {
			grown = append(grown, fmt.Sprintf("%s from %d to %d", p, b.Native, after[p].Native))
		}
	}
	if len(grown) == 0 {
		return nil
	}
	return fmt.Errorf("clients' records were added to %d partitions: %s", len(grown), strings.Join(grown[:min(3, len(grown))], ", "))
}

// openEnds counts the partitions in which something is not settled.
func openEnds(ends map[dr.TopicPartition]End) (open int, err error) {
	for _, p := range slices.SortedFunc(maps.Keys(ends), dr.ComparePartitions) {
		e := ends[p]
		if e.LastStable == e.HighWatermark && e.HighWatermark == e.LogEnd {
			continue
		}
		if open++; err == nil {
			err = fmt.Errorf("partition %s: last stable offset %d, high watermark %d, end of the log %d", p, e.LastStable, e.HighWatermark, e.LogEnd)
		}
	}
	return open, err
}
