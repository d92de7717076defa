// Package health tries what clients of a cluster do, and measures how long it
// takes: connect, metadata, produce, fetch. It owns the probes and their sums,
// which are the evidence that a failover looks at.
//
// It promises that a probe ends in bounded time whatever the cluster does, and
// that a cluster which answers nothing is a result, not an error. It writes to
// the topic __anabranch_probe only, where that exists, and never creates it: an
// impaired cluster is not asked to make topics.
//
// Probe may be called from any goroutine.
package health
