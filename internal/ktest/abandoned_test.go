package ktest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
)

// TestOnlyWhatItsCoordinatorHasGivenUpIsAbandoned: what still runs, and what
// others have open, is left alone.
func TestOnlyWhatItsCoordinatorHasGivenUpIsAbandoned(t *testing.T) {
	t.Parallel()
	known := []kadm.DescribedTransaction{
		{TxnID: "a-one-t", State: "CompleteCommit", ProducerID: 7},
		{TxnID: "a-two-t", State: "Ongoing", ProducerID: 8},
		{TxnID: "a-three-t", State: "PrepareCommit", ProducerID: 9},
	}
	producers := []kadm.DescribedProducer{
		{Topic: "t", Partition: 0, ProducerID: 7, ProducerEpoch: 3, CoordinatorEpoch: 2, CurrentTxnStartOffset: 40},
		{Topic: "t", Partition: 1, ProducerID: 7, ProducerEpoch: 3, CoordinatorEpoch: 2, CurrentTxnStartOffset: -1},
		{Topic: "t", Partition: 2, ProducerID: 7, ProducerEpoch: 3, CoordinatorEpoch: -1, CurrentTxnStartOffset: 0},
		{Topic: "t", Partition: 0, ProducerID: 8, CurrentTxnStartOffset: 50},
		{Topic: "t", Partition: 0, ProducerID: 9, CurrentTxnStartOffset: 60},
		{Topic: "t", Partition: 0, ProducerID: 10, CurrentTxnStartOffset: 70},
	}
	want := []kadm.TxnMarkers{
		{ProducerID: 7, ProducerEpoch: 3, CoordinatorEpoch: 2, Topics: kadm.TopicsSet{"t": {0: {}}}},
		{ProducerID: 7, ProducerEpoch: 3, CoordinatorEpoch: 0, Topics: kadm.TopicsSet{"t": {2: {}}}},
	}
	if d := cmp.Diff(want, abandoned(known, producers)); d != "" {
		t.Error(d)
	}
}
