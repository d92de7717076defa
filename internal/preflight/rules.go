package preflight

import (
	"context"
	"errors"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var wholeCluster = resource{option: "--cluster"}

// checkRules looks at what carrying access rules and quotas over needs on the
// cluster. Records are copied without it, so it is no missing grant. Where a
// cluster has no authorizer everything is allowed.
func (c *cluster) checkRules(ctx context.Context, clusterOps int32) {
	need, state := opDescribe, "access rules are not carried over"
	if c.role == roleTarget {
		need = opAlter
		if allowed(clusterOps, opDescribe) {
			state = "access rules are compared and staged, and none is made"
		}
	}
	if c.rep.ACLs && !allowed(clusterOps, need) {
		c.found("access_rules_not_allowed", dr.SeverityWarning, c.subject(), c.command(wholeCluster, []string{need}),
			"%s is not allowed: %s on the cluster, so %s (acls: {enabled: false} if that is wanted)", c.report.Principal, need, state)
	}
	if !c.rep.Quotas {
		return
	}
	need = opDescribeConfigs
	probe := c.probeQuotas
	if c.role == roleTarget {
		need, probe = opAlterConfigs, c.probeQuotaChange
	}
	switch err := probe(ctx); {
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		c.found("quotas_not_allowed", dr.SeverityWarning, c.subject(), c.command(wholeCluster, []string{need}),
			"%s is not allowed: %s on the cluster, so client quotas are not carried over", c.report.Principal, need)
	case err != nil:
		c.checkFailed(err)
	}
}

// quotaProbe is a client that nobody is.
const quotaProbe = "anabranch-preflight-probe"

// probeQuotas asks for the quotas of nobody.
func (c *cluster) probeQuotas(ctx context.Context) error {
	req := kmsg.NewPtrDescribeClientQuotasRequest()
	part := kmsg.NewDescribeClientQuotasRequestComponent()
	part.EntityType, part.MatchType, part.Match = "client-id", kmsg.QuotasMatchTypeExact, new(quotaProbe)
	req.Components = append(req.Components, part)
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// probeQuotaChange asks whether a quota of nobody could be removed, and changes
// nothing.
func (c *cluster) probeQuotaChange(ctx context.Context) error {
	req := kmsg.NewPtrAlterClientQuotasRequest()
	req.ValidateOnly = true
	entry := kmsg.NewAlterClientQuotasRequestEntry()
	entry.Entity = append(entry.Entity, kmsg.AlterClientQuotasRequestEntryEntity{Type: "client-id", Name: new(quotaProbe)})
	op := kmsg.NewAlterClientQuotasRequestEntryOp()
	op.Key, op.Remove = "producer_byte_rate", true
	entry.Ops = append(entry.Ops, op)
	req.Entries = append(req.Entries, entry)
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return err
	}
	for _, e := range resp.Entries {
		err = errors.Join(err, kerr.ErrorForCode(e.ErrorCode))
	}
	return err
}
