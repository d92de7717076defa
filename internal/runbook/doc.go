// Package runbook is the machine of long operations that must survive the death
// of the process that does them: a loop over steps, each planned, recorded, done
// and held against a condition, and a journal that lies in the state topics of
// both clusters of a pair.
//
// It promises that nothing is done before it is recorded what it takes to undo
// it; that one process at a time writes the journal of a pair (an overtaken one
// is refused by the broker, not by politeness); that a run which is killed at any
// moment can be resumed, and before its point of no return aborted, from the
// journal alone; and that the point of no return has one home: the copy of the
// journal on the cluster that the run names.
//
// # The loop
//
// For each step: Plan reads the world and returns data, which is recorded; Do
// works from that data; Gate is asked until it passes; the step is recorded as
// done. Where a step fails before the point of no return, what was begun is
// undone in reverse order. Behind it the run stops, and resume goes on. A step
// whose facts expire is done anew when a run is resumed before its point of no
// return. A dry run calls the same Plan functions.
//
// # The journal
//
// Entries lie under c/run/<pair>/<run>/<seq> in the control partition, written
// by the producer of the transactional id anabranch-pair-<pair>: taking the lock
// gives it a new epoch and fences the partition, as slots do. The other cluster
// gets a copy, behind, as far as it can be reached.
//
// It knows no step's meaning, reads no configuration file, and never touches
// topics other than the state topic.
package runbook
