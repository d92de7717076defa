package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ownIDs is the prefix of the replicators' transactional ids.
const ownIDs = "anabranch-"

// OpenTransaction is a transaction of a client that has not ended, in topics that are to
// be closed.
type OpenTransaction struct {
	// TransactionalID is "" for a transaction that hangs: it is open in a log, and
	// no coordinator knows of it.
	TransactionalID string              `json:"transactional_id,omitempty"`
	ProducerID      int64               `json:"producer_id"`
	ProducerEpoch   int16               `json:"producer_epoch"`
	State           string              `json:"state,omitempty"`         // of the coordinator: Ongoing, PrepareCommit, PrepareAbort, PrepareEpochFence
	Since           time.Time           `json:"since,omitzero"`          // when it began; of a hanging one, when it wrote last
	TimeoutMillis   int32               `json:"timeout_ms,omitempty"`    // after which the coordinator aborts it
	Partitions      []dr.TopicPartition `json:"partitions"`              // those that are to be closed, sorted
	Coordinators    []int32             `json:"coordinators,omitempty"`  // hanging: the coordinator epoch of each partition
	FirstOffsets    []int64             `json:"first_offsets,omitempty"` // hanging: where it begins in each partition
}

// Hanging reports whether no coordinator will ever end it.
func (o OpenTransaction) Hanging() bool { return o.TransactionalID == "" }

// openIn is what a leader remembers of a transaction in one partition.
type openIn struct {
	partition dr.TopicPartition
	state     kmsg.DescribeProducersResponseTopicPartitionActiveProducer
}

// OpenTransactions returns the transactions that are open in the topics that are
// to be closed, sorted: as their leaders and as all coordinators know them. One
// that has added a partition and written nothing there is among them. Those of the
// replicators are not. It needs READ on the topics and DESCRIBE on transactional
// ids; a broker that does not answer is an error.
func (f *Fence) OpenTransactions(ctx context.Context) ([]OpenTransaction, error) {
	brokers, err := f.brokers(ctx)
	if err != nil {
		return nil, err
	}
	topics, err := f.topics(ctx)
	if err != nil {
		return nil, err
	}
	topics = f.paired(topics)
	shape, err := agreed(ctx, f.o.Client, brokers, topics)
	if err != nil {
		return nil, f.surface("find the leaders of the topics", err)
	}
	producers, err := f.producers(ctx, shape)
	if err != nil {
		return nil, err
	}
	known, err := f.coordinated(ctx, brokers)
	if err != nil {
		return nil, err
	}
	described, err := f.describe(ctx, known)
	if err != nil {
		return nil, err
	}
	open := openOf(producers, known, described, shape)
	if !slices.ContainsFunc(open, OpenTransaction.Hanging) {
		return open, nil
	}
	if producers, err = f.producers(ctx, shape); err != nil {
		return nil, err
	}
	return lasting(open, producers), nil
}

// lasting leaves out what hangs no more at a second look: a transaction that ended
// between the questions to its leader and to its coordinator looks as if it hung.
func lasting(open []OpenTransaction, producers []openIn) []OpenTransaction {
	type place struct {
		producer  int64
		partition dr.TopicPartition
		first     int64
	}
	still := map[place]struct{}{}
	for _, in := range producers {
		still[place{in.state.ProducerID, in.partition, in.state.CurrentTxnStartOffset}] = struct{}{}
	}
	var out []OpenTransaction
	for _, o := range open {
		if !o.Hanging() {
			out = append(out, o)
			continue
		}
		left := o
		left.Partitions, left.Coordinators, left.FirstOffsets = nil, nil, nil
		for i, p := range o.Partitions {
			if _, ok := still[place{o.ProducerID, p, o.FirstOffsets[i]}]; ok {
				left.Partitions = append(left.Partitions, p)
				left.Coordinators = append(left.Coordinators, o.Coordinators[i])
				left.FirstOffsets = append(left.FirstOffsets, o.FirstOffsets[i])
			}
		}
		if len(left.Partitions) > 0 {
			out = append(out, left)
		}
	}
	return out
}

// openOf puts together what leaders and coordinators say.
func openOf(producers []openIn, known []kmsg.ListTransactionsResponseTransactionState, described map[string]kmsg.DescribeTransactionsResponseTransactionState, shape layout) []OpenTransaction {
	byID := map[string]*OpenTransaction{}
	owner := map[int64]string{} // of producer ids whose transaction a coordinator will end
	for _, k := range known {
		if strings.HasPrefix(k.TransactionalID, ownIDs) {
			owner[k.ProducerID] = k.TransactionalID
			continue
		}
		d, ok := described[k.TransactionalID]
		if !ok || !underWay(d.State) {
			continue
		}
		o := &OpenTransaction{TransactionalID: k.TransactionalID, ProducerID: d.ProducerID, ProducerEpoch: d.ProducerEpoch, State: d.State, TimeoutMillis: d.TimeoutMillis}
		if d.StartTimestamp > 0 {
			o.Since = time.UnixMilli(d.StartTimestamp).UTC()
		}
		for _, t := range d.Topics {
			for _, n := range t.Partitions {
				if p := (dr.TopicPartition{Topic: t.Topic, Partition: n}); shape.has(p) {
					o.Partitions = append(o.Partitions, p)
				}
			}
		}
		byID[k.TransactionalID], owner[d.ProducerID] = o, k.TransactionalID
	}
	var out []OpenTransaction
	hanging := map[int64]*OpenTransaction{}
	for _, in := range producers {
		if in.state.CurrentTxnStartOffset < 0 {
			continue
		}
		id, ok := owner[in.state.ProducerID]
		switch {
		case ok && byID[id] != nil:
			if o := byID[id]; !slices.Contains(o.Partitions, in.partition) {
				o.Partitions = append(o.Partitions, in.partition)
			}
		case ok: // the replicators' own
		default:
			o := hanging[in.state.ProducerID]
			if o == nil {
				o = &OpenTransaction{ProducerID: in.state.ProducerID, ProducerEpoch: int16(in.state.ProducerEpoch)}
				hanging[in.state.ProducerID] = o
			}
			if at := time.UnixMilli(in.state.LastTimestamp).UTC(); at.After(o.Since) {
				o.Since = at
			}
			o.Partitions = append(o.Partitions, in.partition)
			o.Coordinators = append(o.Coordinators, in.state.CoordinatorEpoch)
			o.FirstOffsets = append(o.FirstOffsets, in.state.CurrentTxnStartOffset)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		if o := byID[id]; len(o.Partitions) > 0 {
			slices.SortFunc(o.Partitions, dr.ComparePartitions)
			out = append(out, *o)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(hanging)) {
		out = append(out, *hanging[id])
	}
	return out
}

func (l layout) has(p dr.TopicPartition) bool {
	_, ok := l.leaders[p]
	return ok
}

// underWay reports whether a state of a coordinator is one of a transaction that
// has not ended (TransactionState).
func underWay(state string) bool {
	switch state {
	case "Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence":
		return true
	}
	return false
}

// producers asks the leaders for what they remember of producers, in the order of
// partitions.
func (f *Fence) producers(ctx context.Context, shape layout) ([]openIn, error) {
	var mu sync.Mutex
	var out []openIn
	groups := shape.byLeader()
	err := eachBroker(ctx, slices.Sorted(maps.Keys(groups)), func(ctx context.Context, b int32) error {
		req := kmsg.NewPtrDescribeProducersRequest()
		for _, p := range groups[b] {
			if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.Topic {
				t := kmsg.NewDescribeProducersRequestTopic()
				t.Topic = p.Topic
				req.Topics = append(req.Topics, t)
			}
			t := &req.Topics[len(req.Topics)-1]
			t.Partitions = append(t.Partitions, p.Partition)
		}
		resp, err := ask[*kmsg.DescribeProducersResponse](ctx, f.o.Client.Broker(int(b)), req)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, t := range resp.Topics {
			for _, rp := range t.Partitions {
				p := dr.TopicPartition{Topic: t.Topic, Partition: rp.Partition}
				if err := kclient.AnswerError(rp.ErrorCode, rp.ErrorMessage); err != nil {
					return fmt.Errorf("producers of %s: %w", p, err)
				}
				for _, x := range rp.ActiveProducers {
					out = append(out, openIn{p, x})
				}
			}
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b openIn) int { return dr.ComparePartitions(a.partition, b.partition) })
	if err != nil {
		return nil, f.surface("ask the leaders for producers", err)
	}
	return out, nil
}

// coordinated asks all brokers for the transactional ids that they coordinate.
func (f *Fence) coordinated(ctx context.Context, brokers []int32) ([]kmsg.ListTransactionsResponseTransactionState, error) {
	var mu sync.Mutex
	var out []kmsg.ListTransactionsResponseTransactionState
	err := eachBroker(ctx, brokers, func(ctx context.Context, b int32) error {
		resp, err := ask[*kmsg.ListTransactionsResponse](ctx, f.o.Client.Broker(int(b)), kmsg.NewPtrListTransactionsRequest())
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		out = append(out, resp.TransactionStates...)
		return nil
	})
	if err != nil {
		return nil, f.surface("list the transactions", err)
	}
	return out, nil
}

// describe asks for the transactions that are under way. One that ended meanwhile
// is left out.
func (f *Fence) describe(ctx context.Context, known []kmsg.ListTransactionsResponseTransactionState) (map[string]kmsg.DescribeTransactionsResponseTransactionState, error) {
	out := map[string]kmsg.DescribeTransactionsResponseTransactionState{}
	for _, k := range known {
		if !underWay(k.TransactionState) || strings.HasPrefix(k.TransactionalID, ownIDs) {
			continue
		}
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{k.TransactionalID}
		resp, err := ask[*kmsg.DescribeTransactionsResponse](ctx, f.o.Client, req)
		if err != nil {
			return nil, f.surface("describe transaction "+k.TransactionalID, err)
		}
		for _, d := range resp.TransactionStates {
			switch err := kerr.ErrorForCode(d.ErrorCode); {
			case errors.Is(err, kerr.TransactionalIDNotFound):
			case err != nil:
				return nil, f.surface("describe transaction "+d.TransactionalID, err)
			default:
				out[d.TransactionalID] = d
			}
		}
	}
	return out, nil
}

// transactionalIDs returns the ids of clients whose producers wrote to the topics
// lately, as far as leaders remember producers, or have a transaction open there.
func (f *Fence) transactionalIDs(ctx context.Context, brokers []int32) (map[string]struct{}, error) {
	topics, err := f.topics(ctx)
	if err != nil {
		return nil, err
	}
	shape, err := agreed(ctx, f.o.Client, brokers, f.paired(topics))
	if err != nil {
		return nil, f.surface("find the leaders of the topics", err)
	}
	producers, err := f.producers(ctx, shape)
	if err != nil {
		return nil, err
	}
	known, err := f.coordinated(ctx, brokers)
	if err != nil {
		return nil, err
	}
	described, err := f.describe(ctx, known)
	if err != nil {
		return nil, err
	}
	wrote := map[int64]struct{}{}
	for _, in := range producers {
		wrote[in.state.ProducerID] = struct{}{}
	}
	out := map[string]struct{}{}
	for _, k := range known {
		if _, ok := wrote[k.ProducerID]; ok && !strings.HasPrefix(k.TransactionalID, ownIDs) {
			out[k.TransactionalID] = struct{}{}
		}
	}
	for _, o := range openOf(producers, known, described, shape) {
		if !o.Hanging() {
			out[o.TransactionalID] = struct{}{}
		}
	}
	return out, nil
}

// AbortOpen ends transactions by aborting them, if the options consent: those of a
// coordinator by taking their transactional id over, which shuts out their
// producer for good; hanging ones by a marker in each partition. It returns when
// coordinators and leaders took that; the markers of a coordinator follow, so
// OpenTransactions is asked until it returns none. It may be called again. It needs
// WRITE on the transactional ids and, for hanging ones, ALTER on the cluster.
func (f *Fence) AbortOpen(ctx context.Context, open []OpenTransaction) error {
	if f.o.Consent != ConsentAbort {
		return &dr.Error{
			Code: dr.CodeRefused, Hint: "wait until they end, or consent to aborting them (--abort-transactions)",
			Err: fmt.Errorf("abort %d open transactions of cluster %s: nobody consented", len(open), f.o.Reach.Name),
		}
	}
	if _, err := f.brokers(ctx); err != nil {
		return err
	}
	var errs []error
	for _, o := range open {
		what := "abort the transaction of " + o.TransactionalID
		err := f.step(what, func() error {
			if o.Hanging() {
				return f.mark(ctx, o)
			}
			return f.takeOver(ctx, o)
		})
		if err != nil {
			errs = append(errs, f.surface(what, err))
			continue
		}
		f.o.Logger.LogAttrs(ctx, slog.LevelWarn, "transaction of a client aborted", slog.String("cluster", f.o.Reach.Name), slog.String("transactional_id", o.TransactionalID),
			slog.Int64("producer_id", o.ProducerID), slog.Int("partitions", len(o.Partitions)))
	}
	return errors.Join(errs...)
}

// takeOver raises the epoch of a transactional id. The coordinator aborts what is
// open and answers CONCURRENT_TRANSACTIONS until that is done.
func (f *Fence) takeOver(ctx context.Context, o OpenTransaction) error {
	for {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID = &o.TransactionalID
		req.TransactionTimeoutMillis = max(o.TimeoutMillis, 1000)
		req.ProducerID, req.ProducerEpoch = -1, -1
		resp, err := ask[*kmsg.InitProducerIDResponse](ctx, f.o.Client, req)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// mark writes the marker that no coordinator will write, as kafka-transactions.sh
// --abort does. A coordinator whose answers this principal may not see is no proof
// that there is none, but after the longest time that any transaction may take
// there is.
func (f *Fence) mark(ctx context.Context, o OpenTransaction) error {
	if age := f.o.Now().Sub(o.Since); age < f.o.Hangs {
		return &dr.Error{
			Code: dr.CodeRefused, Hint: fmt.Sprintf("see that %s may describe all transactional ids, or wait", kclient.Principal(f.o.Reach)),
			Err: fmt.Errorf("no coordinator tells of the transaction of producer %d, which wrote %v ago: it is ended in the log alone after %v", o.ProducerID, age.Round(time.Second), f.o.Hangs),
		}
	}
	shape, err := metadataOf(ctx, f.o.Client, o.Partitions)
	if err != nil {
		return err
	}
	for i, p := range o.Partitions {
		l, ok := shape.leaders[p]
		if !ok || l.leader < 0 {
			return fmt.Errorf("partition %s has no leader", p)
		}
		t := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		t.Topic, t.Partitions = p.Topic, []int32{p.Partition}
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.ProducerID, m.ProducerEpoch, m.Topics = o.ProducerID, o.ProducerEpoch, append(m.Topics, t)
		if i < len(o.Coordinators) {
			m.CoordinatorEpoch = max(0, o.Coordinators[i])
		}
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		req.Markers = append(req.Markers, m)
		resp, err := ask[*kmsg.WriteTxnMarkersResponse](ctx, f.o.Client.Broker(int(l.leader)), req)
		if err != nil {
			return err
		}
		for _, m := range resp.Markers {
			for _, t := range m.Topics {
				for _, rp := range t.Partitions {
					if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
						return fmt.Errorf("partition %s: %w", p, err)
					}
				}
			}
		}
	}
	return nil
}

// metadataOf asks for the leaders of some partitions.
func metadataOf(ctx context.Context, to kclient.Requestor, partitions []dr.TopicPartition) (layout, error) {
	var names []string
	for _, p := range partitions {
		if !slices.Contains(names, p.Topic) {
			names = append(names, p.Topic)
		}
	}
	resp, err := metadata(ctx, to, names)
	if err != nil {
		return layout{}, err
	}
	return layoutOf(resp)
}
