// Command campaign attacks replicators on real Apache Kafka until a time is over:
// rounds of a pair of fresh clusters, replicated in both directions by two worker
// processes each, under a load of several kinds, with a fault every few seconds.
// After each round everything that readers of both isolation levels see on both
// sides is compared with what was written.
//
// Its random choices follow from a seed: a round's seed makes the same clusters,
// loads and sequence of faults again, though not the same schedule of processes. A
// round that fails does not end the campaign; its logs stay, with the command that
// runs it again. The report is written after every round, as text and as JSON.
//
// The workers are processes of this same binary. The command ends all that it
// started, also when it is interrupted, and its processes die with it.
//
// See RELIABILITY.md for what is promised and how this attacks it.
package main
