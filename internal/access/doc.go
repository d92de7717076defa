// Package access keeps the access rules (ACLs) and client quotas of a target
// cluster like those of a source cluster.
//
// It promises that a rule or quota of the target which it did not make is never
// removed and never overwritten: what it makes is in the Ledger, durably, before
// it is made. A rule that grants writing (ALLOW of WRITE or ALL on topics and
// transactional ids, of IDEMPOTENT_WRITE on the cluster) is never made on the
// target; it is staged in the Ledger, for a failover to make. What is denied at
// the source is denied before anything is allowed, and a rule that would allow on
// the target what a denial forbids at the source is neither made nor staged while
// the target lacks that denial.
//
// It never copies the rules of the replicators' own principals and resources,
// those that a fence made, the brokers' own right (CLUSTER_ACTION), and what a
// replicator made at the source: so two replicators in opposite directions, or a
// ring of them, never send a rule round. It cannot copy SCRAM credentials, which
// Kafka never gives away; Diff says whose are lacking.
//
// A rule counts as gone at the source only when every broker of the source says
// so: rules reach brokers one after the other, and one that lags behind must not
// take a client's rights away.
//
// Run belongs to the owner of a replicator's lead slot: one process at a time,
// which Options.Lead confirms before each write.
// Diff and Status may be called from any goroutine.
package access
