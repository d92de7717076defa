// Package ktest runs Kafka for tests, benchmarks and the quickstart: real
// Apache Kafka brokers as child processes (KRaft, jars resolved by Maven), and
// kfake clusters behind the same small interface. It also records what was
// written and checks what readers see (history and validators).
//
// It promises that brokers listen on the loopback address only, keep their
// ports and data over restarts, and die with the process that started them.
//
// It never touches a process that it did not start and never writes outside
// the cluster's directory, the jar cache and the directory of port locks.
//
// A Cluster may be used from several goroutines at once, except that at most
// one goroutine may start, stop, kill, pause or resume a given broker.
package ktest
