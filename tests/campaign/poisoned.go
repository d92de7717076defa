package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/ktest"
)

// poisoned damages one batch of one side on its broker's disk, before it is
// copied: its checksum does not fit any more. The partition halts there, and the
// decision leaves the batch out.
func (r *round) poisoned(out *Round, side string) error {
	const name = "poisoned"
	replicator := side + otherSide(side)
	one := topic{name: name, partitions: 1}
	if err := r.prepare(one); err != nil {
		return err
	}
	if err := r.paused(replicator); err != nil {
		return err
	}
	if err := r.put(side, one, 60, "second"); err != nil {
		return err
	}
	// No reader gets past the damage.
	if err := r.trial.Remember(r.ctx, side, name); err != nil {
		return err
	}
	var middle int64
	for _, p := range r.trial.History().Produced {
		if p.ID == side+"-second/"+name+"/30" {
			middle = p.Record.Offset
		}
	}
	first, last, err := r.damage(side, name, middle)
	if err != nil {
		return fmt.Errorf("damage offset %d: %w", middle, err)
	}
	due := halt{replicator, name, 0, []dr.HaltCode{dr.HaltCorrupt}, func(p dr.PartitionStatus) string {
		m := offsetText.FindStringSubmatch(p.Reason)
		if m == nil || m[1] != strconv.FormatInt(first, 10) || p.ReplicatedOffset != first {
			return fmt.Sprintf("the damage begins at %d, and offset %d is next", first, p.ReplicatedOffset)
		}
		return ""
	}}
	r.expect(due)
	if err := r.crew.tell(r.ctx, replicator, order{Do: doResume}); err != nil {
		return err
	}
	if err := r.awaitHalts(out, due); err != nil {
		return err
	}
	if err := r.goesOn("beside-poisoned"); err != nil {
		return err
	}
	if _, err := r.decide(replicator, dr.Resolution{Topic: name, Action: dr.ResolveStartAt, Offsets: map[int32]int64{0: last + 1}}); err != nil {
		return err
	}
	if err := r.running(); err != nil {
		return err
	}
	err = r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error { return deleteRecords(ctx, adm, name, 0, last+1) })
	if err != nil {
		return fmt.Errorf("delete the damage: %w", err)
	}
	for _, s := range sideNames {
		if err := r.put(s, one, 40, "third"); err != nil {
			return err
		}
	}
	gone := r.ids(name, func(p ktest.Produced) bool {
		return p.Cluster == side && p.Record.Offset >= first && p.Record.Offset <= last
	})
	if err := nothing(gone); err != nil {
		return err
	}
	return r.exactly(out, name, taken{otherSide(side): gone})
}

// offsetText finds where a batch is damaged in the reason of a halt.
var offsetText = regexp.MustCompile(`offsets? (?:from )?(\d+)`)

// damage changes the checksum of the batch that holds an offset of partition 0,
// on the disk of the only broker, which is stopped for that. It returns the first
// and the last offset of the batch.
func (r *round) damage(side, name string, offset int64) (first, last int64, err error) {
	cluster := r.sides[side]
	if err := cluster.StopBroker(0); err != nil {
		return 0, 0, err
	}
	segments, err := filepath.Glob(filepath.Join(cluster.DataDir(0), name+"-0", "*.log"))
	if err == nil && len(segments) != 1 {
		err = fmt.Errorf("%d segments", len(segments))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find the segment: %w", err)
	}
	log, err := os.ReadFile(segments[0])
	if err != nil {
		return 0, 0, fmt.Errorf("read the segment: %w", err)
	}
	at, first, last, err := batchOf(log, offset)
	if err != nil {
		return 0, 0, err
	}
	const crc = 17 // where the checksum of a batch begins
	log[at+crc] ^= 1
	if err := os.WriteFile(segments[0], log, 0o600); err != nil {
		return 0, 0, fmt.Errorf("write the segment: %w", err)
	}
	return first, last, cluster.StartBroker(r.ctx, 0)
}

// batchOf finds the batch that holds an offset in a segment: where it begins, and
// its first and last offset.
func batchOf(log []byte, offset int64) (at int, first, last int64, err error) {
	_, more, err := kbatch.Walk(log, 0, func(h kbatch.Header, entry []byte) bool {
		first, last = h.BaseOffset, h.LastOffset()
		if last >= offset {
			return false
		}
		at += len(entry)
		return true
	})
	switch {
	case err != nil:
		return 0, 0, 0, fmt.Errorf("parse the segment: %w", err)
	case more || first > offset:
		return 0, 0, 0, errors.New("no batch holds the offset")
	}
	return at, first, last, nil
}
