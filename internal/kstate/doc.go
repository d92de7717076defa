// Package kstate is a table over the compacted topic __anabranch_state of one
// cluster. It owns the topic's layout (how it is created, that its number of
// slots never changes) and a reader that folds it into keys and values.
//
// A Table promises that what Get returns was in the log, that Refresh returns
// only when everything that the log held at the call has been folded, and that
// WaitMarker returns only when the transaction marker itself was read: that is
// the one proof that a fence holds (brokers answer EndTxn before they write the
// markers, TransactionCoordinator.endTransaction).
//
// What may pass by itself, a lost leader among it, is tried again. What the
// cluster refuses is logged once, tried again too, and returned by every method
// that would wait for it.
//
// It never writes a record: slots write theirs under their own producer, which
// is what fences them.
//
// All methods may be called from any goroutine; Run owns the client.
package kstate
