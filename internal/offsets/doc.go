// Package offsets is the offset map of one partition: which target offset
// holds which source offset, as extents (source start, target start, length).
// It is pure data: no I/O, no clock, no goroutine; a Map has one owner.
//
// Look-ups both ways are exact for what the map holds. The number of extents
// kept exact is bounded: the oldest are folded into a floor, which only says
// "this range was written by the replicator" and translates to the first exact
// extent's start, so that it never skips a record.
package offsets
