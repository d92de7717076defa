package ktest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errStop marks an error after which polling makes no sense.
var errStop = errors.New("stop polling")

// poll calls f every 20 ms until it returns nil, an error that wraps errStop,
// or ctx ends; then the last error is returned.
func poll(ctx context.Context, f func() error) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := f()
		if err == nil || errors.Is(err, errStop) {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
