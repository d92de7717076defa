// Package groups carries the positions of consumer groups from the source of a
// replicator to its target: it reads what the groups committed, translates it
// through the offset maps, and commits it there.
//
// It promises that a group which goes on at the target skips no record that it
// had not read, and reads none twice while only one of the clusters is written
// to; while both are, it says how many records it may read twice, at most. A
// position is never written to a group that has members on the target (the
// broker refuses that, GroupMetadataManager and ClassicGroup
// validateOffsetCommit), never over one that somebody else wrote, and never
// backwards, unless the source's was reset.
//
// # Positions
//
// One number can't say what a group has read of a topic that several clusters
// write to. So a position is a vector: for each cluster the next unread offset
// of that cluster's own records. A commit on one cluster gives the vector,
// through the maps of all replicators that write there; the vector gives the
// commit on another cluster: the first record there that may be unread.
//
// # Memory
//
// What was written to a group is remembered in the target's state topic before
// it is committed. So a commit that a replicator wrote is told from one that a
// client wrote, also after a crash, and is not carried back; and the position
// can be found from the target alone when the source is gone.
//
// It never writes to the source, never touches records, never commits in a
// transaction, and knows nothing of configuration files.
//
// Run belongs to the owner of a replicator's lead slot: one process at a time.
// Look, Adopt, Final and Stats may be called from any goroutine, on any worker,
// with or without a Run anywhere.
package groups
