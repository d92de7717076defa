package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kerr"
)

// PartialError is returned by Apply when some topics failed and the rest was
// done.
type PartialError struct {
	Topics map[string]error // by source topic name
}

func (e *PartialError) Error() string {
	names := make([]string, 0, len(e.Topics))
	for name := range e.Topics {
		names = append(names, name)
	}
	slices.Sort(names)
	const most = 5
	var b strings.Builder
	fmt.Fprintf(&b, "%d topics failed", len(names))
	for i, name := range names {
		if i == most {
			b.WriteString("; ...")
			break
		}
		fmt.Fprintf(&b, "; %s: %v", name, e.Topics[name])
	}
	return b.String()
}

// add notes the failure of a topic; the first one of a topic is kept.
func (e *PartialError) add(topic string, err error) {
	if e.Topics == nil {
		e.Topics = make(map[string]error)
	}
	if _, ok := e.Topics[topic]; !ok {
		e.Topics[topic] = err
	}
}

// topicError is what a broker said about one topic, with what we asked for.
type topicError struct {
	operation string // Kafka's name of the ACL operation that was needed
	topic     string
	cluster   side
	code      int16
	message   string // of the broker, may be empty
}

type side string

const (
	onSource side = "source"
	onTarget side = "target"
)

func (e *topicError) Error() string {
	if e.unauthorized() {
		return fmt.Sprintf("%s on topic %s is not allowed on the %s cluster", e.operation, e.topic, e.cluster)
	}
	text := e.message
	if text == "" {
		text = kerr.ErrorForCode(e.code).Error()
	}
	return fmt.Sprintf("the %s cluster answers: %s", e.cluster, text)
}

// Unwrap returns the Kafka error, so that errors.Is works on it.
func (e *topicError) Unwrap() error { return kerr.ErrorForCode(e.code) }

func (e *topicError) unauthorized() bool {
	switch e.code {
	case kerr.TopicAuthorizationFailed.Code, kerr.ClusterAuthorizationFailed.Code:
		return true
	}
	return false
}

// halt says which halt code a topic's failure has; empty for failures that pass
// by themselves.
func (e *topicError) halt() dr.HaltCode {
	if e.unauthorized() {
		return dr.HaltUnauthorized
	}
	// Throttled controllers (KIP-599), elections, timeouts and running
	// reassignments are all marked retriable or pass with the next try.
	switch e.code {
	case kerr.ThrottlingQuotaExceeded.Code, kerr.ReassignmentInProgress.Code, kerr.UnknownTopicOrPartition.Code:
		return ""
	}
	if kerr.IsRetriable(kerr.ErrorForCode(e.code)) {
		return ""
	}
	return dr.HaltRefused
}

// refusesSetting reports whether the broker may have meant one of the settings
// of the request: an unknown or invalid one (InvalidConfigurationException), or
// one that a create or alter policy of the broker forbids (KIP-108, KIP-133).
func (e *topicError) refusesSetting() bool {
	switch e.code {
	case kerr.InvalidConfig.Code, kerr.InvalidRequest.Code, kerr.PolicyViolation.Code:
		return true
	}
	return false
}

// requestError makes an error of the surface from the failure of a whole
// request to one of the clusters.
func requestError(cluster side, what string, err error) error {
	code, hint := dr.CodeUnreachable, "check the bootstrap servers of the "+string(cluster)+" cluster; it is tried again"
	for _, denied := range []error{kerr.SaslAuthenticationFailed, kerr.ClusterAuthorizationFailed, kerr.IllegalSaslState, kerr.UnsupportedSaslMechanism} {
		if errors.Is(err, denied) {
			code, hint = dr.CodeUnauthorized, "check the credentials for the "+string(cluster)+" cluster; it is tried again"
		}
	}
	return &dr.Error{Code: code, Hint: hint, Err: fmt.Errorf("%s of the %s cluster: %w", what, cluster, err)}
}
