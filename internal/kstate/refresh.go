package kstate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kclient"
)

// Refresh returns when everything that the topic held at the call was folded.
// A topic that does not exist is empty.
func (t *Table) Refresh(ctx context.Context) error {
	t.mu.Lock()
	cl := t.mu.client
	t.mu.Unlock()
	if cl == nil {
		if err := t.wait(ctx, func() bool { cl = t.mu.client; return cl != nil }); err != nil {
			return err
		}
	}
	n, err := partitions(ctx, cl)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	if err != nil {
		return err
	}
	for p := range n {
		if err := t.RefreshPartition(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// RefreshPartition is Refresh for one partition. What was deleted before it was
// read is not waited for: see Lost.
func (t *Table) RefreshPartition(ctx context.Context, part int32) error {
	t.mu.Lock()
	cl, n := t.mu.client, len(t.mu.parts)
	t.mu.Unlock()
	if cl == nil {
		return t.Refresh(ctx)
	}
	if n == 0 {
		if _, err := partitions(ctx, cl); errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil
		} else if err != nil {
			return err
		}
	}
	end, err := t.logOffset(ctx, cl, part, highWatermark)
	if err != nil {
		return fmt.Errorf("read the end of %s partition %d: %w", Topic, part, err)
	}
	read := int64(-1)
	for pause := time.Duration(0); ; pause = slowRead {
		err := t.waitFor(ctx, pause, func() bool {
			if int(part) >= len(t.mu.parts) {
				return false
			}
			read = t.mu.parts[part].next
			return read >= end || read == 0 && pause == 0
		})
		if err != nil && !errors.Is(err, errSlow) || read >= end {
			return err
		}
		// Nothing was read yet, or nothing comes: a log from which everything
		// was deleted never answers a fetch.
		start, err := t.logOffset(ctx, cl, part, logStart)
		if err != nil {
			return fmt.Errorf("read the beginning of %s partition %d: %w", Topic, part, err)
		}
		t.mu.Lock()
		if int(part) < len(t.mu.parts) {
			t.beginsLocked(part, start)
		}
		t.mu.Unlock()
	}
}

// The offsets that brokers list by these timestamps.
const (
	highWatermark = -1
	logStart      = -2
)

// slowRead is how long a refresh waits before it asks whether what it waits for
// is still there.
const slowRead = 2 * time.Second

// errSlow is the cause when waitFor did not wait any longer.
var errSlow = errors.New("not read yet")

// waitFor is wait for some time only, 0 means without end.
func (t *Table) waitFor(ctx context.Context, limit time.Duration, ok func() bool) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errSlow)
		defer cancel()
	}
	return t.wait(ctx, ok)
}

// logOffset returns the high watermark or the log start offset of one partition.
// What may pass by itself is tried again while the table's patience lasts.
func (t *Table) logOffset(ctx context.Context, cl *kgo.Client, part int32, which int64) (int64, error) {
	began := time.Now()
	var wait backoff
	var why error // of the attempt before
	for {
		end, err := kclient.ListOffset(ctx, cl, Topic, part, which)
		switch since := time.Since(began); {
		case err == nil:
			return end, nil
		case t.Err() != nil:
			return 0, t.Err() // a closed client only says that its connections died
		case ctx.Err() != nil && why != nil:
			return 0, fmt.Errorf("%w: %w", context.Cause(ctx), why)
		case ctx.Err() != nil, !passing(err):
			return 0, err
		case since > t.o.Patience:
			return 0, fmt.Errorf("tried for %v: %w", since.Round(time.Millisecond), err)
		}
		why = err
		wait.sleep(ctx) //nolint:errcheck // the next attempt finds out
	}
}
