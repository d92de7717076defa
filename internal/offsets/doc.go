// Package offsets is the offset map of one partition: which target offset
// holds which source offset, as extents (source start, target start, length).
// It is pure data: no I/O, no clock, no goroutine. A Map has one owner while it
// grows; one that does not change any more may be read by many.
//
// Look-ups both ways are exact for what the map holds, and say how good they
// are otherwise (Fit): they never skip a record. Memory is bounded: extents that
// follow each other at equal distances are one run, full segments of runs are
// kept encoded, and the oldest segments are folded into a floor, which only says
// "the replicator wrote in this range".
package offsets
