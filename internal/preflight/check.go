package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// Check looks at both clusters of a replicator. The error is one of the options
// or of ctx only; whatever is wrong with the clusters is in the report.
func Check(ctx context.Context, o Options) (Report, error) {
	if err := o.Validate(); err != nil {
		return Report{}, fmt.Errorf("check options: %w", err)
	}
	o = o.withDefaults()
	src := &cluster{o: o.Source, role: roleSource, rep: o.Replicator}
	dst := &cluster{o: o.Target, role: roleTarget, rep: o.Replicator}
	for _, c := range []*cluster{src, dst} {
		c.o.Logger = o.Logger
		c.report = ClusterReport{Name: c.o.Name, Principal: kclient.Principal(c.o), Addresses: []AddressReport{}, Brokers: []BrokerReport{}, MissingGrants: []string{}}
	}
	bounded, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	// What is to be checked on the target depends on the topics of the
	// source, so both are connected first.
	for _, step := range [][2]func(context.Context){{src.connect, dst.connect}, {src.checkSource, nil}, {nil, func(ctx context.Context) { dst.checkTarget(ctx, src) }}} {
		var g errgroup.Group
		for _, f := range step {
			if f != nil {
				g.Go(func() error { f(bounded); return nil })
			}
		}
		_ = g.Wait()
	}
	for _, c := range []*cluster{src, dst} {
		if c.client != nil {
			c.client.Close()
		}
	}
	if err := ctx.Err(); err != nil {
		return Report{}, fmt.Errorf("check clusters: %w", context.Cause(ctx))
	}
	r := Report{Replicator: o.Replicator.Name, Source: src.report, Target: dst.report, Delivery: dst.delivery, Findings: slices.Concat(compare(src, dst), src.findings, dst.findings)}
	if r.Findings == nil {
		r.Findings = []dr.Finding{}
	}
	rank := map[dr.Severity]int{dr.SeverityError: 0, dr.SeverityWarning: 1, dr.SeverityInfo: 2}
	slices.SortStableFunc(r.Findings, func(a, b dr.Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
	return r, nil
}

// role is which side of the replicator a cluster is.
type role int

const (
	roleSource role = iota
	roleTarget
)

// cluster is one side while it is checked. It is owned by one goroutine at a
// time.
type cluster struct {
	o        kclient.Options
	role     role
	rep      Replicator
	report   ClusterReport
	findings []dr.Finding
	client   *kgo.Client // nil: the cluster cannot be used
	delivery dr.Delivery
	topics   map[string]topic
}

func (c *cluster) subject() string { return "cluster " + c.o.Name }

func (c *cluster) found(code string, severity dr.Severity, subject, fix, format string, args ...any) {
	c.findings = append(c.findings, dr.Finding{Code: code, Severity: severity, Subject: subject, Message: fmt.Sprintf(format, args...), Fix: fix})
}

// compare checks what only both clusters together can tell.
func compare(src, dst *cluster) []dr.Finding {
	if id := src.report.ClusterID; id != "" && id == dst.report.ClusterID {
		return []dr.Finding{{
			Code: "same_cluster", Severity: dr.SeverityError, Subject: "replicator " + src.rep.Name,
			Message: fmt.Sprintf("%s and %s are the same Kafka cluster (cluster.id %s)", src.o.Name, dst.o.Name, id),
			Fix:     "correct bootstrap_servers of one of them",
		}}
	}
	return nil
}
