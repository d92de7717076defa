package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"golang.org/x/sync/errgroup"
)

// connect tries every bootstrap address, then every broker at the address that
// it announces, and leaves a client if one bootstrap address works.
func (c *cluster) connect(ctx context.Context) {
	c.checkSecurity()
	c.report.Addresses = make([]AddressReport, len(c.o.BootstrapServers))
	ids := make([]string, len(c.o.BootstrapServers))
	var g errgroup.Group
	g.SetLimit(8)
	for i, addr := range c.o.BootstrapServers {
		g.Go(func() error {
			r := AddressReport{Address: addr}
			id, err := c.tryAddress(ctx, addr)
			if r.Reachable, ids[i] = err == nil, id; err != nil {
				r.Cause, r.Error = kclient.CauseOf(err), explain(addr, err)
			}
			c.report.Addresses[i] = r
			return nil
		})
	}
	_ = g.Wait()
	reachable := slices.ContainsFunc(c.report.Addresses, func(a AddressReport) bool { return a.Reachable })
	for _, a := range c.report.Addresses {
		if a.Reachable {
			continue
		}
		severity := dr.SeverityWarning
		if !reachable {
			severity = dr.SeverityError
		}
		c.found("unreachable", severity, c.subject(), fixOf(a.Cause), "%s", a.Error)
	}
	c.checkIDs(ids)
	if !reachable {
		return
	}
	cl, err := kclient.New(c.o)
	if err != nil {
		c.found("unreachable", dr.SeverityError, c.subject(), "", "%s", err)
		return
	}
	c.client = cl
	c.checkBrokers(ctx)
}

// tryAddress asks one bootstrap address for the cluster id.
func (c *cluster) tryAddress(ctx context.Context, addr string) (clusterID string, err error) {
	o := c.o
	o.BootstrapServers = []string{addr}
	cl, err := kclient.New(o, kgo.RequestRetries(0))
	if err != nil {
		return "", err
	}
	defer cl.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none, nil would be all
	raw, err := cl.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return "", err
	}
	resp, ok := raw.(*kmsg.MetadataResponse)
	if !ok || resp.ClusterID == nil {
		return "", errors.New("the answer has no cluster id")
	}
	return *resp.ClusterID, nil
}

// checkIDs finds bootstrap addresses that lead to different clusters, which
// would copy now from one and then from the other.
func (c *cluster) checkIDs(ids []string) {
	byID := map[string][]string{}
	for i, id := range ids {
		if id != "" {
			byID[id] = append(byID[id], c.o.BootstrapServers[i])
			c.report.ClusterID = id
		}
	}
	if len(byID) < 2 {
		return
	}
	var parts []string
	for id, addrs := range byID {
		parts = append(parts, fmt.Sprintf("%s: %s", id, strings.Join(addrs, ", ")))
	}
	slices.Sort(parts)
	c.found("mixed_clusters", dr.SeverityError, c.subject(), "list addresses of one cluster only", "the bootstrap addresses belong to different clusters (%s)", strings.Join(parts, "; "))
}

func (c *cluster) checkSecurity() {
	if t := c.o.TLS; t != nil && t.InsecureSkipVerify {
		c.found("tls_not_verified", dr.SeverityWarning, c.subject(), "set tls.ca_file and remove tls.insecure_skip_verify", "any certificate is accepted, so that anybody on the way can read and change everything")
	}
	if s := c.o.SASL; s != nil && c.o.TLS == nil && (s.Mechanism == kclient.MechanismPlain || s.Mechanism == kclient.MechanismOAuthBearer) {
		c.found("credentials_in_clear", dr.SeverityWarning, c.subject(), "set tls", "%s without TLS sends the credentials in clear text", s.Mechanism)
	}
}

// needed lists the requests that the engine sends, with the range of versions
// of which at least one is needed.
var needed = []struct {
	key       kmsg.Key
	low, high int16
	why       string
}{
	{kmsg.Produce, 3, 11, "record batches of format 2"},
	{kmsg.Fetch, 12, 17, "finding truncated logs (KIP-320, KIP-595)"},
	{kmsg.ListOffsets, 5, 9, "reading to the end after an election (KIP-207)"},
	{kmsg.Metadata, 10, 13, "topic ids (KIP-516)"},
	{kmsg.InitProducerID, 3, 5, "fencing (KIP-360)"},
	{kmsg.AddPartitionsToTxn, 0, 3, "fencing"},
	{kmsg.EndTxn, 0, 4, "fencing"},
	{kmsg.DescribeProducers, 0, 0, "finding the position again (KIP-664)"},
	{kmsg.IncrementalAlterConfigs, 0, 1, "topic settings (KIP-339)"},
}

// checkBrokers asks every broker at its announced address what it supports.
func (c *cluster) checkBrokers(ctx context.Context) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		c.found("unreachable", dr.SeverityError, c.subject(), fixOf(kclient.CauseOf(err)), "ask for the brokers: %s", err)
		c.client.Close()
		c.client = nil
		return
	}
	c.report.Brokers = make([]BrokerReport, len(resp.Brokers))
	missing := make([][]string, len(resp.Brokers))
	var g errgroup.Group
	g.SetLimit(8)
	for i, b := range resp.Brokers {
		g.Go(func() error {
			c.report.Brokers[i], missing[i] = c.tryBroker(ctx, b)
			return nil
		})
	}
	_ = g.Wait()
	for i, b := range c.report.Brokers {
		subject := fmt.Sprintf("broker %d of cluster %s", b.ID, c.o.Name)
		if !b.Reachable {
			c.found("announced_address_unreachable", dr.SeverityError, subject,
				"make the address reachable from here, or correct advertised.listeners of the broker",
				"announces %s, but: %s", b.Address, b.Error)
		}
		if len(missing[i]) > 0 {
			c.found("broker_too_old", dr.SeverityError, subject, "use Apache Kafka 3.9 or newer", "version %s lacks %s", b.Version, strings.Join(missing[i], ", "))
		}
	}
}

func (c *cluster) tryBroker(ctx context.Context, b kmsg.MetadataResponseBroker) (r BrokerReport, missing []string) {
	r = BrokerReport{ID: b.NodeID, Address: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))}
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "anabranch", "preflight" // an answer needs them (KIP-511)
	raw, err := c.client.Broker(int(b.NodeID)).Request(ctx, req)
	if err != nil {
		r.Cause, r.Error = kclient.CauseOf(err), explain(r.Address, err)
		return r, nil
	}
	resp, ok := raw.(*kmsg.ApiVersionsResponse)
	if !ok || resp.ErrorCode != 0 {
		r.Cause, r.Error = kclient.CauseOther, "refuses to tell its versions"
		return r, nil
	}
	r.Reachable = true
	versions := kversion.FromApiVersionsResponse(resp)
	r.Version = versions.VersionGuess()
	for _, n := range needed {
		has := slices.ContainsFunc(resp.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool {
			return k.ApiKey == n.key.Int16() && k.MinVersion <= n.high && k.MaxVersion >= n.low
		})
		if !has {
			missing = append(missing, fmt.Sprintf("%s v%d for %s", n.key.Name(), n.low, n.why))
		}
	}
	return r, missing
}

// explain makes sure that the text of an error names the address.
func explain(addr string, err error) string {
	if _, ok := errors.AsType[*kclient.DialError](err); ok {
		return strings.TrimPrefix(err.Error(), "unable to dial: ")
	}
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return "authenticate at " + addr + ": the broker refuses the credentials"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "authenticate at " + addr + ": the broker does not offer the mechanism"
	}
	return "talk to " + addr + ": " + err.Error()
}

func fixOf(cause kclient.Cause) string {
	switch cause {
	case kclient.CauseRefused:
		return "check host and port, and that the broker runs"
	case kclient.CauseTimeout, kclient.CauseUnreachable:
		return "check host and port, and the firewalls on the way"
	case kclient.CauseUnknownHost:
		return "check the host name"
	case kclient.CauseTLS:
		return "check tls of the cluster, and that the port belongs to a listener of that kind"
	case kclient.CauseSASL:
		return "check sasl of the cluster"
	default:
		return ""
	}
}
