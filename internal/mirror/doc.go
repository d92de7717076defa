// Package mirror keeps the topics of a target cluster like those of a source
// cluster: it creates what is new, grows partition counts, carries settings
// over and, where the operator asked for it, deletes what was deleted.
//
// It promises that a topic which it once created or adopted is never silently
// created again: topics are known by their topic ids (KIP-516), which the
// Ledger remembers durably, so a deletion or a re-creation on either side is a
// state with a reason and not a fresh start. A topic counts as deleted only
// when every broker of its cluster answers that its id is unknown; a missing
// permission or a broker that lags behind never looks like a deletion.
//
// It never touches records, consumer groups or access rules, never shrinks
// anything, never lets a broker create a topic by itself, and never changes a
// target whose cluster id is not the expected one.
//
// Run belongs to the owner of a replicator's lead slot: one process at a time.
// Status, Problem, Plan and Apply may be called from any goroutine.
//
// # Settings
//
// A topic's own settings are those that the source broker reports as
// DYNAMIC_TOPIC_CONFIG. Defaults of the source's brokers are not copied. Some
// settings always stay the target's, see neverCopied. Among them is
// message.timestamp.type: topics are created with CreateTime, because the copy
// of a LogAppendTime topic carries the append times of the source as record
// timestamps, which a target with LogAppendTime would overwrite.
package mirror
