// Package kmodel is a model of Apache Kafka brokers for tests. It speaks the
// real wire protocol over net.Conn, in memory or on the loopback address, takes
// its time from package time (so that it runs in a bubble of testing/synctest)
// and keeps everything in memory.
//
// It has the rules that other fakes hide and that exactly-once replication
// stands or falls with: the state of producers per partition and its expiry by
// record time (ProducerStateManager, ProducerAppendInfo), markers that a
// coordinator writes after it answered (TransactionCoordinator,
// TransactionMarkerChannelManager), a high watermark behind the end of the log,
// leader epochs, elections that lose records (LeaderEpochFileCache), retention
// and the cleaner, and what a broker refuses of a batch (LogValidator).
//
// It promises that a rule that differs from a real broker's is a mistake: the
// package tests/assumptions runs the same tests against real brokers and
// against this model. What it does not have at all it does not advertise: fetch
// sessions, the new group protocol, offsets in transactions, followers that
// lag, SASL and TLS. Every partition has one log, of which replicas hold a part
// or all; what replicas know of producers is kept for each of them.
//
// Faults are methods of Cluster and come from a seed where they are random. The
// seed does not decide how goroutines are scheduled.
//
// All methods may be called from any goroutine. The package never listens on
// anything but the loopback address.
package kmodel
