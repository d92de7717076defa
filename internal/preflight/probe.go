package preflight

import (
	"context"
	"fmt"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/kprobe"
	"github.com/twmb/franz-go/pkg/kgo"
)

// probe tries the rules that exactly-once rests on, as the replicator does at its
// start. Where something else must be mended before, it is left out.
func (c *cluster) probe(ctx context.Context) {
	if slices.ContainsFunc(c.findings, func(f dr.Finding) bool { return f.Severity == dr.SeverityError }) {
		return
	}
	res, err := kprobe.Run(ctx, kprobe.Options{
		Dial:            func(opts ...kgo.Opt) (*kgo.Client, error) { return kclient.New(c.o, opts...) },
		TransactionalID: "anabranch-" + c.rep.Name + "-probe-", ReplicationFactor: c.rep.Replication,
	})
	if err != nil {
		c.checkFailed(fmt.Errorf("probe the brokers: %w", err))
		return
	}
	c.delivery = res.Delivery()
	c.findings = append(c.findings, res.Findings(c.o.Name, c.rep.Delivery)...)
}
