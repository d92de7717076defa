package runbook

import (
	"context"
	"errors"
)

// ErrFenced is returned when a write was refused because another one took the
// store over. Nothing was written.
var ErrFenced = errors.New("another process took the journal over")

// Record is a key and its value in the control partition; a nil value removes
// the key.
type Record struct {
	Key   string
	Value []byte
}

// Store is the control partition of one cluster's state topic, as journals of
// one pair use it. All methods may be called from any goroutine.
type Store interface {
	// Take refuses all former writers of the pair from now on, and returns the
	// one that may write. What they wrote is in every Read afterwards.
	// ErrFenced: another one was taking it at the same time.
	Take(ctx context.Context) (Writer, error)
	// Read returns what the partition held at the call under the prefixes. A
	// topic that does not exist is empty; one that lost records is an error.
	Read(ctx context.Context, prefixes ...string) (map[string][]byte, error)
	// Put writes one record that is not fenced.
	Put(ctx context.Context, r Record) error
}

// Writer writes fenced records. It is used by one goroutine at a time.
type Writer interface {
	// Write writes all of the records or none. ErrFenced: none. After any other
	// error it is not known which; Take shows it.
	Write(ctx context.Context, records ...Record) error
}
