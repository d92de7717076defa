package ktest

import (
	"cmp"
	"fmt"
	"slices"
)

// Late is the kind of records that a producer wrote under an epoch that was over:
// somebody had already written or fenced under a newer one.
const Late Kind = "late"

// CheckEpochs finds writes of zombies: records of a producer that stand behind a
// record or a marker of the same producer with a newer epoch. Brokers refuse
// those while they remember the producer (ProducerAppendInfo.checkProducerEpoch),
// so one in the log means that a fence did not hold. The log must be of a
// read_uncommitted reader: the others don't see all that was written.
func CheckEpochs(log *Log) []Violation {
	if log.Isolation != ReadUncommitted {
		return []Violation{{Kind: BadTest, Topic: log.Topic, Offset: -1, Detail: "a read_committed log does not hold all writes"}}
	}
	var vs []Violation
	for _, part := range log.Partitions {
		writes := make([]write, 0, len(part.Records)+len(part.Controls))
		for _, r := range part.Records {
			writes = append(writes, write{r.Offset, r.ProducerID, r.ProducerEpoch, IDOf(r)})
		}
		for _, c := range part.Controls {
			writes = append(writes, write{c.Offset, c.ProducerID, c.ProducerEpoch, "marker"})
		}
		slices.SortFunc(writes, func(a, b write) int { return cmp.Compare(a.offset, b.offset) })
		newest := make(map[int64]write)
		for _, w := range writes {
			if w.producer < 0 {
				continue // Written without a producer id.
			}
			n, ok := newest[w.producer]
			if ok && w.epoch < n.epoch {
				vs = append(vs, Violation{
					Late, log.Topic, part.Partition, w.offset, w.what,
					fmt.Sprintf("of producer (%d, %d), behind offset %d of epoch %d", w.producer, w.epoch, n.offset, n.epoch),
				})
				continue
			}
			newest[w.producer] = w
		}
	}
	return vs
}

// write is one record or marker of a log.
type write struct {
	offset   int64
	producer int64
	epoch    int16
	what     string
}
