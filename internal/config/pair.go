package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// Pair is two clusters, one of which is active, and the other ready to become
// it. It makes the replicators <pair>-to-<cluster>, one in each direction.
type Pair struct {
	Clusters          []string          `json:"clusters" jsonschema:"minItems=2,maxItems=2" jsonschema_description:"Names of the two clusters."`
	InitialActive     string            `json:"initial_active,omitempty" jsonschema_description:"The cluster that clients write to when the pair first runs. Counts once: afterwards the stored role does. Default: the first of clusters."`
	Description       string            `json:"description,omitempty" jsonschema:"maxLength=1024" jsonschema_description:"Free text, shown by describe."`
	Topics            Topics            `json:"topics" jsonschema_description:"Which topics move. Default: all but internal ones."`
	StartingPosition  string            `json:"starting_position" jsonschema:"default=earliest" jsonschema_description:"As in replicators."`
	Compression       string            `json:"compression" jsonschema:"default=source,enum=source,enum=none,enum=gzip,enum=snappy,enum=lz4,enum=zstd" jsonschema_description:"As in replicators."`
	TopicSettings     dr.TopicSettings  `json:"topic_settings" jsonschema:"default=follow,enum=follow,enum=own" jsonschema_description:"follow: topics of the standby take the settings of the active, whichever that is; own: both keep theirs, and differences are shown."`
	DeletedTopics     dr.DeletePolicy   `json:"deleted_topics" jsonschema:"default=ignore,enum=ignore,enum=follow" jsonschema_description:"As in replicators."`
	Delivery          dr.Delivery       `json:"delivery,omitempty" jsonschema:"default=exactly_once,enum=exactly_once,enum=at_least_once" jsonschema_description:"As in replicators."`
	Groups            Groups            `json:"groups,omitzero" jsonschema_description:"The positions of consumer groups, carried in both directions."`
	ACLs              ACLs              `json:"acls,omitzero" jsonschema_description:"Access rules, copied in both directions; those that grant writing wait on the standby until it becomes active."`
	Audit             Audit             `json:"audit,omitzero" jsonschema_description:"Compare both clusters now and then, record for record, in both directions."`
	Quotas            bool              `json:"quotas,omitempty" jsonschema:"default=false" jsonschema_description:"Set client quotas of one side on the other."`
	RateLimit         RateLimit         `json:"rate_limit,omitzero" jsonschema_description:"As in replicators, for each of the two."`
	MemoryBudget      Size              `json:"memory_budget" jsonschema:"default=64MiB" jsonschema_description:"Bytes of record batches held in memory, for each of the two replicators."`
	SettingsInterval  Duration          `json:"settings_interval" jsonschema:"default=10s" jsonschema_description:"As in replicators."`
	DiscoveryInterval Duration          `json:"discovery_interval" jsonschema:"default=500ms" jsonschema_description:"As in replicators."`
	SessionTimeout    Duration          `json:"session_timeout" jsonschema:"default=6s" jsonschema_description:"As in replicators."`
	Consumers         string            `json:"consumers" jsonschema:"default=sync,enum=drain,enum=sync" jsonschema_description:"Before a switchover: drain waits until consumer groups with members have read everything; sync carries their exact positions and does not wait."`
	Thresholds        Thresholds        `json:"thresholds,omitzero" jsonschema_description:"Limits of a switchover's gates."`
	Canary            map[string]Client `json:"canary,omitempty" jsonschema_description:"Credentials of an ordinary client, by cluster: with them a switchover proves that clients can no longer write. Without them its report says unproven."`
	Fence             PairFence         `json:"fence,omitzero" jsonschema_description:"How clients are kept from writing to the old active cluster."`
	Hooks             Hooks             `json:"hooks,omitzero" jsonschema_description:"What else is called during a move, to redirect clients, DNS or deployments."`
}

// Thresholds are the limits of a switchover's gates.
type Thresholds struct {
	MessageLag         int      `json:"message_lag" jsonschema:"default=10000,minimum=1" jsonschema_description:"Records that may be missing on the standby when clients are stopped."`
	TransactionTimeout Duration `json:"transaction_timeout" jsonschema:"default=60s" jsonschema_description:"How long open transactions may take to end once clients are stopped."`
	CatchUpTimeout     Duration `json:"catch_up_timeout" jsonschema:"default=60s" jsonschema_description:"How long the standby may take to have everything once clients are stopped; then the switchover is undone."`
	DrainTimeout       Duration `json:"drain_timeout" jsonschema:"default=5m" jsonschema_description:"How long consumer groups may take to read everything, with consumers: drain."`
	TailRecords        int      `json:"tail_records" jsonschema:"default=100,minimum=1" jsonschema_description:"How many of the last records of each partition are compared on both sides before the point of no return."`
}

// Client says how one more client of a cluster encrypts and authenticates. The
// addresses are those of the cluster.
type Client struct {
	TLS  *TLS  `json:"tls,omitempty" jsonschema_description:"Encryption, as in clusters. Default: that of the cluster."`
	SASL *SASL `json:"sasl,omitempty" jsonschema_description:"Authentication, as in clusters."`
}

// PairFence says how clients are kept from writing.
type PairFence struct {
	Method string   `json:"method" jsonschema:"default=acl,enum=acl,enum=hook,enum=manual" jsonschema_description:"acl: their access rules are taken away; hook: the hook does it; manual: somebody does it, and confirms with run approve."`
	Hook   *Hook    `json:"hook,omitempty" jsonschema_description:"For hook. It is called with the action close, and with open when the fence is undone."`
	Keep   []string `json:"keep,omitempty" jsonschema_description:"Principals that keep their right to write, for example User:anabranch, beside those of the clusters' own credentials."`
}

// Hooks are called during a move.
type Hooks struct {
	OnFence  *Hook `json:"on_fence,omitempty" jsonschema_description:"After it is proven that clients can no longer write to the old active cluster. When it fails, the move is undone."`
	OnSwitch *Hook `json:"on_switch,omitempty" jsonschema_description:"After the point of no return: clients may be sent to the new active cluster. A failure is reported and stops nothing."`
	OnDone   *Hook `json:"on_done,omitempty" jsonschema_description:"As the last step; of a move that is undone, where on_fence had been called."`
}

// Hook is a command or a web hook. It gets the run as JSON.
type Hook struct {
	Command []string  `json:"command,omitempty" jsonschema_description:"Program and arguments; no shell. The run is on its standard input. Exit code 0 is success."`
	Webhook string    `json:"webhook,omitempty" jsonschema_description:"URL to which the run is posted. Status 2xx is success."`
	Token   dr.Secret `json:"token,omitzero" jsonschema_description:"Bearer token for webhook, which then must be https or a loopback address."`
	Timeout Duration  `json:"timeout" jsonschema:"default=30s" jsonschema_description:"How long it may take."`
}

// The choices of consumers.
const (
	ConsumersDrain = "drain"
	ConsumersSync  = "sync"
)

// The choices of fence.method.
const (
	FenceACL    = "acl"
	FenceHook   = "hook"
	FenceManual = "manual"
)

// DefaultPair returns the defaults of an entry of pairs. What replicators have
// too has the same default there.
func DefaultPair() Pair {
	r := DefaultReplicator()
	return Pair{
		StartingPosition: r.StartingPosition, Compression: r.Compression, TopicSettings: dr.SettingsFollow, DeletedTopics: r.DeletedTopics,
		Delivery: r.Delivery, Groups: r.Groups, ACLs: r.ACLs, Audit: r.Audit, MemoryBudget: r.MemoryBudget,
		SettingsInterval: r.SettingsInterval, DiscoveryInterval: r.DiscoveryInterval, SessionTimeout: r.SessionTimeout,
		Consumers: ConsumersSync, Fence: PairFence{Method: FenceACL},
		Thresholds: Thresholds{
			MessageLag: 10000, TransactionTimeout: Duration(time.Minute), CatchUpTimeout: Duration(time.Minute),
			DrainTimeout: Duration(5 * time.Minute), TailRecords: 100,
		},
	}
}

// DefaultHook returns the defaults of a hook.
func DefaultHook() Hook { return Hook{Timeout: Duration(30 * time.Second)} }

// PairReplicator returns the name of the replicator of a pair that writes a
// cluster.
func PairReplicator(pair, target string) string { return pair + "-to-" + target }

// Other returns the cluster of the pair that is not the given one.
func (p Pair) Other(cluster string) string {
	if p.Clusters[0] == cluster {
		return p.Clusters[1]
	}
	return p.Clusters[0]
}

// Has reports whether the cluster is one of the pair's.
func (p Pair) Has(cluster string) bool { return slices.Contains(p.Clusters, cluster) }

// replicator returns the replicator of the pair that writes a cluster.
func (p Pair) replicator(name, target string) Replicator {
	r := DefaultReplicator()
	r.Pair, r.Source, r.Target, r.Description = name, p.Other(target), target, p.Description
	r.Topics, r.StartingPosition, r.Compression, r.TopicSettings = p.Topics, p.StartingPosition, p.Compression, p.TopicSettings
	r.DeletedTopics, r.Delivery, r.Groups, r.ACLs, r.Audit, r.Quotas = p.DeletedTopics, p.Delivery, p.Groups, p.ACLs, p.Audit, p.Quotas
	r.RateLimit = p.RateLimit
	r.MemoryBudget, r.SettingsInterval, r.DiscoveryInterval, r.SessionTimeout = p.MemoryBudget, p.SettingsInterval, p.DiscoveryInterval, p.SessionTimeout
	return r
}

// twins adds the replicators that the pairs make, behind those of the file. A
// pair whose clusters are wrong makes none. The replicator that leaves the
// initially active cluster comes first.
func (l *loader) twins() {
	c := l.cfg
	for _, name := range c.PairNames {
		path := "pairs." + name
		p := c.Pairs[name]
		l.name(path, name)
		if l.blamed(path) || !l.pairClusters(path, &p) {
			continue
		}
		c.Pairs[name] = p
		for _, target := range []string{p.Other(p.InitialActive), p.InitialActive} {
			r := PairReplicator(name, target)
			switch _, taken := c.Replicators[r]; {
			case taken:
				l.add(path, "makes a replicator %q, and there is one of that name", r)
				continue
			case !validName.MatchString(r):
				l.add(path, "makes a replicator %q, whose name is too long: names have up to 63 characters", r)
				continue
			}
			if c.Replicators == nil {
				c.Replicators = map[string]Replicator{}
			}
			c.Replicators[r] = p.replicator(name, target)
			c.ReplicatorNames = append(c.ReplicatorNames, r)
		}
	}
}

// pairClusters checks which clusters a pair names, and fills initial_active.
func (l *loader) pairClusters(path string, p *Pair) bool {
	at := path + ".clusters"
	if l.blamed(at) {
		return false
	}
	if len(p.Clusters) != 2 {
		l.add(at, "must name exactly two clusters")
		return false
	}
	ok := true
	for i, c := range p.Clusters {
		if _, known := l.cfg.Clusters[c]; !known {
			l.add(fmt.Sprintf("%s[%d]", at, i), "no cluster named %q%s", c, didYouMean(c, slices.Collect(maps.Keys(l.cfg.Clusters))))
			ok = false
		}
	}
	if p.Clusters[0] == p.Clusters[1] {
		l.add(at, "are the same cluster %q", p.Clusters[0])
		return false
	}
	if p.InitialActive == "" {
		p.InitialActive = p.Clusters[0]
	}
	if !p.Has(p.InitialActive) {
		l.add(path+".initial_active", "%q is not one of clusters%s", p.InitialActive, didYouMean(p.InitialActive, p.Clusters))
		return false
	}
	return ok
}

// move checks what a pair has beside what its replicators have.
func (l *loader) move(path string, p Pair) {
	if l.blamed(path) {
		return
	}
	// The replicators have their settings from here, and are not checked
	// again under their own names.
	r := p.replicator("", "")
	l.copying(path, r)
	l.oneOf(path+".consumers", p.Consumers, ConsumersDrain, ConsumersSync)
	t := path + ".thresholds"
	for key, value := range map[string]int{".message_lag": p.Thresholds.MessageLag, ".tail_records": p.Thresholds.TailRecords} {
		if value < 1 && !l.blamed(t+key) {
			l.add(t+key, "must be 1 or more")
		}
	}
	l.span(t+".transaction_timeout", p.Thresholds.TransactionTimeout, time.Second, 24*time.Hour)
	l.span(t+".catch_up_timeout", p.Thresholds.CatchUpTimeout, time.Second, 24*time.Hour)
	l.span(t+".drain_timeout", p.Thresholds.DrainTimeout, time.Second, 24*time.Hour)
	for _, cluster := range slices.Sorted(maps.Keys(p.Canary)) {
		at := path + ".canary." + cluster
		if !p.Has(cluster) {
			l.add(at, "is not one of clusters%s", didYouMean(cluster, p.Clusters))
		}
		c := p.Canary[cluster]
		if c.TLS != nil {
			l.tls(at+".tls", *c.TLS)
		}
		if c.SASL != nil {
			l.sasl(at+".sasl", *c.SASL)
		}
		l.required(at, c.TLS == nil && c.SASL == nil, ": tls or sasl of an ordinary client is needed")
	}
	l.fence(path+".fence", p.Fence)
	l.hook(path+".hooks.on_fence", p.Hooks.OnFence)
	l.hook(path+".hooks.on_switch", p.Hooks.OnSwitch)
	l.hook(path+".hooks.on_done", p.Hooks.OnDone)
}

func (l *loader) fence(path string, f PairFence) {
	l.oneOf(path+".method", f.Method, FenceACL, FenceHook, FenceManual)
	l.required(path+".hook", f.Method == FenceHook && f.Hook == nil, ": needed for the method hook")
	if f.Method != FenceHook && f.Hook != nil && !l.blamed(path+".method") {
		l.add(path+".hook", "is for the method hook only")
	}
	l.hook(path+".hook", f.Hook)
	for i, k := range f.Keep {
		at := fmt.Sprintf("%s.keep[%d]", path, i)
		if kind, name, ok := strings.Cut(k, ":"); (!ok || kind == "" || name == "" || name == "*") && !l.blamed(at) {
			l.add(at, "%q is not a principal such as User:anabranch", k)
		}
	}
}

func (l *loader) hook(path string, h *Hook) {
	if h == nil || l.blamed(path) {
		return
	}
	switch {
	case len(h.Command) == 0 && h.Webhook == "":
		l.add(path, "needs a command or a webhook")
	case len(h.Command) > 0 && h.Webhook != "":
		l.add(path, "has both a command and a webhook: give one of them")
	case len(h.Command) > 0 && h.Command[0] == "":
		l.add(path+".command", "names no program")
	case h.Webhook != "":
		u, err := url.Parse(h.Webhook)
		switch {
		case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
			l.add(path+".webhook", "is not a URL such as https://ops.example/moves")
		case !h.Token.IsZero() && u.Scheme != "https" && !loopback(u.Hostname()+":1"):
			l.add(path+".webhook", "must be https or a loopback address where a token is sent")
		}
	}
	if !h.Token.IsZero() && h.Webhook == "" {
		l.add(path+".token", "is for webhook only")
	}
	l.span(path+".timeout", h.Timeout, time.Second, time.Hour)
}
