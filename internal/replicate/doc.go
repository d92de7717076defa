// Package replicate is the replicator engine: one Engine is one worker of one
// replicator, which copies the records of a source cluster to a target cluster
// batch by batch, in order, exactly once, for every consumer.
//
// It promises: a record that was committed on the source and selected arrives
// once on the target, whatever crashes, pauses or moves; what can't be promised
// halts the smallest possible unit, with a reason. DESIGN.md explains why.
//
// It never opens a record that need not be opened, adds nothing to a record,
// retries no produce request whose outcome is open, and creates no topic but
// the state topic.
//
// An Engine's methods may be called from any goroutine. Inside, every slot owns
// its pipelines (slot.run), the fetcher reads for all of them, one sender for
// each connection writes for all of them; they speak through mailboxes.
package replicate
