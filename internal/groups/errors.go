package groups

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
)

// The classes of failures, see Stats.
const (
	ClassUnauthorized = "not_authorized" // a cluster does not allow it
	ClassRefused      = "refused"        // a broker answered with an error
	ClassUnreachable  = "unreachable"    // no answer
	ClassState        = "state"          // the memory or the offset maps can't be read or written
)

// Classes returns all classes of failures.
func Classes() []string {
	return []string{ClassUnauthorized, ClassRefused, ClassUnreachable, ClassState}
}

// stateError is a failure of the memory or the offset maps.
type stateError struct{ err error }

func (e *stateError) Error() string { return e.err.Error() }
func (e *stateError) Unwrap() error { return e.err }

// classOf names the class of a failure.
func classOf(err error) string {
	if _, ok := errors.AsType[*stateError](err); ok {
		return ClassState
	}
	for _, denied := range []error{kerr.GroupAuthorizationFailed, kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed} {
		if errors.Is(err, denied) {
			return ClassUnauthorized
		}
	}
	if _, ok := errors.AsType[*kerr.Error](err); ok {
		return ClassRefused
	}
	return ClassUnreachable
}

// SourceError is what could not be learned of the source. All that could be done
// without it was done.
type SourceError struct{ Err error }

// Error implements error.
func (e *SourceError) Error() string { return "source cluster: " + e.Err.Error() }

// Unwrap returns what it was made of.
func (e *SourceError) Unwrap() error { return e.Err }
