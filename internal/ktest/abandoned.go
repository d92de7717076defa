package ktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// EndAbandoned ends transactions on a side whose markers a broker left out, see
// Unmarked, and that no next transaction of their producer ended: readers of
// committed records would wait behind them for ever. It does what operators do
// then, with kafka-transactions.sh --abort. The writers of the topic must have
// ended. It returns how many partitions had such a transaction.
func (t *Trial) EndAbandoned(ctx context.Context, side, topic string) (int, error) {
	text, err := t.BrokerLog(side)
	if err != nil {
		return 0, err
	}
	var ids []string
	for id := range Unmarked(text) {
		if strings.HasSuffix(id, "-"+topic) { // as the load names its transactions
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	cl, err := kgo.NewClient(t.Sides[side].ClientOptions()...)
	if err != nil {
		return 0, fmt.Errorf("make client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	known, err := adm.DescribeTransactions(ctx, ids...)
	for _, x := range known.Sorted() {
		err = errors.Join(err, x.Err)
	}
	if err != nil {
		return 0, fmt.Errorf("describe transactions on %s: %w", side, err)
	}
	topics, err := adm.ListTopics(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("list topic %s on %s: %w", topic, side, err)
	}
	producers, err := adm.DescribeProducers(ctx, topics.TopicsSet())
	if err != nil {
		return 0, fmt.Errorf("describe the producers of %s on %s: %w", topic, side, err)
	}
	markers := abandoned(known.Sorted(), producers.SortedProducers())
	if len(markers) == 0 {
		return 0, nil
	}
	resp, err := adm.WriteTxnMarkers(ctx, markers...)
	for _, p := range resp.SortedPartitions() {
		err = errors.Join(err, p.Err)
	}
	if err != nil {
		return 0, fmt.Errorf("end abandoned transactions of %s on %s: %w", topic, side, err)
	}
	return len(markers), nil
}

// abandoned returns the markers that abort what is open in a partition although
// its coordinator says that the transaction is complete.
func abandoned(known []kadm.DescribedTransaction, producers []kadm.DescribedProducer) []kadm.TxnMarkers {
	var out []kadm.TxnMarkers
	for _, p := range producers {
		over := slices.ContainsFunc(known, func(x kadm.DescribedTransaction) bool {
			return x.ProducerID == p.ProducerID && (x.State == "CompleteCommit" || x.State == "CompleteAbort" || x.State == "Empty")
		})
		if p.CurrentTxnStartOffset < 0 || !over {
			continue
		}
		m := kadm.TxnMarkers{ProducerID: p.ProducerID, ProducerEpoch: p.ProducerEpoch, CoordinatorEpoch: max(0, p.CoordinatorEpoch), Topics: kadm.TopicsSet{}}
		m.Topics.Add(p.Topic, p.Partition)
		out = append(out, m)
	}
	return out
}
