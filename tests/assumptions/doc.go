// Package assumptions holds the test of what the replicator assumes about real
// Kafka brokers: fencing by markers, sequences per partition and epoch, expiry
// of producers by record time, validation of batches, topic ids and leader
// epochs. Every subtest is named for what it proves. A broker version on which
// one fails needs another design, not another test.
//
// It promises to run in minutes against brokers that internal/ktest starts,
// for every supported version and level of the feature transaction.version,
// and never touches another cluster. The same tests hold internal/kmodel to what
// real brokers do.
package assumptions
