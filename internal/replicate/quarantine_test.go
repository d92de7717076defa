package replicate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/replicate"
)

// quarantined copies the tails by runs that are killed and one that is not, and
// looks at what is there for those who read committed records.
func quarantined(t *testing.T, lo replicate.LedgerOptions, rep replicate.LedgerReport) {
	t.Helper()
	lo.Export = nil
	for range 6 {
		ctx, kill := context.WithTimeout(t.Context(), time.Duration(rand.IntN(120))*time.Millisecond) //nolint:gosec // any moment
		_, err := replicate.Quarantine(ctx, lo, rep)
		kill()
		t.Logf("a run that was killed: %v", err)
	}
	for range 2 {
		got, err := replicate.Quarantine(t.Context(), lo, rep)
		if err != nil {
			t.Fatal(err)
		}
		if got.Records != rep.Records {
			t.Errorf("%d records are put aside, want %d", got.Records, rep.Records)
		}
	}
	list := map[int32][]string{}
	cl, err := lo.Target.Dial(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"ledger.divergent.run-1": {0: kgo.NewOffset().AtStart(), 1: kgo.NewOffset().AtStart()}}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			list[r.Partition] = append(list[r.Partition], fmt.Sprintf("%s %d", r.Value, len(r.Headers)))
		})
	}
	if d := cmp.Diff(map[int32][]string{0: {"b0 1", "b2 1", "b4 2", "b6 2", "b8 2"}, 1: {"b1 1"}}, list); d != "" {
		t.Errorf("what was put aside, with the numbers of headers (-want +got):\n%s", d)
	}
}
