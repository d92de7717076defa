// Package kprobe finds out whether a cluster keeps the rules that exactly-once
// replication rests on. Apache Kafka does; other servers that speak the protocol
// may not, and do not say so: a producer of an older epoch may still write, or
// the first batch of a new one be refused.
//
// It owns the topic __anabranch_probe, of one partition, and tries the rules
// there with a producer of its own. It promises a verdict only about rules that
// the cluster answered clearly, twice, while its leader stayed the same; what a
// broker could not answer just now is an error, and the caller asks again.
//
// It never touches another topic or another producer.
//
// Run may be called from any goroutine, in several processes at once, and leaves
// nothing running.
package kprobe
