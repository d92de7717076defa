package access

import (
	"errors"
	"fmt"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
)

// lackingError says that a cluster has no authorizer, or that the replicator may
// not do on it what is needed. It is a state and not a failure of a round.
type lackingError struct {
	part dr.AccessPart
	err  error
}

// pausedError is the state of a keeper that leaves the target alone.
func pausedError(why string) error {
	return &lackingError{part: dr.AccessPart{State: dr.AccessPaused, Reason: why}}
}

func (e *lackingError) Error() string { return e.part.Reason }

func (e *lackingError) Unwrap() error { return e.err }

// lacking turns what a cluster answered into a state where it is one, else into
// an error of the surface. ops are what the replicator needs on the cluster.
func (a *Access) lacking(s side, what string, ops []string, err error) error {
	c := a.cluster(s)
	if e, ok := errors.AsType[*dr.Error](err); ok {
		return e // it says more
	}
	switch {
	case errors.Is(err, kerr.SecurityDisabled):
		return &lackingError{dr.AccessPart{State: dr.AccessNoAuthorizer, Reason: fmt.Sprintf("the %s cluster %s has no authorizer", s, c.Reach.Name)}, err}
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		principal := kclient.Principal(c.Reach)
		return &lackingError{dr.AccessPart{
			State:  dr.AccessUnauthorized,
			Reason: fmt.Sprintf("%s may not %s of the %s cluster %s: it needs %s on the cluster", principal, what, s, c.Reach.Name, strings.Join(ops, " and ")),
			Grants: []string{kclient.GrantCommand(c.Reach, principal, toolWords(ops), "--cluster")},
		}, err}
	}
	return requestError(s, what, err)
}

// toolWords returns operations as kafka-acls.sh takes them.
func toolWords(ops []string) []string {
	out := make([]string, 0, len(ops))
	for _, op := range ops {
		var b strings.Builder
		for word := range strings.SplitSeq(op, "_") {
			b.WriteString(word[:1] + strings.ToLower(word[1:]))
		}
		out = append(out, b.String())
	}
	return out
}

// requestError makes an error of the surface from the failure of a request.
func requestError(s side, what string, err error) error {
	code, hint := dr.CodeUnreachable, "check the "+string(s)+" cluster; it is tried again"
	for _, denied := range []error{kerr.SaslAuthenticationFailed, kerr.ClusterAuthorizationFailed, kerr.IllegalSaslState, kerr.UnsupportedSaslMechanism} {
		if errors.Is(err, denied) {
			code, hint = dr.CodeUnauthorized, "check the credentials for the "+string(s)+" cluster; it is tried again"
		}
	}
	if errors.Is(err, kerr.UnsupportedVersion) {
		code, hint = dr.CodeUnsupported, "the brokers of the "+string(s)+" cluster are too old for it"
	}
	return &dr.Error{Code: code, Hint: hint, Err: fmt.Errorf("%s of the %s cluster: %w", what, s, err)}
}
