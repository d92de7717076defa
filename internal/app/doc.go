// Package app is the composition root of a worker: it turns a configuration
// into state tables, engines and the API, runs them, and stops them in the
// reverse order. It owns the supervision of the replicators and what the API
// and the metrics say of them.
//
// It promises that the failure of one replicator leaves the others alone and
// stays visible with its reason, and that on a stop the engines drain before
// the tables that they need end, while the API answers to the last.
//
// It holds no replication logic and never talks to a cluster itself.
package app
