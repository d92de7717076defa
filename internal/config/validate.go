package config

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// validate checks the decoded configuration and fills the defaults that depend
// on other values.
func (l *loader) validate() {
	c := l.cfg
	if c.Version < 1 {
		l.add("version", "must be 1 or more")
	}
	if len(c.Clusters) == 0 && !l.blamed("clusters") {
		l.add("clusters", "missing: no cluster is defined")
	}
	if len(c.Replicators) == 0 && len(c.Pairs) == 0 && !l.blamed("replicators") && !l.blamed("pairs") {
		l.add("replicators", "missing: no replicator is defined, and no pair")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Clusters)) {
		l.name("clusters."+name, name)
		l.cluster("clusters."+name, c.Clusters[name])
	}
	for _, name := range c.ReplicatorNames {
		l.name("replicators."+name, name)
		l.replicator("replicators."+name, c.Replicators[name])
	}
	for _, name := range c.PairNames {
		l.move("pairs."+name, c.Pairs[name])
	}
	l.twins()
	l.api(&c.API)
	l.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	l.oneOf("log.format", c.Log.Format, "text", "json")
	if c.WorkerID == "" {
		c.WorkerID = l.defaultWorkerID(c.API.Listen)
	}
	if len(c.WorkerID) > 200 || strings.ContainsFunc(c.WorkerID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		l.add("worker_id", "must be at most 200 printable ASCII characters without spaces")
	}
	l.pairings()
}

// given reports whether the file has the key; its own problems were told then.
func (l *loader) given(path string) bool {
	_, ok := l.lines[path]
	return ok
}

// blamed reports whether a problem at path was told already, so that its
// consequences are not told as well.
func (l *loader) blamed(path string) bool {
	return slices.ContainsFunc(l.problems.List, func(p Problem) bool {
		return p.Path == path || strings.HasPrefix(p.Path, path+"[")
	})
}

func (l *loader) name(path, name string) {
	if !validName.MatchString(name) {
		l.add(path, "a name must be 1 to 63 characters of a-z, 0-9, '.', '_' and '-', and start with a letter or digit")
	}
}

func (l *loader) oneOf(path, value string, choices ...string) {
	if slices.Contains(choices, value) || l.blamed(path) {
		return
	}
	l.add(path, "unknown value %q (choose %s)%s", value, strings.Join(choices, ", "), didYouMean(value, choices))
}

func (l *loader) within(path string, value, low, high int) {
	if value < low || value > high {
		l.add(path, "must be between %d and %d", low, high)
	}
}

// required adds a problem for a key that is missing or empty.
func (l *loader) required(path string, empty bool, why string) {
	if empty && !l.blamed(path) {
		l.add(path, "missing%s", why)
	}
}

func (l *loader) cluster(path string, c Cluster) {
	if l.blamed(path) {
		return
	}
	l.required(path+".bootstrap_servers", len(c.BootstrapServers) == 0, ": at least one host:port is needed")
	for i, s := range c.BootstrapServers {
		p := fmt.Sprintf("%s.bootstrap_servers[%d]", path, i)
		if err := kclient.CheckAddress(s); err != nil && !l.blamed(p) {
			l.add(p, "%s", err)
		}
	}
	l.within(path+".state_topic.partitions", c.StateTopic.Partitions, 1, 256)
	l.within(path+".state_topic.replication_factor", c.StateTopic.ReplicationFactor, 0, 32)
	if c.TLS != nil {
		l.tls(path+".tls", *c.TLS)
	}
	if c.SASL != nil {
		l.sasl(path+".sasl", *c.SASL)
	}
}

func (l *loader) tls(path string, t TLS) {
	l.caFile(path+".ca_file", t.CAFile)
	l.keyPair(path, t.CertFile, t.KeyFile)
}

func (l *loader) caFile(path, file string) {
	if file == "" || l.blamed(path) {
		return
	}
	if _, err := kclient.LoadCA(file); err != nil {
		l.add(path, "%s", strings.TrimPrefix(err.Error(), "read ca_file: "))
	}
}

func (l *loader) keyPair(path, cert, key string) {
	switch {
	case l.blamed(path + ".cert_file"), l.blamed(path + ".key_file"):
	case cert == "" && key != "":
		l.add(path+".cert_file", "missing: key_file is given")
	case cert != "" && key == "":
		l.add(path+".key_file", "missing: cert_file is given")
	case cert != "":
		if _, err := kclient.LoadKeyPair(cert, key); err != nil {
			at := path + ".cert_file"
			if strings.HasPrefix(err.Error(), "read key_file: ") {
				at = path + ".key_file"
			}
			l.add(at, "%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "read cert_file: "), "read key_file: "))
		}
	}
}

func (l *loader) sasl(path string, s SASL) {
	l.required(path+".mechanism", s.Mechanism == "", " (choose "+strings.Join(kclient.Mechanisms(), ", ")+")")
	if s.Mechanism == "" {
		return
	}
	l.oneOf(path+".mechanism", s.Mechanism, kclient.Mechanisms()...)
	why := ": needed for " + s.Mechanism
	switch s.Mechanism {
	case kclient.MechanismPlain, kclient.MechanismScramSHA256, kclient.MechanismScramSHA512:
		l.required(path+".username", s.Username == "", why)
		l.required(path+".password", s.Password.IsZero(), why)
	case kclient.MechanismOAuthBearer:
		var o OAuth
		if s.OAuth != nil {
			o = *s.OAuth
		}
		l.required(path+".oauth.client_id", o.ClientID == "", why)
		l.required(path+".oauth.client_secret", o.ClientSecret.IsZero(), why)
		l.required(path+".oauth.token_url", o.TokenURL == "", why)
		if o.TokenURL != "" {
			if err := kclient.CheckTokenURL(o.TokenURL); err != nil {
				l.add(path+".oauth.token_url", "%s", err)
			}
		}
		l.caFile(path+".oauth.ca_file", o.CAFile)
	case kclient.MechanismAWSMSKIAM:
		var a AWS
		if s.AWS != nil {
			a = *s.AWS
		}
		if a.CredentialsFile != "" {
			if _, err := readBounded(a.CredentialsFile); err != nil {
				l.add(path+".aws.credentials_file", "%s %s", a.CredentialsFile, readError(err))
			}
			return
		}
		l.required(path+".aws.access_key", a.AccessKey == "", why+" (or give credentials_file)")
		l.required(path+".aws.secret_key", a.SecretKey.IsZero(), why+" (or give credentials_file)")
	}
}

func (l *loader) replicator(path string, r Replicator) {
	if l.blamed(path) {
		return
	}
	l.clusterName(path+".source", r.Source)
	l.clusterName(path+".target", r.Target)
	if r.Source != "" && r.Source == r.Target {
		l.add(path+".target", "source and target are the same cluster %q", r.Source)
	}
	l.oneOf(path+".topic_names", string(r.TopicNames), string(dr.NamesIdentical), string(dr.NamesPrefixed))
	l.oneOf(path+".forward", r.Forward, ForwardNative, ForwardAll)
	l.copying(path, r)
}

// copying checks what an entry of replicators and one of pairs have both.
func (l *loader) copying(path string, r Replicator) {
	if len(r.Description) > 1024 {
		l.add(path+".description", "must be at most 1024 bytes")
	}
	l.patterns(path+".topics.include", r.Topics.Include)
	l.patterns(path+".topics.exclude", r.Topics.Exclude)
	if _, ok := r.StartTime(); !ok && r.StartingPosition != StartEarliest && r.StartingPosition != StartLatest && !l.blamed(path+".starting_position") {
		l.add(path+".starting_position", "%q is neither earliest, latest nor an RFC 3339 time such as 2026-01-31T08:00:00Z", r.StartingPosition)
	}
	l.oneOf(path+".compression", r.Compression, "source", "none", "gzip", "snappy", "lz4", "zstd")
	if r.TopicSettings != "" || l.given(path+".topic_settings") {
		l.oneOf(path+".topic_settings", string(r.TopicSettings), string(dr.SettingsFollow), string(dr.SettingsOwn))
	}
	l.oneOf(path+".deleted_topics", string(r.DeletedTopics), string(dr.DeleteIgnore), string(dr.DeleteFollow))
	l.oneOf(path+".delivery", string(r.Delivery), string(dr.DeliveryExactlyOnce), string(dr.DeliveryAtLeastOnce))
	l.groups(path+".groups", r.Groups)
	l.rates(path+".rate_limit", r.RateLimit)
	if p := path + ".memory_budget"; r.MemoryBudget < 4<<20 && !l.blamed(p) {
		l.add(p, "must be at least 4MiB")
	}
	l.span(path+".settings_interval", r.SettingsInterval, time.Second, 24*time.Hour)
	l.span(path+".discovery_interval", r.DiscoveryInterval, 100*time.Millisecond, time.Hour)
	l.span(path+".acls.interval", r.ACLs.Interval, time.Second, 24*time.Hour)
	if r.Audit.Interval != 0 {
		l.span(path+".audit.interval", r.Audit.Interval, time.Minute, 90*24*time.Hour)
	}
	if p := path + ".audit.rate_limit"; r.Audit.RateLimit < 1<<10 && !l.blamed(p) {
		l.add(p, "must be at least 1KiB")
	}
	if p := path + ".audit.sample_percent"; (r.Audit.SamplePercent < 1 || r.Audit.SamplePercent > 100) && !l.blamed(p) {
		l.add(p, "must be between 1 and 100")
	}
	l.span(path+".session_timeout", r.SessionTimeout, time.Second, 30*time.Minute)
}

func (l *loader) groups(path string, g Groups) {
	l.patterns(path+".include", g.Include)
	l.patterns(path+".exclude", g.Exclude)
	l.span(path+".sync_interval", g.SyncInterval, 500*time.Millisecond, time.Hour)
	l.oneOf(path+".deleted", string(g.Deleted), string(dr.GroupsKeep), string(dr.GroupsFollow))
}

func (l *loader) span(path string, d Duration, low, high time.Duration) {
	if (d.Std() < low || d.Std() > high) && !l.blamed(path) {
		l.add(path, "must be between %s and %s", low, high)
	}
}

func (l *loader) clusterName(path, name string) {
	l.required(path, name == "", ": the name of a cluster is needed")
	if _, ok := l.cfg.Clusters[name]; ok || name == "" {
		return
	}
	l.add(path, "no cluster named %q%s", name, didYouMean(name, slices.Collect(maps.Keys(l.cfg.Clusters))))
}

func (l *loader) patterns(path string, patterns []string) {
	for i, p := range patterns {
		at := fmt.Sprintf("%s[%d]", path, i)
		if l.blamed(at) {
			continue
		}
		// Parsed alone, not only as part of the whole filter: "a)|(b" would
		// be fine there and mean something else.
		if _, err := syntax.Parse(p, syntax.Perl); err != nil {
			l.add(at, "not a pattern of RE2 syntax: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
			continue
		}
		if p == "" {
			l.add(at, "an empty pattern matches no name")
		}
	}
}

func (l *loader) api(a *API) {
	if err := kclient.CheckAddress(withHost(a.Listen)); err != nil {
		if !l.blamed("api.listen") {
			l.add("api.listen", "%q is not host:port", a.Listen)
		}
		return
	}
	if a.TLS != nil {
		l.required("api.tls.cert_file", a.TLS.CertFile == "" && a.TLS.KeyFile == "", "")
		l.keyPair("api.tls", a.TLS.CertFile, a.TLS.KeyFile)
	}
	if a.TokenFile != "" {
		raw, err := readBounded(a.TokenFile)
		token := strings.TrimSpace(string(raw))
		switch {
		case err != nil:
			l.add("api.token_file", "%s %s", a.TokenFile, readError(err))
		case len(token) < 16:
			l.add("api.token_file", "%s must hold a token of 16 characters or more", a.TokenFile)
		default:
			a.Token = dr.NewSecret(token)
		}
	}
	if !loopback(a.Listen) && (a.TLS == nil || a.TokenFile == "") {
		l.add("api.listen", "%q is not a loopback address: api.tls and api.token_file are needed", a.Listen)
	}
}

// withHost completes ":8080", which listens on every address.
func withHost(listen string) string {
	if strings.HasPrefix(listen, ":") {
		return "0.0.0.0" + listen
	}
	// Port 0 lets the system choose.
	if host, port, err := net.SplitHostPort(listen); err == nil && port == "0" {
		return net.JoinHostPort(host, "1")
	}
	return listen
}

func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
