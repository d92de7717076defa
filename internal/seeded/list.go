//go:build seededbugs

package seeded

// Mistake is one thing that the engine can be made to do wrong.
type Mistake struct {
	Name   string
	Broken string // what is wrong then
	Stands string // the failure of real replicators that it stands for
}

// List returns all of them: those of moves, and the others in the order of a
// record's way.
func List() []Mistake {
	return append(moves(), []Mistake{
		// Taking over.
		{"fence-skipped", "no partition is fenced, checkpoints are believed", "restart from the last committed offset: what was sent behind it is sent again"},
		{"fence-not-awaited", "the tail is read to where the log ends now, not to our own marker", "EndTxn is taken for the fence; a late request of the dead owner lands behind what was read"},
		{"older-marker-taken", "a marker of an older epoch in the state topic is taken for the own fence", "state of a dying owner arrives after its successor has read"},
		{"rotation-not-waited", "after a new producer id nobody waits for the old owner's session to end", "a transactional id expired: its markers fence nobody"},
		{"witness-ignored", "a tail that may be short is believed alone", "the cleaner or retention took the last batches of a compacted or short-lived target"},
		{"memory-trusted", "memory of before counts although another worker had the slot", "a worker that was paused goes on where it stood"},
		{"refusal-forgotten", "memory counts although a batch was sent and refused", "a refusal that hid an append, forgotten when the epoch changes"},
		{"ended-epoch-sends", "a pipeline of an epoch that ended goes on sending", "a goroutine that outlives its lease"},
		{"segment-forgotten", "full segments of the offset map are dropped at a take-over", "a write that failed takes a part of the map with it"},

		// Position.
		{"position-from-counts", "records in the tail are counted, sequences are not looked at", "the target is compacted or holds others' records: the count is short"},
		{"holes-taken", "a hole in the sequences is taken as it is", "a batch was lost on the target and the copy goes on"},
		{"sequence-not-wrapped", "sequences are compared as they are on the wire", "behind 2^31 records of one epoch"},
		{"newer-intent-ignored", "the checkpoint wins over a newer intent for its sequence", "the first record of an epoch lies behind a gap"},
		{"rewind-skips", "what was fetched and not sent is not fetched again", "a buffer that is let go under memory pressure takes its records with it"},

		// State.
		{"intent-not-awaited", "a batch flies before its intents are durable", "the mapping of offsets is committed on the side, afterwards"},
		{"checkpoint-ahead", "the checkpoint says how far was read, not how far was acknowledged", "offsets committed before the producer flushed: lost at a crash"},
		{"quiescent-while-flying", "a quiescent checkpoint is written while batches fly", "a clean shutdown is recorded that was none"},
		{"activation-skipped", "a quiet partition sends without saying so first", "the optimisation for idle partitions that forgets the first batch"},
		{"ledger-lost", "what was created on the target is not recorded", "the memory of created topics lost"},
		{"deleted-target-recreated", "a target topic that somebody deleted is created again", "auto-creation that turns a deletion into an empty topic"},

		// Sending and answers.
		{"refused-new-sequence", "a refused batch is sent again with another sequence", "a retry in the application instead of the producer: idempotence does not see it"},
		{"refused-behind", "refused batches go behind those that wait", "retries with several requests in flight and no idempotence: reordered"},
		{"many-before-first-ack", "several batches fly before the broker knows the producer", "an unknown producer may begin with any sequence: the second overtakes a refused first"},
		{"two-producers-at-once", "batches of two producers fly together", "sequences order only their own producer"},
		{"no-answer-not-written", "a lost answer counts as not written, and the batch is sent again", "a blind retry behind a broker that forgot the producer"},
		{"no-answer-written", "a lost answer counts as written", "fire and forget, or an error callback that is not looked at"},
		{"lost-connection-not-sent", "requests on a lost connection count as never sent", "a client that cannot tell a refused connection from a broken one"},
		{"base-offset-ignored", "an acknowledgement below what was acknowledged before is fine", "a target log that was cut or made anew, unseen"},
		{"old-refusal-believed", "NOT_LEADER for old records counts as not written", "back-fill: the broker has forgotten the producer when the retry comes"},
		{"old-together", "several batches of old records fly at once", "back-fill: batch n+1 is taken after n was refused"},
		{"old-at-once", "old records are sent at once after a take-over", "back-fill: the broker forgets the fence, and a late batch of the dead owner lands"},
		{"lease-not-asked", "requests are written without asking the lease", "a worker cut off from its group, but not from the data"},
		{"lease-endless", "the lease never ends", "a zombie keeps writing after another owner was appointed"},
		{"two-writers", "two goroutines write to one connection", "a missing lock around flush: frames mixed, batches out of order"},
		{"memory-not-held", "the memory of a batch is used again once it was sent", "a pooled buffer that is returned before its acknowledgement"},

		// What is copied.
		{"aborts-copied", "the index of aborted transactions is ignored", "aborted records become visible on the target"},
		{"uncommitted-copied", "the source is read uncommitted", "records are copied whose transaction aborts later"},
		{"markers-copied", "control batches are taken for data", "a marker is given to a consumer, or stops the partition"},
		{"provenance-ignored", "every record counts as native", "a mirror in both directions: records circulate"},
		{"provenance-by-range", "a producer id near a registered one counts as registered", "loop detection by name, prefix or range: natives taken for copies"},
		{"provenance-not-proved", "a registered producer id is proof enough", "a log that was cloned or restored, or a client with the replicator's ids: natives left out"},
		{"skip-unverified", "a batch is skipped by its header although its checksum is wrong", "a flipped bit turns data into something to be left out"},
		{"new-partition-at-its-end", "new partitions are copied from their end", "auto.offset.reset=latest and a partition that was added under load"},

		// Bytes.
		{"crc-recomputed", "the checksum of a patched batch is computed anew", "damage on the source's disk is laundered"},
		{"opened-unverified", "a batch is opened without looking at its checksum", "damage is decoded and encoded again as if it were data"},
		{"compressed-restamped", "compressed records get the batch's largest time", "timestamps change on the way: retention and time seeks differ"},
		{"headers-dropped", "assembled records lose their headers", "a record class without headers in the middle of the way"},
		{"null-becomes-empty", "null keys and values become empty ones", "tombstones turn into records"},
		{"gap-closed", "a gap of a compacted batch is not noted", "offset translation that counts: consumers resume at the wrong record"},

		// The offset map.
		{"extent-off-by-one", "an extent is entered one offset too high", "a consumer that moves over skips a record"},
		{"extents-merged", "extents merge that do not continue on the target", "others' records between ours are not counted"},

		// What must stop it.
		{"recreation-ignored", "a source topic that was made anew is not noticed", "another topic's records behind those of the old"},
		{"out-of-range-skipped", "where the source deleted records, reading goes on behind them", "auto.offset.reset=earliest: a silent hole"},
		{"truncation-ignored", "the source is not told which leader epoch was read", "an unclean election on the source: records that it no longer has, others missing"},
		{"target-leader-trusted", "a new leader of the target is believed to hold everything", "an unclean election on the target: acknowledged records gone"},

		// What is said.
		{"lag-from-log-start", "the lag counts from the start of the log", "a lag that never falls, or hides what is missing"},
		{"stop-not-followed", "orders of a move to stop are not followed", "an old worker, or the old active that returns, goes on copying behind a failover"},
		{"pause-not-followed", "a worker that copies goes on when it is paused", "a pause that is shown and not kept"},
	}...)
}

// moves are the mistakes of runs and their journal.
func moves() []Mistake {
	return []Mistake{
		{"expired-facts-kept", "a run that is resumed believes what it found before it died", "a switchover that goes on an hour later as if the fence had held"},
		{"planned-anew", "a step that was half done is planned anew when it is resumed", "what the first attempt took away is no longer there to be noted, and undo gives nothing back"},
		{"guards-not-asked", "nobody looks whether the fence holds after it was proven", "a writer that bypasses the fence, between its proof and the point of no return"},
		{"groups-not-compared", "commits behind the final sync of groups are not looked for", "consumers that go on while the roles swap read again what they had read"},
		{"home-not-asked", "a run is taken up although the copy of its journal that decides cannot be read", "the point of no return was passed on the side that is gone, and the other undoes it"},
		{"older-roles-resumed", "a run of older roles is resumed", "the returning cluster's half of a move goes on beside a later failover"},
		{"epoch-used-twice", "the undoing of a seal does not use its role epoch up", "the second failover is taken for the first, which was released"},
		{"returned-lock-taken", "a holder that was silent takes a lock that nobody holds", "a process that was frozen wakes up behind another's work and goes on with its own"},
	}
}
