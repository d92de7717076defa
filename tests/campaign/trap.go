package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// The trap: so many records are written while nothing is copied, and this many of
// them deleted.
const (
	trapWritten = 60
	trapDeleted = 25
)

// retention deletes records of one partition before they are copied. The partition
// must halt with exactly their range, everything else must go on, and after the
// decision exactly these records are missing on the other side.
func (r *round) retention(out *Round, side string) error {
	replicator := side + otherSide(side)
	// The range may begin earlier, at what a checkpoint does not hold because there is
	// nothing to copy: markers. Whether its beginning is right shows at the end.
	var from, below, first int64
	due := halt{replicator, "plain", 0, []dr.HaltCode{dr.HaltRetention}, func(p dr.PartitionStatus) string {
		m := rangeText.FindStringSubmatch(p.Reason)
		if m == nil || m[2] != strconv.FormatInt(below-1, 10) {
			return fmt.Sprintf("due are the offsets up to %d", below-1)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || n > from {
			return fmt.Sprintf("nothing was copied from %d on", from)
		}
		first = n
		return ""
	}}
	r.expect(due)
	if err := r.paused(replicator); err != nil {
		return err
	}
	st, _ := r.crew.status(replicator)
	from = frontier(st, "plain", 0)
	below = from + trapDeleted
	if err := r.put(side, topic{name: "plain", partitions: 1}, trapWritten, "trap"); err != nil {
		return err
	}
	if err := r.trial.Remember(r.ctx, side, "plain"); err != nil {
		return err
	}
	err := r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error { return deleteRecords(ctx, adm, "plain", 0, below) })
	if err != nil {
		return fmt.Errorf("delete records: %w", err)
	}
	if err := r.crew.tell(r.ctx, replicator, order{Do: doResume}); err != nil {
		return err
	}
	if err := r.awaitHalts(out, due); err != nil {
		return err
	}
	if err := r.goesOn("beside-retention"); err != nil {
		return err
	}
	if _, err := r.decide(replicator, dr.Resolution{Topic: "plain", Action: dr.ResolveContinue}); err != nil {
		return err
	}
	if err := r.running(); err != nil {
		return err
	}
	deleted := r.ids("plain", func(p ktest.Produced) bool {
		return p.Cluster == side && p.Record.Partition == 0 && p.Record.Offset >= first && p.Record.Offset < below
	})
	if err := nothing(deleted); err != nil {
		return err
	}
	return r.exactly(out, "plain", taken{otherSide(side): deleted})
}

// paused pauses a replicator.
func (r *round) paused(replicator string) error {
	if err := r.crew.tell(r.ctx, replicator, order{Do: doPause}); err != nil {
		return err
	}
	return r.await("PAUSED", 30*time.Second, func() string {
		if st, _ := r.crew.status(replicator); st.State != dr.ReplicatorPaused {
			return string(st.State)
		}
		return ""
	})
}

// rangeText finds the range in the reason of a halt.
var rangeText = regexp.MustCompile(`source offsets (\d+) to (\d+)`)
