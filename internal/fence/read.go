package fence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ask sends one request, bounded in time.
func ask[R kmsg.Response](ctx context.Context, to kclient.Requestor, req kmsg.Request) (R, error) {
	return kclient.Ask[R](ctx, to, req, requestTimeout)
}

// surface makes an error of the surface from what went wrong.
func (f *Fence) surface(what string, err error) error {
	if _, ok := errors.AsType[*dr.Error](err); ok || err == nil {
		return err
	}
	name := f.o.Reach.Name
	code, hint := dr.CodeUnreachable, "check cluster "+name+"; it can be tried again"
	switch {
	case errors.Is(err, kerr.SecurityDisabled):
		code, hint = dr.CodeUnsupported, "choose the method hook or manual for the fence of the pair"
		err = ErrNoAuthorizer
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		principal := kclient.Principal(f.o.Reach)
		code, hint = dr.CodeUnauthorized, "it needs Alter on the cluster"
		if len(f.o.Reach.BootstrapServers) > 0 {
			hint += ": " + kclient.GrantCommand(f.o.Reach, principal, []string{"Alter"}, "--cluster")
		}
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.TransactionalIDAuthorizationFailed), errors.Is(err, kerr.SaslAuthenticationFailed):
		code, hint = dr.CodeUnauthorized, "check the credentials and the rights of "+kclient.Principal(f.o.Reach)
	}
	return &dr.Error{Code: code, Hint: hint, Err: fmt.Errorf("%s of cluster %s: %w", what, name, err)}
}

// ErrNoAuthorizer is returned by Plan for the method acl where the cluster has no
// authorizer: no rule binds anybody there.
var ErrNoAuthorizer = errors.New("the cluster has no authorizer")

// metadata asks a cluster or one broker. nil names: all topics.
func metadata(ctx context.Context, to kclient.Requestor, names []string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	if names != nil {
		req.Topics = []kmsg.MetadataRequestTopic{}
	}
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = new(name)
		req.Topics = append(req.Topics, t)
	}
	return ask[*kmsg.MetadataResponse](ctx, to, req)
}

// brokers returns the ids of the live brokers, as any of them knows, and refuses a
// cluster that is another one.
func (f *Fence) brokers(ctx context.Context) ([]int32, error) {
	resp, err := metadata(ctx, f.o.Client, []string{})
	if err != nil {
		return nil, f.surface("list the brokers", err)
	}
	return f.brokersOf(resp)
}

func (f *Fence) brokersOf(resp *kmsg.MetadataResponse) ([]int32, error) {
	if id := resp.ClusterID; id == nil || *id != f.o.ClusterID {
		got := "none"
		if id != nil {
			got = *id
		}
		return nil, &dr.Error{
			Code: dr.CodeConflict, Hint: "check the bootstrap servers; nothing is changed while the cluster is another one",
			Err: fmt.Errorf("check cluster %s: its id is %s, expected %s", f.o.Reach.Name, got, f.o.ClusterID),
		}
	}
	out := make([]int32, 0, len(resp.Brokers))
	for _, b := range resp.Brokers {
		out = append(out, b.NodeID)
	}
	slices.Sort(out)
	return out, nil
}

// kafkasOwn are topics that brokers write.
func kafkasOwn(topic string) bool {
	switch topic {
	case "__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata":
		return true
	}
	return strings.HasPrefix(topic, dr.InternalPrefix)
}

// topics lists the topics of the cluster that clients write.
func (f *Fence) topics(ctx context.Context) ([]string, error) {
	resp, err := metadata(ctx, f.o.Client, nil)
	if err != nil {
		return nil, f.surface("list the topics", err)
	}
	var out []string
	for _, t := range resp.Topics {
		if t.Topic != nil && !kafkasOwn(*t.Topic) {
			out = append(out, *t.Topic)
		}
	}
	slices.Sort(out)
	return out, nil
}

// paired returns those topics that are to be closed.
func (f *Fence) paired(topics []string) []string {
	return slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return !f.o.Topics.Match(t) })
}

// allRules returns the rules that any live broker knows: one that lags behind may
// still grant what another one has forgotten.
func (f *Fence) allRules(ctx context.Context, brokers []int32) (aclSet, error) {
	out := aclSet{}
	for _, b := range brokers {
		list, err := kclient.ACLs(ctx, f.o.Client.Broker(int(b)))
		if err != nil {
			return nil, f.surface(fmt.Sprintf("ask broker %d for the access rules", b), err)
		}
		maps.Copy(out, list)
	}
	return out, nil
}

// settings is what brokers tell of their authorizer.
type settings struct {
	supers    []string
	told      bool // whether super.users could be read
	everybody Openness
}

// Names of settings of the StandardAuthorizer.
const (
	superUsersSetting = "super.users"
	everybodySetting  = "allow.everyone.if.no.acl.found"
)

// settings reads the settings of the authorizer from every broker. Kafka's own
// brokers hide their values, since they know no type for them (ConfigHelper
// treats such settings as sensitive): then it is only known that they are set.
func (f *Fence) settings(ctx context.Context, brokers []int32) (settings, error) {
	s := settings{told: true, everybody: Closed}
	for _, b := range brokers {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(b))
		r.ConfigNames = []string{superUsersSetting, everybodySetting}
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.Resources = append(req.Resources, r)
		resp, err := ask[*kmsg.DescribeConfigsResponse](ctx, f.o.Client.Broker(int(b)), req)
		if err != nil {
			return settings{}, f.surface(fmt.Sprintf("read the settings of broker %d", b), err)
		}
		for _, r := range resp.Resources {
			if err := kclient.AnswerError(r.ErrorCode, r.ErrorMessage); err != nil {
				return settings{}, f.surface(fmt.Sprintf("read the settings of broker %d", b), err)
			}
			for _, c := range r.Configs {
				s.read(c.Name, c.Value)
			}
		}
	}
	return s, nil
}

// read takes one setting of one broker; nil is a value that is hidden.
func (s *settings) read(name string, value *string) {
	switch {
	case name == superUsersSetting && value == nil:
		s.told = false
	case name == superUsersSetting:
		for u := range strings.SplitSeq(*value, ";") {
			if u = strings.TrimSpace(u); u != "" && !slices.Contains(s.supers, u) {
				s.supers = append(s.supers, u)
			}
		}
	case name == everybodySetting && value == nil && s.everybody == Closed:
		s.everybody = OpenOrShut
	case name == everybodySetting && value != nil && strings.EqualFold(strings.TrimSpace(*value), "true"):
		s.everybody = Open
	}
}

// tryDefault finds out, with the eyes of an ordinary client, whether a topic that
// no rule is about is open to everybody (KIP-430 tells each client what it may do).
func (f *Fence) tryDefault(ctx context.Context, bare string) (Openness, error) {
	if f.o.Canary == nil || bare == "" {
		return OpenOrShut, nil
	}
	cl, err := kclient.New(*f.o.Canary, kgo.RequestRetries(1))
	if err != nil {
		return OpenOrShut, err
	}
	defer cl.Close()
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(bare)
	req.Topics, req.IncludeTopicAuthorizedOperations = append(req.Topics, t), true
	resp, err := ask[*kmsg.MetadataResponse](ctx, cl, req)
	if err != nil || len(resp.Topics) != 1 {
		return OpenOrShut, f.surface("ask as the canary what is allowed", err)
	}
	switch x := resp.Topics[0]; {
	case errors.Is(kerr.ErrorForCode(x.ErrorCode), kerr.TopicAuthorizationFailed):
		return Closed, nil
	case x.ErrorCode != 0 || x.AuthorizedOperations < 0:
		return OpenOrShut, nil
	case x.AuthorizedOperations>>kclient.ACLOperationCode(opWrite)&1 == 1:
		return Open, nil
	}
	return Closed, nil
}
