package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

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
func (r *round) retention(out *Round) error {
	side := sideNames[r.plan.Seed/4%2]
	replicator := side + otherSide(side)
	r.say("%s is paused, and records are deleted that it did not copy", replicator)
	r.crew.expect(`topic=plain partition=0 code=` + string(dr.HaltRetention))
	if err := r.crew.tell(r.ctx, replicator, order{Do: doPause}); err != nil {
		return err
	}
	if err := r.await("PAUSED", 30*time.Second, func() string {
		if st, _ := r.crew.status(replicator); st.State != dr.ReplicatorPaused {
			return string(st.State)
		}
		return ""
	}); err != nil {
		return err
	}
	st, _ := r.crew.status(replicator)
	from := frontier(st, "plain", 0)
	below := from + trapDeleted
	w := writer{name: "trap", codec: kgo.NoCompression(), rate: 200, most: trapWritten}
	if err := r.load(r.ctx, side, topic{name: "plain", partitions: 1}, w, r.plan.Seed); err != nil {
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
	// The range may begin earlier, at what a checkpoint does not hold because there is
	// nothing to copy: markers. Whether its beginning is right shows at the end.
	first := int64(-1)
	if err := r.await("halted", 30*time.Second, func() (why string) {
		first, why = r.notHalted(replicator, below)
		return why
	}); err != nil {
		return err
	}
	if first > from {
		return fmt.Errorf("halted with offsets from %d on, but nothing was copied from %d on", first, from)
	}
	out.Expected = append(out.Expected, fmt.Sprintf("%s: plain-0: %s, source offsets %d to %d", replicator, dr.HaltRetention, first, below-1))
	if err := r.crew.tell(r.ctx, replicator, order{Do: doResolve, Resolution: dr.Resolution{Topic: "plain", Action: dr.ResolveContinue}}); err != nil {
		return err
	}
	if err := r.await("every replicator runs after the decision", 60*time.Second, r.crew.notRunning); err != nil {
		return err
	}
	return r.missing(side, first, below)
}

// rangeText finds the range in the reason of a halt.
var rangeText = regexp.MustCompile(`source offsets (\d+) to (\d+)`)

// notHalted returns the first offset that the halt of partition 0 of plain names,
// and what is not as it should be meanwhile: that it is halted with a range up to
// below, and nothing else.
func (r *round) notHalted(replicator string, below int64) (first int64, why string) {
	first = -1
	for _, other := range replicators {
		st, _ := r.crew.status(other)
		for _, t := range st.Topics {
			for _, p := range t.Partitions {
				if other != replicator || t.Name != "plain" || p.Partition != 0 {
					if p.State != dr.PartitionRunning {
						return -1, fmt.Sprintf("%s-%d of %s is %s: %s", t.Name, p.Partition, other, p.State, p.Reason)
					}
					continue
				}
				m := rangeText.FindStringSubmatch(p.Reason)
				if p.State != dr.PartitionHalted || p.Code != dr.HaltRetention || m == nil || m[2] != strconv.FormatInt(below-1, 10) {
					return -1, fmt.Sprintf("plain-0 of %s is %s %s: %s; due are the offsets up to %d", other, p.State, p.Code, p.Reason, below-1)
				}
				if n, err := strconv.ParseInt(m[1], 10, 64); err == nil {
					first = n
				}
			}
		}
	}
	if first < 0 {
		return -1, "no status of plain-0"
	}
	return first, ""
}

// missing waits until exactly the deleted records are missing on the other side,
// and nothing else is wrong.
func (r *round) missing(side string, from, below int64) error {
	limit := time.Now().Add(settleLimit)
	for {
		h, logs, err := r.trial.Look(r.ctx, "plain")
		if err != nil {
			return err
		}
		want := map[string]bool{}
		for _, p := range h.Produced {
			if p.Cluster == side && p.Record.Topic == "plain" && p.Record.Partition == 0 && p.Outcome == ktest.Acknowledged && p.Record.Offset >= from && p.Record.Offset < below {
				want[p.ID] = true
			}
		}
		_, bad := ktest.Judge(h, "plain", logs)
		lost := map[string]bool{}
		var rest []ktest.Violation
		for _, v := range bad {
			if v.Kind == ktest.Lost && want[v.ID] && strings.Contains(v.Detail, " on "+otherSide(side)+": ") {
				lost[v.ID] = true
			} else {
				rest = append(rest, v)
			}
		}
		switch {
		case len(want) == 0:
			return errors.New("bad test: no record was deleted")
		case len(rest) == 0 && maps.Equal(want, lost):
			return nil
		case time.Now().After(limit):
			return fmt.Errorf("%d records were deleted, of these %d are missing: %v; besides: %s", len(want), len(lost), slices.Sorted(maps.Keys(lost)), ktest.Summary(rest))
		}
		sleep(r.ctx, time.Second)
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
	}
}
