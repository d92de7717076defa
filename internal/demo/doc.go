// Package demo walks a stranger through replication both ways between two
// clusters: each step says what is done, shows it and checks it. It owns the
// two embedded clusters of the command demo and the story; what replicates is
// the worker of package app, the same code as serve.
//
// It promises that every claim which it prints was checked on the clusters
// themselves, and that Run returns an error when one does not hold.
//
// The embedded clusters keep their data in memory and listen on loopback
// addresses only. They are a stand-in for real brokers: enough to see the
// product work, no proof that it survives failures.
package demo
