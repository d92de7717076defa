package verify

import (
	"fmt"

	"github.com/anabranch/anabranch/internal/dr"
)

// Evidence makes what a gate needs of a report: one that passed for all that is
// equal, and one that did not for each partition that is not.
func Evidence(r dr.VerifyReport) []dr.Evidence {
	at := r.FinishedAt.UnixMilli()
	var out []dr.Evidence
	for _, p := range r.Partitions {
		if p.State == dr.VerifyEqual {
			continue
		}
		e := dr.Evidence{Name: "records_equal", Subject: fmt.Sprintf("topic %s partition %d", p.Topic, p.Partition), Value: string(p.State), Why: p.Reason, AtMs: at}
		if len(p.Differences) > 0 {
			d := p.Differences[0]
			n := int64(0)
			for _, k := range p.Counts {
				n += k
			}
			e.Why = fmt.Sprintf("%d records differ, the first is %s: source offset %d, target offset %d", n, d.Kind, d.SourceOffset, d.TargetOffset)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		out = append(out, dr.Evidence{Name: "records_equal", Subject: "replicator " + r.Replicator, Value: fmt.Sprintf("%d records in %d partitions", r.Records, len(r.Partitions)), Passed: true, AtMs: at})
	}
	return out
}
