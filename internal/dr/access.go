package dr

import (
	"fmt"
	"time"
)

// ACL is one access rule of Kafka, in the words that Kafka's own tools print.
// It is comparable: two rules are the same when all fields are.
type ACL struct {
	ResourceType string `json:"resource_type"` // TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID, DELEGATION_TOKEN or USER
	Pattern      string `json:"pattern"`       // LITERAL or PREFIXED
	Name         string `json:"name"`          // of the resource; "*" with LITERAL: every one
	Principal    string `json:"principal"`     // for example User:app
	Host         string `json:"host"`          // "*": every one
	Operation    string `json:"operation"`     // for example READ
	Permission   string `json:"permission"`    // ALLOW or DENY
}

// String describes the rule to a person, in one line.
func (a ACL) String() string {
	name := a.Name
	if a.Pattern == "PREFIXED" {
		name += "..."
	}
	text := fmt.Sprintf("%s %s %s on %s %s", a.Permission, a.Principal, a.Operation, a.ResourceType, name)
	if a.Host != "*" {
		text += " from " + a.Host
	}
	return text
}

// ACLState says how a rule of one side relates to the other side.
type ACLState string

// The states of a rule.
const (
	ACLSynced    ACLState = "SYNCED"     // on both sides
	ACLMissing   ACLState = "MISSING"    // at the source only: made on the target in the next round
	ACLVanished  ACLState = "VANISHED"   // gone at the source, and the replicator had made it on the target: removed there in the next round
	ACLStaged    ACLState = "STAGED"     // grants writing: kept for a failover, not made on the target
	ACLOpen      ACLState = "OPEN"       // lets clients write on the target, made by somebody else, and the source has it or it is staged for the source
	ACLForeign   ACLState = "FOREIGN"    // on the target only, made by somebody else: never removed
	ACLHeld      ACLState = "HELD"       // not made on the target: denies everybody what the replicator does there, or allows what the source denies and the target does not
	ACLRefused   ACLState = "REFUSED"    // the target does not take it, see reason; tried again
	ACLFence     ACLState = "FENCE"      // made by a fence on this side: never copied
	ACLNotCopied ACLState = "NOT_COPIED" // at the source, and none of this replicator's, see reason
)

// Differs reports whether the state is a difference between the two sides that
// somebody may want to look at. What waits for a failover is none.
func (s ACLState) Differs() bool {
	switch s {
	case ACLMissing, ACLVanished, ACLForeign, ACLHeld, ACLRefused:
		return true
	default:
		return false
	}
}

// Drifts reports whether the state is a difference that stays.
func (s ACLState) Drifts() bool { return s.Differs() && s != ACLMissing && s != ACLVanished }

// ACLEntry is a rule with what is known of it on both sides. The rule is named
// as on the target, one of state NOT_COPIED as at the source.
type ACLEntry struct {
	ACL      ACL      `json:"acl"`
	State    ACLState `json:"state"`
	Reason   string   `json:"reason,omitempty"`
	OnSource bool     `json:"on_source"`
	OnTarget bool     `json:"on_target"`
	Command  string   `json:"command,omitempty"` // STAGED, HELD denials: the kafka-acls.sh command that makes it on the target
}

// QuotaState says how a client quota of one side relates to the other side.
type QuotaState string

// The states of a quota.
const (
	QuotaSynced    QuotaState = "SYNCED"     // the same on both sides
	QuotaMissing   QuotaState = "MISSING"    // at the source only: set on the target in the next round
	QuotaChanged   QuotaState = "CHANGED"    // changed at the source, and the target has the replicator's former value: set in the next round
	QuotaVanished  QuotaState = "VANISHED"   // gone at the source, and the target has the replicator's value: removed in the next round
	QuotaDiffers   QuotaState = "DIFFERS"    // the target has another value, which somebody else set: never overwritten
	QuotaForeign   QuotaState = "FOREIGN"    // on the target only, set by somebody else: never removed
	QuotaRefused   QuotaState = "REFUSED"    // the target does not take it, see reason; tried again
	QuotaNotCopied QuotaState = "NOT_COPIED" // at the source, and none of this replicator's, see reason
)

// Differs reports whether the state is a difference between the two sides.
func (s QuotaState) Differs() bool { return s != QuotaSynced && s != QuotaNotCopied }

// Drifts reports whether the state is a difference that stays.
func (s QuotaState) Drifts() bool {
	return s == QuotaDiffers || s == QuotaForeign || s == QuotaRefused
}

// QuotaEntry is one limit of one entity with its value on both sides.
type QuotaEntry struct {
	Entity string     `json:"entity"` // for example "user=app, client-id=<default>"
	Key    string     `json:"key"`    // for example producer_byte_rate
	Source *float64   `json:"source"` // nil: not set
	Target *float64   `json:"target"`
	State  QuotaState `json:"state"`
	Reason string     `json:"reason,omitempty"`
}

// ScramUser is a user that has SCRAM credentials at the source which the target
// lacks. Kafka never gives credentials away, so they cannot be copied.
type ScramUser struct {
	User       string   `json:"user"`
	Mechanisms []string `json:"mechanisms"` // that the target lacks
	Hint       string   `json:"hint"`       // how to make them
}

// AccessState says whether rules or quotas are carried over.
type AccessState string

// The states of carrying rules or quotas over.
const (
	AccessOff          AccessState = "OFF"            // not wanted by the file
	AccessStarting     AccessState = "STARTING"       // not looked at so far
	AccessRunning      AccessState = "RUNNING"        // kept in step
	AccessPaused       AccessState = "PAUSED"         // compared and left alone while a move of the pair lasts, or while the target is the active cluster
	AccessNoAuthorizer AccessState = "NO_AUTHORIZER"  // a cluster has no authorizer, so there is nothing to carry
	AccessUnauthorized AccessState = "NOT_AUTHORIZED" // the replicator may not read or change them, see grants
	AccessFailed       AccessState = "FAILED"         // see reason; tried again
)

// AccessPart is what is known of the rules, of the quotas or of the credentials
// as a whole.
type AccessPart struct {
	State  AccessState `json:"state"`
	Reason string      `json:"reason,omitempty"`
	Grants []string    `json:"grants,omitempty"` // kafka-acls.sh commands that give what is lacking
}

// AccessStatus is a summary of the access rules and quotas of a replicator.
type AccessStatus struct {
	ACLs      AccessPart `json:"acls"`
	Quotas    AccessPart `json:"quotas"`
	Staged    int        `json:"staged"`              // rules that wait for a failover
	Drift     int        `json:"drift"`               // rules and quotas that differ and stay so
	ChangedAt time.Time  `json:"changed_at,omitzero"` // when it became so
}

// AccessDiff is the comparison of the access rules and quotas of both sides.
type AccessDiff struct {
	Replicator  string       `json:"replicator"`
	ACLs        AccessPart   `json:"acls"`
	Rules       []ACLEntry   `json:"rules"`
	Quotas      AccessPart   `json:"quotas"`
	Limits      []QuotaEntry `json:"limits"`
	Credentials AccessPart   `json:"credentials"` // whether the users with SCRAM credentials could be listed
	Scram       []ScramUser  `json:"scram"`
}

// Differs reports whether the two sides differ in anything.
func (d AccessDiff) Differs() bool {
	for _, e := range d.Rules {
		if e.State.Differs() {
			return true
		}
	}
	for _, e := range d.Limits {
		if e.State.Differs() {
			return true
		}
	}
	return len(d.Scram) > 0
}

// SettingState says how a setting of a topic relates to the other side.
type SettingState string

// The states of a setting that is not the same on both sides.
const (
	SettingPending SettingState = "PENDING" // follows in the next round
	SettingDrift   SettingState = "DRIFT"   // differs and stays so, see reason
	SettingKept    SettingState = "KEPT"    // always the target's own, see reason
)

// SettingDiff is a setting of a topic that is not the same on both sides.
type SettingDiff struct {
	Setting string       `json:"setting"`
	Source  *string      `json:"source"` // nil: not set on the topic, the broker's default holds
	Target  *string      `json:"target"`
	State   SettingState `json:"state"`
	Reason  string       `json:"reason"`
}

// TopicDiff is the comparison of one topic on both sides.
type TopicDiff struct {
	Topic            string        `json:"topic"`
	TargetTopic      string        `json:"target_topic"`
	State            TopicState    `json:"state"`
	Code             HaltCode      `json:"code,omitempty"`
	Reason           string        `json:"reason,omitempty"`
	SourcePartitions int32         `json:"source_partitions"` // 0: there is no such topic, or it is not known
	TargetPartitions int32         `json:"target_partitions"`
	Settings         []SettingDiff `json:"settings"`
}

// Differs reports whether the topic differs in something that does not always
// stay the target's own.
func (d TopicDiff) Differs() bool {
	for _, s := range d.Settings {
		if s.State != SettingKept {
			return true
		}
	}
	return d.SourcePartitions != d.TargetPartitions || d.State != TopicRunning || d.Code != ""
}
