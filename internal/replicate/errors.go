package replicate

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

var (
	// errLease stops writes while the group membership is not confirmed.
	errLease = errors.New("the lease on the slots is not confirmed")
	// errResting ends the service of a slot because an operator or a move asked
	// for it.
	errResting = errors.New("paused or stopped")
)

// codeError is the error of an answer, with the broker's own words.
func codeError(a produceAnswer) error {
	err := kerr.ErrorForCode(a.code)
	if err != nil && a.message != "" {
		return fmt.Errorf("%w: %s", err, a.message)
	}
	return err
}
