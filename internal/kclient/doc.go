// Package kclient is the one place that makes Kafka clients: TLS, SASL, dialling
// and logging are decided here and nowhere else.
//
// It promises that every connection of a cluster uses the same credentials,
// that certificates and tokens are renewed without a restart, that a failed
// dial says which address failed and why, and that secrets never reach a log or
// an error text.
//
// It has, too, the requests that several packages make alike ([CreateTopic], [ACLs],
// [Brokers], [LookUpTopics], [ListOffsets]).
//
// It never contacts a cluster by itself: New only builds a client, which dials
// on its first request. It never chooses topics, groups or producer settings;
// callers pass those.
//
// New may be called from any goroutine; the clients are safe for concurrent use.
package kclient
