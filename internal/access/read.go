package access

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const requestTimeout = 20 * time.Second

// side says which cluster something is about.
type side string

const (
	onSource side = "source"
	onTarget side = "target"
)

func (a *Access) cluster(s side) Cluster {
	if s == onSource {
		return a.o.Source
	}
	return a.o.Target
}

// ask sends one request, bounded in time.
func ask[R kmsg.Response](ctx context.Context, to kclient.Requestor, req kmsg.Request) (R, error) {
	return kclient.Ask[R](ctx, to, req, requestTimeout)
}

// identify returns the cluster id and the ids of the brokers.
func identify(ctx context.Context, cl *kgo.Client) (id string, brokers []int32, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if id, brokers, err = kclient.Brokers(ctx, cl); err == nil && id == "" {
		err = errors.New("the cluster does not tell its id")
	}
	return id, brokers, err
}

// checkCluster returns the cluster's id, and refuses one that is another than
// before: all rules would look gone.
func (a *Access) checkCluster(ctx context.Context, s side) (string, []int32, error) {
	id, brokers, err := identify(ctx, a.cluster(s).Client)
	if err != nil {
		return "", nil, requestError(s, "reach", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.ids[s] == "" {
		a.mu.ids[s] = id
	}
	if want := a.mu.ids[s]; want != id {
		return "", nil, &dr.Error{
			Code: dr.CodeConflict, Hint: "check the bootstrap servers; nothing is changed while the cluster is another one",
			Err: fmt.Errorf("check the %s cluster: its id is %q, expected %q", s, id, want),
		}
	}
	return id, brokers, nil
}

// allowed asks a cluster what the replicator may do on it (KIP-430) before that
// is tried: a broker writes a stack trace into its log for a DescribeAcls request
// that it refuses (KafkaApis). The answer is nil where the broker does not say.
func (a *Access) allowed(ctx context.Context, s side, what, op string) error {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	resp, err := ask[*kmsg.DescribeClusterResponse](ctx, a.cluster(s).Client, req)
	if err == nil {
		err = kclient.AnswerError(resp.ErrorCode, resp.ErrorMessage)
	}
	if errors.Is(err, kerr.UnsupportedVersion) {
		return nil
	}
	if err != nil {
		return requestError(s, "ask what is allowed", err)
	}
	bits := resp.ClusterAuthorizedOperations
	// Negative: not told. Nothing at all: Describe is not allowed on the cluster,
	// and then the broker does not tell the rest.
	if bits < 0 || bits>>kclient.ACLOperationCode(op)&1 == 1 || (bits == 0 && op != opDescribe && op != opAlter) {
		return nil
	}
	return a.lacking(s, what, []string{op}, kerr.ClusterAuthorizationFailed)
}

// rules returns all rules of a cluster.
func (a *Access) rules(ctx context.Context, s side) (map[dr.ACL]struct{}, error) {
	const what = "read the access rules"
	need := opDescribe
	if s == onTarget {
		need = opAlter // which includes Describe
	}
	if err := a.allowed(ctx, s, what, opDescribe); err != nil {
		return nil, a.lacking(s, what, []string{need}, err)
	}
	list, err := kclient.ACLs(ctx, a.cluster(s).Client)
	if err != nil {
		return nil, a.lacking(s, what, []string{need}, err)
	}
	return list, nil
}

// readACLs looks at both clusters and at the ledger. What replicators made at the
// source is read before and after its rules: a rule that comes or goes meanwhile
// is in one of the two.
func (a *Access) readACLs(ctx context.Context) (view, error) {
	v := view{scope: a.o.scope(), forwardAll: a.o.ForwardAll, now: a.o.Now()}
	var err error
	if v.sourceID, v.targetID, err = a.checkBoth(ctx); err != nil {
		return view{}, err
	}
	before, err := a.remember(ctx)
	if err != nil {
		return view{}, err
	}
	if v.active, err = a.active(ctx); err != nil {
		return view{}, err
	}
	if v.source, err = a.rules(ctx, onSource); err != nil {
		return view{}, err
	}
	if v.target, err = a.rules(ctx, onTarget); err != nil {
		return view{}, err
	}
	after, err := a.remember(ctx)
	if err != nil {
		return view{}, err
	}
	a.readFences(&v, append(before.fences, after.fences...))
	v.made, v.waiting = make(map[dr.ACL][]Made), make(map[dr.ACL]string)
	for _, m := range append(before.source, after.source...) {
		switch {
		case m.ACL == nil:
		case m.counts(v.now) && !a.ownNow(m, v.active):
			v.made[*m.ACL] = append(v.made[*m.ACL], m)
		case m.Phase == PhaseStaged:
			v.waiting[*m.ACL] = m.Replicator
		}
	}
	v.mine, v.shared = make(map[dr.ACL]Entry), make(map[dr.ACL]string)
	for _, m := range after.target {
		switch {
		case m.ACL == nil:
		case m.Replicator == a.o.Replicator:
			v.mine[*m.ACL] = m.Entry
		case m.Phase == PhaseMade:
			v.shared[*m.ACL] = m.Replicator
		}
	}
	v.refused = a.refusedACLs.recent(v.now)
	return v, nil
}

// memory is what the ledger holds at one moment.
type memory struct {
	source, target []Made
	fences         []Fence
}

// readFences takes what fences did into a view. The source counts as it was before
// its fence: what that took away is no change of mind, and must not be forgotten
// on the target. paused is why the target is left alone.
func (a *Access) readFences(v *view, fences []Fence) {
	v.fences, v.takenThere = make(map[dr.ACL]struct{}), make(map[dr.ACL]struct{})
	for _, f := range fences {
		for _, r := range f.Made {
			v.fences[r] = struct{}{}
		}
		for _, r := range f.Removed {
			switch f.ClusterID {
			case v.sourceID:
				v.source[r] = struct{}{}
			case v.targetID:
				v.takenThere[r] = struct{}{}
			}
		}
	}
	v.paused = a.pausedBy(v.active, fences)
}

// pausedBy returns why the target is left alone, "" if it is not.
func (a *Access) pausedBy(active Active, fences []Fence) string {
	if active == ActiveTarget {
		return "cluster " + a.o.Target.Reach.Name + " is the active one of its pair: its rules and quotas are its own"
	}
	if slices.ContainsFunc(fences, func(f Fence) bool { return slices.Contains(f.Holds, a.o.Replicator) }) {
		return "a move of the pair is under way"
	}
	return ""
}

// ownNow reports whether what a replicator made at the source counts as the
// source's own.
func (a *Access) ownNow(m Made, active Active) bool {
	return active == ActiveSource && a.o.Opposite != "" && m.Replicator == a.o.Opposite
}

// active asks which side is the active one.
func (a *Access) active(ctx context.Context) (Active, error) {
	if a.o.Active == nil {
		return ActiveNone, nil
	}
	side, err := a.o.Active(ctx)
	if err != nil {
		return ActiveNone, fmt.Errorf("read the roles of the pair: %w", err)
	}
	return side, nil
}

// remember reads the ledger to its present end.
func (a *Access) remember(ctx context.Context) (memory, error) {
	l := a.o.Ledger
	err := l.Refresh(ctx)
	var m memory
	if err == nil {
		m.source, err = l.Source()
	}
	if err == nil {
		m.target, err = l.Target()
	}
	if err == nil {
		m.fences, err = l.Fences()
	}
	if err != nil {
		return memory{}, fmt.Errorf("read the state of both clusters: %w", err)
	}
	return m, nil
}

// counts reports whether an entry makes its rule one that a replicator made.
func (e Entry) counts(now time.Time) bool {
	return e.Phase == PhaseMade || (e.Phase == PhaseRemoved && now.Sub(e.At) <= removedLife)
}

func (a *Access) checkBoth(ctx context.Context) (source, target string, err error) {
	if source, _, err = a.checkCluster(ctx, onSource); err != nil {
		return "", "", err
	}
	if target, _, err = a.checkCluster(ctx, onTarget); err != nil {
		return "", "", err
	}
	return source, target, nil
}

// confirmed returns the changes without those that rest on the word of a broker
// that lags behind: what is taken away although a broker of the source still has
// the rule that it was made of, and what is made although a broker of the target
// has it already (it would count as the replicator's). Where a broker does not
// answer, nothing is changed.
func (a *Access) confirmed(ctx context.Context, v view, changes []Change) ([]Change, error) {
	takes := func(c Change) bool { return c.Action == ActionDelete || c.Action == ActionForget }
	makes := func(c Change) bool { return c.Action == ActionCreate && v.mine[c.ACL].Phase != PhaseMade }
	if slices.ContainsFunc(changes, takes) {
		asked := make(map[dr.ACL]struct{})
		err := a.eachBroker(ctx, onSource, func(rules map[dr.ACL]struct{}) {
			seen := v
			seen.source = rules
			p := newPlanner(seen)
			for r := range p.wanted {
				asked[r] = struct{}{}
			}
			maps.Copy(asked, p.backed)
		})
		if err != nil {
			return nil, err
		}
		changes = slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return takes(c) && has(asked, c.ACL) })
	}
	if slices.ContainsFunc(changes, makes) {
		there := make(map[dr.ACL]struct{})
		if err := a.eachBroker(ctx, onTarget, func(rules map[dr.ACL]struct{}) { maps.Copy(there, rules) }); err != nil {
			return nil, err
		}
		changes = slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return makes(c) && has(there, c.ACL) })
	}
	return changes, nil
}

// eachBroker asks every broker of a cluster for its rules.
func (a *Access) eachBroker(ctx context.Context, s side, fn func(map[dr.ACL]struct{})) error {
	_, brokers, err := a.checkCluster(ctx, s)
	if err != nil {
		return err
	}
	for _, b := range brokers {
		rules, err := kclient.ACLs(ctx, a.cluster(s).Client.Broker(int(b)))
		if err != nil {
			return requestError(s, fmt.Sprintf("ask broker %d for the access rules", b), err)
		}
		fn(rules)
	}
	return nil
}

// readQuotas looks at both clusters and at the ledger.
func (a *Access) readQuotas(ctx context.Context) (quotaView, error) {
	v := quotaView{scope: a.o.scope(), forwardAll: a.o.ForwardAll, now: a.o.Now()}
	var err error
	if v.sourceID, v.targetID, err = a.checkBoth(ctx); err != nil {
		return quotaView{}, err
	}
	before, err := a.remember(ctx)
	if err != nil {
		return quotaView{}, err
	}
	active, err := a.active(ctx)
	if err != nil {
		return quotaView{}, err
	}
	if v.source, err = listQuotas(ctx, a.o.Source.Client); err != nil {
		return quotaView{}, a.lacking(onSource, "read the client quotas", []string{opDescribeConfigs}, err)
	}
	if v.target, err = listQuotas(ctx, a.o.Target.Client); err != nil {
		return quotaView{}, a.lacking(onTarget, "read the client quotas", []string{opAlterConfigs}, err)
	}
	after, err := a.remember(ctx)
	if err != nil {
		return quotaView{}, err
	}
	v.made = make(map[QuotaKey][]Made)
	for _, m := range append(before.source, after.source...) {
		if m.Quota != nil && m.counts(v.now) && !a.ownNow(m, active) {
			v.made[*m.Quota] = append(v.made[*m.Quota], m)
		}
	}
	v.mine = make(map[QuotaKey]Entry)
	for _, m := range after.target {
		if m.Quota != nil && m.Replicator == a.o.Replicator {
			v.mine[*m.Quota] = m.Entry
		}
	}
	v.paused = a.pausedBy(active, append(before.fences, after.fences...))
	v.refused = a.refusedQuotas.recent(v.now)
	return v, nil
}

// listQuotas returns all client quotas.
func listQuotas(ctx context.Context, to kclient.Requestor) (map[QuotaKey]float64, error) {
	resp, err := ask[*kmsg.DescribeClientQuotasResponse](ctx, to, kmsg.NewPtrDescribeClientQuotasRequest())
	if err == nil {
		err = kclient.AnswerError(resp.ErrorCode, resp.ErrorMessage)
	}
	if err != nil {
		return nil, err
	}
	out := make(map[QuotaKey]float64)
	for _, e := range resp.Entries {
		var parts []part
		for _, p := range e.Entity {
			parts = append(parts, part{p.Type, p.Name})
		}
		entity := entityText(parts)
		for _, x := range e.Values {
			out[QuotaKey{entity, x.Key}] = x.Value
		}
	}
	return out, nil
}

// listScram returns the SCRAM mechanisms of every user that has credentials.
func listScram(ctx context.Context, to kclient.Requestor) (map[string][]string, error) {
	resp, err := ask[*kmsg.DescribeUserSCRAMCredentialsResponse](ctx, to, kmsg.NewPtrDescribeUserSCRAMCredentialsRequest())
	if err == nil {
		err = kclient.AnswerError(resp.ErrorCode, resp.ErrorMessage)
	}
	if err != nil {
		return nil, err
	}
	out := make(map[string][]string)
	for _, r := range resp.Results {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return nil, fmt.Errorf("user %s: %w", r.User, err)
		}
		for _, c := range r.CredentialInfos {
			switch c.Mechanism {
			case 1:
				out[r.User] = append(out[r.User], "SCRAM-SHA-256")
			case 2:
				out[r.User] = append(out[r.User], "SCRAM-SHA-512")
			}
		}
	}
	return out, nil
}
