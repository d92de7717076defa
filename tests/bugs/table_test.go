//go:build seededbugs

package bugs

import (
	"strconv"
	"strings"
)

// harness is a test of the repository that notices mistakes.
type harness struct {
	name string // in the table
	pkg  string
	run  string // -test.run
	args []string
	unit string // of what it counts
	seed string // pattern of the number that it took to fail
}

func (h harness) key() string {
	return h.pkg + " " + h.run + " " + strconv.Quote(strings.Join(h.args, " "))
}

// unit is a plain test.
func unit(pkg, run string) harness {
	return harness{name: "unit", pkg: pkg, run: "^" + run + "$"}
}

// script is a script of one pipeline.
func script(name string) harness {
	return harness{name: "pipeline script", pkg: "internal/replicate", run: "^TestPipeline_Scripts$/^" + name + "$"}
}

// histories is the model of one partition, with histories drawn at random.
func histories(run string) harness {
	return harness{
		name: "random histories", pkg: "internal/replicate", run: "^" + run + "$", args: []string{"-rapid.seed=1", "-rapid.nofailfile", "-rapid.shrinktime=1s"},
		unit: "histories", seed: `failed after (\d+) tests`,
	}
}

func plain() harness      { return histories("TestModel_NothingIsLostOrDoubled") }
func forwarding() harness { return histories("TestModel_NothingIsLostOrDoubledWhenForwarding") }

// property is a property of a pure package.
func property(pkg, run string) harness {
	return harness{name: "property", pkg: pkg, run: "^" + run + "$", args: []string{"-rapid.seed=1", "-rapid.nofailfile", "-rapid.shrinktime=1s"}, unit: "draws", seed: `failed after (\d+) tests`}
}

// fake is a test of whole workers on fake Kafka.
func fake(run string) harness {
	return harness{name: "fake Kafka", pkg: "internal/replicate", run: "^" + run + "$"}
}

// scenario is a scenario of the broker model.
func scenario(name string) harness {
	return harness{name: "model, scenario " + name, pkg: "tests/sim", run: "^TestModel_Scenarios$/^" + name + "$"}
}

// catch is how a mistake is found.
type catch struct {
	bug       string
	by        harness
	says      string // pattern of what the test prints
	validator string // in the table
}

const (
	differs    = `-expected \+got` // of a script
	violations = `\d+ violations map\[`
	model      = `the target holds|the map says|halted: |stands still`
	falseHalt  = `false halt of `
	noHalt     = `not seen: expect halt|there is no halt|want the range|RUNNING`
	notThere   = `: not within `
)

func catches() []catch {
	return []catch{
		{"fence-skipped", scenario("zombie"), violations, "records in the history: doubled"},
		{"fence-not-awaited", scenario("late-writes"), violations + "|" + falseHalt, "records in the history: lost, halt that nothing explains"},
		{"older-marker-taken", unit("internal/kstate", "TestTable_WaitMarkerSeesOnlyTheMarkerOfTheEpoch"), "the marker of an older epoch at", "marker that was waited for"},
		{"rotation-not-waited", scenario("late-writes-of-an-old-id"), violations, "records in the history: doubled"},
		{"witness-ignored", unit("internal/replicate", "TestSlot_TheBrokersMemoryCountsWhereTheTailIsGone"), "position 110, want 115", "position"},
		{"memory-trusted", unit("internal/replicate", "TestSlot_RemembersNothingOnceAnotherWorkerHadIt"), "an epoch of a rival between: true, want false", "memory of a pipeline"},
		{"refusal-forgotten", plain(), model, "target's log against position"},
		{"ended-epoch-sends", unit("internal/replicate", "TestSlot_APipelineOfAnEndedEpochNeverSends"), `ready \d+, flying|panic`, "nothing is sent in an ended epoch"},
		{"segment-forgotten", unit("internal/replicate", "TestModel_SegmentsSurviveAFailedWrite"), "is in no write that succeeded", "segments of the map"},

		{"position-from-counts", unit("internal/replicate", "TestResolvePosition"), "sequence|-want|position", "position"},
		{"holes-taken", unit("internal/replicate", "TestResolvePosition"), "a_hole_in_the_sequences_halts", "position"},
		{"sequence-not-wrapped", unit("internal/replicate", "TestResolvePosition_SequencesWrapAt31Bits"), "sequence|position", "position"},
		{"newer-intent-ignored", plain(), model, "target's log against position"},
		{"rewind-skips", script("rewind"), differs, "picture of the pipeline"},

		{"intent-not-awaited", plain(), model, "target's log against position"},
		{"checkpoint-ahead", plain(), model, "target's log against position"},
		{"quiescent-while-flying", plain(), model, "target's log against position"},
		{"activation-skipped", plain(), model, "target's log against position"},
		{"ledger-lost", scenario("zombie"), notThere, "everything arrives in time"},
		{"deleted-target-recreated", unit("internal/mirror", "TestDeletedOnTheTargetIsNeverCreatedAgain"), "TARGET_DELETED|created again|target_deleted", "state of the topic"},

		{"refused-new-sequence", plain(), model, "target's log against position"},
		{"refused-behind", plain(), model, "target's log against position"},
		{"many-before-first-ack", plain(), model, "target's log against position"},
		{"two-producers-at-once", forwarding(), model, "target's log against position"},
		{"no-answer-not-written", scenario("lost-old-answers"), violations, "records in the history: doubled"},
		{"no-answer-written", plain(), model, "target's log against position"},
		{"lost-connection-not-sent", scenario("lost-old-answers"), violations, "records in the history: doubled"},
		{"base-offset-ignored", script("truncated"), differs, "picture of the pipeline"},
		{"old-refusal-believed", script("old_records"), differs, "picture of the pipeline"},
		{"old-together", script("old_behind_new"), differs, "picture of the pipeline"},
		{"old-at-once", scenario("late-old-writes"), violations, "records in the history: doubled"},
		{"lease-not-asked", unit("internal/replicate", "TestFake_NothingIsWrittenWithoutTheLease"), "the log ends at 3, want 2", "end of the target's log"},
		{"lease-endless", unit("internal/replicate", "TestLease_LastsHalfASession"), "the lease holds: true, want false", "lease"},
		{"two-writers", fake("TestFake_OneGoroutineWritesAtATime"), "want offset", "offsets of the answers"},
		{"memory-not-held", fake("TestFake_BatchesKeepTheirBytesWhileTheyWait"), "halted: |read large|partition [0-9]: ", "no halt that nothing explains, records byte for byte"},

		{"aborts-copied", plain(), model, "target's log against position"},
		{"uncommitted-copied", scenario("zombie"), violations, "records in the history: leaked"},
		{"markers-copied", plain(), "halted: ", "no halt that nothing explains"},
		{"provenance-ignored", scenario("circle"), violations, "records in the history: doubled"},
		{"provenance-by-range", scenario("circle"), falseHalt, "no halt that nothing explains"},
		{"provenance-not-proved", scenario("foreign"), violations + "|" + noHalt, "records in the history: lost"},
		{"skip-unverified", script("corrupt"), differs, "picture of the pipeline"},
		{"new-partition-at-its-end", scenario("restless"), violations + "|" + notThere, "records in the history: lost"},

		{"crc-recomputed", unit("internal/kbatch", "TestPatchKeepsDamageDetectable"), "the checksum came out right", "checksum"},
		{"opened-unverified", unit("internal/kbatch", "TestAssembleStopsAtDamage"), "v2 payload: no error", "checksum"},
		{"compressed-restamped", property("internal/kbatch", "TestAssembleKeepsRecords"), "records differ", "records byte for byte"},
		{"headers-dropped", property("internal/kbatch", "TestAssembleKeepsRecords"), "records differ", "records byte for byte"},
		{"null-becomes-empty", unit("internal/kbatch", "TestJavaEntriesAreAssembled"), "records differ", "records of Java's library"},
		{"gap-closed", plain(), model, "target's log against position"},

		{"extent-off-by-one", plain(), "the map says", "offset map against the target's log"},
		{"extents-merged", property("internal/offsets", "TestMap_AgreesWithOneEntryPerRecord"), "failed after", "offset map against one entry a record"},

		{"recreation-ignored", scenario("new-source"), noHalt, "the halt that is expected"},
		{"out-of-range-skipped", scenario("overtaken"), noHalt, "the halt that is expected"},
		{"truncation-ignored", scenario("refilled-source"), violations + "|" + noHalt, "the halt that is expected"},
		{"target-leader-trusted", scenario("refilled-target"), noHalt, "the halt that is expected"},

		{"expired-facts-kept", unit("internal/runbook", "TestScripts"), "the trace differs", "trace of a script"},
		{"planned-anew", unit("internal/move", "TestSwitchover_KilledTwice"), "rules of a after the abort|no cluster takes writes", "rules before and after"},
		{"guards-not-asked", unit("internal/move", "TestSwitchover_ALeakRollsBack"), "behind the begin: FINISHED", "end of the run"},
		{"groups-not-compared", unit("internal/move", "TestSwitchover_CommitsBehindTheFinalSync"), "the group stands at", "groups when roles swap"},
		{"home-not-asked", unit("internal/move", "TestSwitchover_KilledThenASideIsLost"), "with the run's home away", "refusal that is expected"},
		{"older-roles-resumed", unit("internal/move", "TestSwitchover_KilledThenASideIsLost"), "the old run is|is not over", "end of the older run"},
		{"epoch-used-twice", unit("internal/move", "TestFailover_AbortedAndDoneAgain"), "the replicator is not sealed", "the world when roles swap"},
		{"returned-lock-taken", unit("internal/runbook", "TestLease_AReturnedLockIsNotOurs"), "a lock that was given back", "refusal that is expected"},

		{"lag-from-log-start", fake("TestFake_WhatAWorkerSaysIsTrue"), "a lag of [0-9]+: not within", "lag against what is missing"},
		{"stop-not-followed", scenario("seal"), "records arrived behind the seal", "nothing arrives behind a seal"},
		{"pause-not-followed", fake("TestFake_WhatAWorkerSaysIsTrue"), "records arrived at a paused replicator", "nothing arrives while paused"},
	}
}
