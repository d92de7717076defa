package kprobe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/anabranch/anabranch/internal/dr"
)

// Topic is the topic in which rules are tried. It may be deleted at any time.
const Topic = dr.InternalPrefix + "_probe"

// Version is the version of the set of rules: a verdict of a lower one counts no
// more.
const Version = 1

// The rules, by the code of the finding that says that one is broken.
const (
	RulePlainBatches  = "target_plain_batch_refused"     // batches outside of transactions under a transactional id are taken
	RuleWrongSequence = "target_wrong_sequence_accepted" // a batch that leaves out sequences is refused
	RuleRetry         = "target_retry_appended"          // the same batch again is recognised
	RuleEpoch         = "target_epoch_not_raised"        // InitProducerId keeps the producer id and raises the epoch
	RuleMarker        = "target_marker_changed"          // an empty aborted transaction leaves a marker with that id and epoch
	RuleOlderEpoch    = "target_older_epoch_accepted"    // behind the marker an older epoch is refused
	RuleNewEpoch      = "target_new_epoch_refused"       // behind the marker the new epoch begins at sequence 0
	RuleHeaders       = "target_headers_changed"         // what is read back has the producer id, epoch and sequence that were written
)

// Failure is a rule that a cluster breaks.
type Failure struct {
	Rule    string `json:"rule"`
	Message string `json:"message"`
}

// Result is the verdict about a cluster.
type Result struct {
	Failed []Failure // rules of exactly-once; none: it holds
	Basic  []Failure // if any failed: what at-least-once needs too
}

// Delivery returns the best that can be promised on the cluster, "" where not
// even at-least-once can be.
func (r Result) Delivery() dr.Delivery {
	switch {
	case len(r.Failed) == 0:
		return dr.DeliveryExactlyOnce
	case len(r.Basic) == 0:
		return dr.DeliveryAtLeastOnce
	}
	return ""
}

// Findings tells what was found to somebody who wants the given delivery, and
// what to do, which is the same in each: none where exactly-once holds.
func (r Result) Findings(cluster string, wanted dr.Delivery) []dr.Finding {
	severity, fix := dr.SeverityError, "set `delivery: at_least_once` and raise `version` to copy nevertheless, or use another target"
	switch {
	case r.Delivery() == "":
		fix = "use another target: not even at-least-once can be had on this one"
	case wanted == dr.DeliveryAtLeastOnce:
		severity, fix = dr.SeverityWarning, "nothing, if records may arrive twice"
	}
	var out []dr.Finding
	for _, f := range slices.Concat(r.Failed, r.Basic) {
		if !slices.ContainsFunc(out, func(o dr.Finding) bool { return o.Code == f.Rule }) {
			out = append(out, dr.Finding{Code: f.Rule, Severity: severity, Subject: "cluster " + cluster, Message: f.Message, Fix: fix})
		}
	}
	return out
}

// Options say where to try. Dial and TransactionalID are required.
type Options struct {
	// Dial makes a client of the cluster; Run closes it.
	Dial func(...kgo.Opt) (*kgo.Client, error)
	// TransactionalID is how the ids of the producers begin. Random text
	// follows: two probes at a time must not fence each other.
	TransactionalID string
	// ReplicationFactor of the topic where it is missing; 0 means the smaller
	// of 3 and the number of brokers.
	ReplicationFactor int16
	// Timeout bounds all of it; 0 means 15 s.
	Timeout time.Duration
}

// pinned holds the versions of fencing requests where the engine holds them: see
// package replicate.
func pinned() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(kmsg.InitProducerID.Int16(), 4)
	v.SetMaxKeyVersion(kmsg.AddPartitionsToTxn.Int16(), 3)
	v.SetMaxKeyVersion(kmsg.EndTxn.Int16(), 4)
	return v
}

// errMoved means that the partition's leader changed meanwhile, so that what was
// seen may be the doing of the change.
var errMoved = errors.New("the leader changed meanwhile")

// Run tries the rules. It takes about 15 requests, and as many again where a rule
// is broken. An error means that there is no verdict.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	client, err := o.Dial(kgo.MaxVersions(pinned()))
	if err != nil {
		return Result{}, err
	}
	defer client.Close()
	at, err := prepare(ctx, client, o.ReplicationFactor)
	if err != nil {
		return Result{}, err
	}
	if err := warm(ctx, client, at); err != nil {
		return Result{}, err
	}
	var res Result
	// What fails once may be the doing of a fault, what fails twice is a rule.
	for range 2 {
		if res.Failed, err = try(ctx, client, o.TransactionalID, at, (*attempt).exactlyOnce); err != nil || len(res.Failed) == 0 {
			return res, err
		}
	}
	if res.Basic, err = try(ctx, client, o.TransactionalID, at, (*attempt).atLeastOnce); err != nil {
		return Result{}, err
	}
	now, err := find(ctx, client)
	if err != nil {
		return Result{}, err
	}
	if now != at {
		return Result{}, errMoved
	}
	return res, nil
}

// try runs one set of rules with a new producer.
func try(ctx context.Context, client *kgo.Client, prefix string, at place, rules func(*attempt, context.Context) error) ([]Failure, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	// No slot's id goes on with a letter, so that this one is nobody's.
	a := &attempt{client: client, at: at, txn: prefix + "p" + hex.EncodeToString(random[:])}
	if err := rules(a, ctx); err != nil {
		return nil, err
	}
	return a.failed, nil
}

// attempt is one run of a set of rules.
type attempt struct {
	client *kgo.Client
	at     place
	txn    string
	failed []Failure
	wrote  []written
}

// written is what must be read back.
type written struct {
	offset int64
	prod   producer
	seq    int32
	count  int32
}

type producer struct {
	id    int64
	epoch int16
}

// broken notes that a rule is broken, once.
func (a *attempt) broken(rule, format string, args ...any) {
	if slices.ContainsFunc(a.failed, func(f Failure) bool { return f.Rule == rule }) {
		return
	}
	a.failed = append(a.failed, Failure{Rule: rule, Message: fmt.Sprintf(format, args...)})
}

// exactlyOnce tries all that the engine rests on. Rules that need one that is
// broken are left out.
func (a *attempt) exactlyOnce(ctx context.Context) error {
	old, err := a.initProducer(ctx)
	if err != nil {
		return err
	}
	first, err := a.send(ctx, old, 0, 2)
	if err != nil {
		return err
	}
	if first.refused != "" {
		a.broken(RulePlainBatches, "a batch under a transactional id, outside of a transaction, is refused: %s", first.refused)
		return nil
	}
	if err := a.gapRefused(ctx, old, 9, "behind sequence 1"); err != nil {
		return err
	}
	again, err := a.send(ctx, old, 0, 2)
	if err != nil {
		return err
	}
	if !again.twin && (again.refused != "" || again.offset != first.offset) {
		a.broken(RuleRetry, "a batch that was appended at offset %d and is sent again %s", first.offset, again.outcome())
	}
	next, err := a.initProducer(ctx)
	if err != nil {
		return err
	}
	if next.id != old.id || next.epoch <= old.epoch {
		a.broken(RuleEpoch, "InitProducerId of the same transactional id gave producer id %d epoch %d, then %d epoch %d", old.id, old.epoch, next.id, next.epoch)
		return a.readBack(ctx)
	}
	if err := a.fence(ctx, next, first.offset); err != nil {
		return err
	}
	if err := a.olderRefused(ctx, old, next); err != nil {
		return err
	}
	if err := a.gapRefused(ctx, next, 5, "as the first batch of an epoch"); err != nil {
		return err
	}
	if err := a.beginsAtZero(ctx, next, "of a new epoch, behind its marker,"); err != nil {
		return err
	}
	return a.readBack(ctx)
}

// atLeastOnce tries what remains to be needed when each take-over gets a producer
// that is new, and waits until the former owner's lease is over.
func (a *attempt) atLeastOnce(ctx context.Context) error {
	prod, err := a.initProducer(ctx)
	if err != nil {
		return err
	}
	if err := a.fence(ctx, prod, 0); err != nil {
		return err
	}
	if err := a.beginsAtZero(ctx, prod, "of a new producer, behind its marker,"); err != nil {
		return err
	}
	if len(a.failed) == 0 {
		if err := a.gapRefused(ctx, prod, 9, "behind sequence 2"); err != nil {
			return err
		}
	}
	return a.readBack(ctx)
}

// gapRefused tries a batch whose sequence is not the next one.
func (a *attempt) gapRefused(ctx context.Context, prod producer, seq int32, where string) error {
	r, err := a.send(ctx, prod, seq, 1)
	if err == nil && r.refused == "" {
		a.wrote = a.wrote[:len(a.wrote)-1]
		a.broken(RuleWrongSequence, "a batch with sequence %d %s is taken: a batch that was lost before it would leave a gap", seq, where)
	}
	return err
}

// olderRefused tries batches of a producer that was replaced: the one that it
// would send next, and a first one.
func (a *attempt) olderRefused(ctx context.Context, old, next producer) error {
	for _, seq := range []int32{2, 0} {
		r, err := a.send(ctx, old, seq, 1)
		if err != nil {
			return err
		}
		if r.refused == "" { // where it lies is of no interest
			a.wrote = a.wrote[:len(a.wrote)-1]
		}
		if r.refused == "" || r.sequence {
			a.broken(RuleOlderEpoch, "behind the marker of epoch %d a batch of epoch %d with sequence %d %s: a worker that was replaced can still write", next.epoch, old.epoch, seq, r.outcome())
			return nil
		}
	}
	return nil
}

// beginsAtZero tries the first two batches of an epoch.
func (a *attempt) beginsAtZero(ctx context.Context, prod producer, what string) error {
	r, err := a.send(ctx, prod, 0, 2)
	if err != nil {
		return err
	}
	if r.refused != "" {
		a.broken(RuleNewEpoch, "the batch with sequence 0 %s is refused: %s", what, r.refused)
		return nil
	}
	if r, err = a.send(ctx, prod, 2, 1); err == nil && r.refused != "" {
		a.broken(RuleNewEpoch, "the second batch %s is refused: %s", what, r.refused)
	}
	return err
}
