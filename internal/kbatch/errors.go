package kbatch

import (
	"errors"
	"fmt"
)

var (
	// ErrPartial is returned by Next when the bytes end before the entry does. A
	// broker cuts the last entry of a fetch response at the byte limit, so this
	// is the usual end of a response and no damage.
	ErrPartial = errors.New("entry is incomplete")

	// ErrNotPatchable is returned by Patch, wrapped with the reason, for a sound
	// batch that cannot be passed through by a change of its header.
	ErrNotPatchable = errors.New("batch cannot be passed through")

	// ErrControl is returned by Assemble for a control batch: it holds a
	// transaction marker and no records of anybody, and no client may write one.
	ErrControl = errors.New("control batch cannot be assembled")

	// ErrNoControlRecord is returned by Header.ControlType when the batch has no
	// control record to look at: no control batch at all, or one whose record
	// the log cleaner removed.
	ErrNoControlRecord = errors.New("batch has no control record")
)

// CorruptError is returned when the bytes of an entry contradict themselves: a
// wrong checksum, a length that leads nowhere, a payload that does not
// decompress. Retrying the same bytes is useless.
type CorruptError struct {
	Offset int64  // offset in the entry's header as far as it can be trusted, -1 if unknown
	Reason string // what is wrong, for people
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt entry at offset %d: %s", e.Offset, e.Reason)
}

// TooLargeError is returned by Assemble for a record that exceeds
// Assembler.MaxBytes though it is alone in its batch.
type TooLargeError struct {
	Offset int64 // source offset of the record
	Size   int   // bytes of a batch that holds only this record
	Max    int   // the limit in bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("record at offset %d needs a batch of %d bytes, allowed are %d", e.Offset, e.Size, e.Max)
}

func corrupt(offset int64, format string, args ...any) error {
	return &CorruptError{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}
