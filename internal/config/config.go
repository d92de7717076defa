package config

import (
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// Config is the content of the file after defaults and expansion. Callers never
// write to it.
type Config struct {
	Version     int                   `json:"version" jsonschema:"default=1,minimum=1" jsonschema_description:"Number of this content. A worker with a higher number takes over; the same number with other content is refused."`
	WorkerID    string                `json:"worker_id,omitempty" jsonschema_description:"Name of this process among the workers of the same replicators. Default: <host name>-<api port>."`
	Clusters    map[string]Cluster    `json:"clusters" jsonschema_description:"The Kafka clusters by name."`
	Replicators map[string]Replicator `json:"replicators,omitempty" jsonschema_description:"The replicators by name. Each copies from one cluster to another."`
	Pairs       map[string]Pair       `json:"pairs,omitempty" jsonschema_description:"Pairs of clusters by name, one of which is active and the other ready to become it. Each makes two replicators."`
	API         API                   `json:"api" jsonschema_description:"The HTTP API of the worker."`
	Log         Log                   `json:"log" jsonschema_description:"What is logged, and how."`

	ReplicatorNames []string `json:"-"` // in the order of the file, those of pairs behind the others
	PairNames       []string `json:"-"` // in the order of the file
	Path            string   `json:"-"` // of the file
}

// Cluster says how to reach one Kafka cluster.
type Cluster struct {
	BootstrapServers []string   `json:"bootstrap_servers" jsonschema:"minItems=1" jsonschema_description:"Addresses host:port of some brokers."`
	TLS              *TLS       `json:"tls,omitempty" jsonschema_description:"Encryption. Write {} for the defaults; without this key the connection is not encrypted."`
	SASL             *SASL      `json:"sasl,omitempty" jsonschema_description:"Authentication."`
	StateTopic       StateTopic `json:"state_topic" jsonschema_description:"How __anabranch_state is created on this cluster. Has no effect on an existing topic."`
}

// TLS configures encryption. Paths are absolute after loading.
type TLS struct {
	CAFile             string `json:"ca_file,omitempty" file:"ca" jsonschema_description:"PEM file of the authorities that sign the brokers' certificates. Default: those of the system."`
	CertFile           string `json:"cert_file,omitempty" file:"plain" jsonschema_description:"PEM file of the client certificate (mutual TLS). Read again when it changes."`
	KeyFile            string `json:"key_file,omitempty" file:"plain" jsonschema_description:"PEM file of the client certificate's key. Read again when it changes."`
	ServerName         string `json:"server_name,omitempty" jsonschema_description:"Name expected in the brokers' certificates. Default: the host that is dialled."`
	InsecureSkipVerify bool   `json:"insecure_skip_verify,omitempty" jsonschema:"default=false" jsonschema_description:"Accept any certificate. For tests only."`
}

// SASL configures authentication.
type SASL struct {
	Mechanism string    `json:"mechanism" jsonschema:"enum=PLAIN,enum=SCRAM-SHA-256,enum=SCRAM-SHA-512,enum=OAUTHBEARER,enum=AWS_MSK_IAM" jsonschema_description:"How to authenticate."`
	Username  string    `json:"username,omitempty" jsonschema_description:"For PLAIN and SCRAM."`
	Password  dr.Secret `json:"password,omitzero" jsonschema_description:"For PLAIN and SCRAM."`
	OAuth     *OAuth    `json:"oauth,omitempty" jsonschema_description:"For OAUTHBEARER: the client credentials grant."`
	AWS       *AWS      `json:"aws,omitempty" jsonschema_description:"For AWS_MSK_IAM."`
}

// OAuth configures the client credentials grant.
type OAuth struct {
	TokenURL     string    `json:"token_url" jsonschema_description:"Token endpoint; https unless the host is a loopback address."`
	ClientID     string    `json:"client_id" jsonschema_description:"Client id."`
	ClientSecret dr.Secret `json:"client_secret" jsonschema_description:"Client secret."`
	Scope        string    `json:"scope,omitempty" jsonschema_description:"Scopes, separated by spaces."`
	CAFile       string    `json:"ca_file,omitempty" file:"ca" jsonschema_description:"PEM file of the authorities that sign the endpoint's certificate. Default: those of the system."`
}

// AWS configures AWS_MSK_IAM.
type AWS struct {
	AccessKey       string    `json:"access_key,omitempty" jsonschema_description:"Access key id."`
	SecretKey       dr.Secret `json:"secret_key,omitzero" jsonschema_description:"Secret access key."`
	SessionToken    dr.Secret `json:"session_token,omitzero" jsonschema_description:"Session token of temporary credentials."`
	CredentialsFile string    `json:"credentials_file,omitempty" file:"plain" jsonschema_description:"Shared credentials file, instead of the keys. Read again at every authentication."`
	Profile         string    `json:"profile,omitempty" jsonschema:"default=default" jsonschema_description:"Section of credentials_file."`
}

// StateTopic says how the state topic is created.
type StateTopic struct {
	Partitions        int `json:"partitions" jsonschema:"default=16,minimum=1,maximum=256" jsonschema_description:"Number of slots, the units that workers share."`
	ReplicationFactor int `json:"replication_factor" jsonschema:"default=0,minimum=0,maximum=32" jsonschema_description:"0 means 3, or the number of brokers if there are fewer."`
}

// Replicator is one directed replication.
type Replicator struct {
	Source            string           `json:"source" jsonschema_description:"Name of the cluster to read."`
	Target            string           `json:"target" jsonschema_description:"Name of the cluster to write."`
	Description       string           `json:"description,omitempty" jsonschema:"maxLength=1024" jsonschema_description:"Free text, shown by describe."`
	Topics            Topics           `json:"topics" jsonschema_description:"Which topics are copied. Default: all but internal ones."`
	TopicNames        dr.TopicNames    `json:"topic_names" jsonschema:"default=identical,enum=identical,enum=prefixed" jsonschema_description:"identical keeps the names, prefixed writes <source>.<topic>."`
	StartingPosition  string           `json:"starting_position" jsonschema:"default=earliest" jsonschema_description:"earliest, latest or an RFC 3339 time. Topics found later are copied from their first record."`
	Compression       string           `json:"compression" jsonschema:"default=source,enum=source,enum=none,enum=gzip,enum=snappy,enum=lz4,enum=zstd" jsonschema_description:"Codec on the target; source keeps each batch as it is."`
	TopicSettings     dr.TopicSettings `json:"topic_settings" jsonschema:"enum=follow,enum=own" jsonschema_description:"follow: the target's topics take the source's settings; own: they keep theirs and differences are shown. Default: follow, unless another replicator listed before already decides for the same topics."`
	DeletedTopics     dr.DeletePolicy  `json:"deleted_topics" jsonschema:"default=ignore,enum=ignore,enum=follow" jsonschema_description:"What happens on the target when a topic is deleted at the source."`
	Forward           string           `json:"forward" jsonschema:"default=native,enum=native,enum=all" jsonschema_description:"native copies what clients wrote on the source; all also what replicators wrote there (for chains)."`
	Delivery          dr.Delivery      `json:"delivery,omitempty" jsonschema:"default=exactly_once,enum=exactly_once,enum=at_least_once" jsonschema_description:"The least that will do where the target's brokers are found to break rules of Apache Kafka: exactly_once copies nothing then, at_least_once copies, and records may arrive twice."`
	Groups            Groups           `json:"groups,omitzero" jsonschema_description:"The positions of consumer groups."`
	ACLs              ACLs             `json:"acls,omitzero" jsonschema_description:"Access rules of the source that are made on the target; those that grant writing wait there for a failover."`
	Audit             Audit            `json:"audit,omitzero" jsonschema_description:"Compare both clusters now and then, record for record."`
	Quotas            bool             `json:"quotas,omitempty" jsonschema:"default=false" jsonschema_description:"Set the source's client quotas on the target."`
	RateLimit         RateLimit        `json:"rate_limit,omitzero" jsonschema_description:"Bytes a second of record batches that all workers together write to the target; a rate such as 50MiB, or a default and a schedule."`
	MemoryBudget      Size             `json:"memory_budget" jsonschema:"default=64MiB" jsonschema_description:"Bytes of record batches held in memory."`
	SettingsInterval  Duration         `json:"settings_interval" jsonschema:"default=10s" jsonschema_description:"How often topic settings and partition counts are compared."`
	DiscoveryInterval Duration         `json:"discovery_interval" jsonschema:"default=500ms" jsonschema_description:"How often the source is asked for new topics."`
	SessionTimeout    Duration         `json:"session_timeout" jsonschema:"default=6s" jsonschema_description:"After this time without a sign of life a worker's slots are taken over."`

	Pair string `json:"-"` // that makes it; empty: it has an entry of its own
}

// Topics selects topics by RE2 patterns that match whole names.
type Topics struct {
	Include []string `json:"include,omitempty" jsonschema_description:"Patterns; a topic must match one. Default: all but internal ones."`
	Exclude []string `json:"exclude,omitempty" jsonschema_description:"Patterns; a topic that matches one is not copied."`
}

// Groups says which consumer groups' positions are carried to the target, and
// how often.
type Groups struct {
	Enabled      bool             `json:"enabled" jsonschema:"default=true" jsonschema_description:"Carry the positions of consumer groups to the target."`
	Include      []string         `json:"include,omitempty" jsonschema_description:"RE2 patterns that match whole names; a group must match one. Default: all but internal ones."`
	Exclude      []string         `json:"exclude,omitempty" jsonschema_description:"Patterns; a group that matches one is left out."`
	SyncInterval Duration         `json:"sync_interval" jsonschema:"default=5s" jsonschema_description:"How often the committed offsets of the source are read; at least 500ms."`
	Deleted      dr.DeletedGroups `json:"deleted" jsonschema:"default=ignore,enum=ignore,enum=follow" jsonschema_description:"What happens on the target when a group's offsets are gone at the source: ignore keeps them there, follow deletes what this replicator wrote."`
}

// ACLs configures the copying of access rules. Their interval is that of quotas
// too.
type ACLs struct {
	Enabled  bool     `json:"enabled" jsonschema:"default=true" jsonschema_description:"Whether access rules are copied. Where a cluster has no authorizer, or the replicator may not read or change rules, nothing happens but that it says so."`
	Interval Duration `json:"interval" jsonschema:"default=60s" jsonschema_description:"How often access rules and quotas are compared."`
}

// Audit says how often the records of both clusters are compared, how fast, and how
// much of them at a time.
type Audit struct {
	Interval      Duration `json:"interval" jsonschema:"default=0s" jsonschema_description:"Time from the end of one pass to the beginning of the next; 1m to 2160h. 0s: there is no audit."`
	RateLimit     Size     `json:"rate_limit" jsonschema:"default=4MiB" jsonschema_description:"Bytes a second that are read at most, from both clusters together."`
	SamplePercent int      `json:"sample_percent" jsonschema:"default=100,minimum=1,maximum=100" jsonschema_description:"How much of all records a pass compares, another part each time."`
}

// API configures the HTTP API of the worker.
type API struct {
	Listen    string    `json:"listen" jsonschema:"default=127.0.0.1:8080" jsonschema_description:"Address host:port. One that is not loopback needs tls and token_file."`
	TLS       *APITLS   `json:"tls,omitempty" jsonschema_description:"Certificate of the API."`
	TokenFile string    `json:"token_file,omitempty" file:"plain" jsonschema_description:"File with the bearer token that clients must send."`
	Token     dr.Secret `json:"-"` // content of TokenFile
}

// APITLS names the certificate of the API.
type APITLS struct {
	CertFile string `json:"cert_file" file:"plain" jsonschema_description:"PEM file of the certificate."`
	KeyFile  string `json:"key_file" file:"plain" jsonschema_description:"PEM file of its key."`
}

// Log configures logging.
type Log struct {
	Level  string `json:"level" jsonschema:"default=info,enum=debug,enum=info,enum=warn,enum=error" jsonschema_description:"Least severe level that is written."`
	Format string `json:"format" jsonschema:"default=text,enum=text,enum=json" jsonschema_description:"How lines look."`
}

// The choices of starting_position other than a time.
const (
	StartEarliest = "earliest"
	StartLatest   = "latest"
)

// The choices of forward.
const (
	ForwardNative = "native" // what clients wrote on the source
	ForwardAll    = "all"    // also what replicators wrote there
)

// StartTime returns the time of starting_position; ok is false for earliest and
// latest.
func (r Replicator) StartTime() (t time.Time, ok bool) {
	t, err := time.Parse(time.RFC3339, r.StartingPosition)
	return t, err == nil
}

// Naming returns how topics are named on the target.
func (r Replicator) Naming() dr.Naming { return dr.Naming{Mode: r.TopicNames, Source: r.Source} }

// Filter returns the topic filter, which was validated when the file was loaded.
// That of a pair's replicator also selects the topic of the pair's drills.
func (r Replicator) Filter() (dr.TopicFilter, error) {
	f, err := dr.NewTopicFilter(r.Topics.Include, r.Topics.Exclude)
	if r.Pair != "" {
		f = f.With(dr.CanaryName(r.Pair))
	}
	return f, err
}

// GroupFilter returns the filter of consumer groups, which was validated when
// the file was loaded. That of a pair's replicator also selects the group of the
// pair's drills.
func (r Replicator) GroupFilter() (dr.GroupFilter, error) {
	f, err := dr.NewGroupFilter(r.Groups.Include, r.Groups.Exclude)
	if r.Pair != "" {
		f = f.With(dr.CanaryName(r.Pair))
	}
	return f, err
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Version: 1,
		API:     API{Listen: "127.0.0.1:8080"},
		Log:     Log{Level: "info", Format: "text"},
	}
}

// DefaultCluster returns the defaults of an entry of clusters.
func DefaultCluster() Cluster {
	return Cluster{StateTopic: StateTopic{Partitions: 16}}
}

// DefaultReplicator returns the defaults of an entry of replicators.
// TopicSettings stays empty: its default depends on the other replicators.
func DefaultReplicator() Replicator {
	return Replicator{
		TopicNames:        dr.NamesIdentical,
		StartingPosition:  StartEarliest,
		Compression:       "source",
		DeletedTopics:     dr.DeleteIgnore,
		Forward:           ForwardNative,
		Delivery:          dr.DeliveryExactlyOnce,
		Groups:            DefaultGroups(),
		ACLs:              DefaultACLs(),
		Audit:             DefaultAudit(),
		MemoryBudget:      64 << 20,
		SettingsInterval:  Duration(10 * time.Second),
		DiscoveryInterval: Duration(500 * time.Millisecond),
		SessionTimeout:    Duration(6 * time.Second),
	}
}

// DefaultGroups returns the defaults of groups.
func DefaultGroups() Groups {
	return Groups{Enabled: true, SyncInterval: Duration(5 * time.Second), Deleted: dr.GroupsKeep}
}

// DefaultACLs returns the defaults of acls.
func DefaultACLs() ACLs { return ACLs{Enabled: true, Interval: Duration(time.Minute)} }

// DefaultAudit returns the defaults of audit: there is none, for it reads both logs
// again, which costs traffic between sites.
func DefaultAudit() Audit { return Audit{RateLimit: 4 << 20, SamplePercent: 100} }
