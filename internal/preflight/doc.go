// Package preflight owns the checks of the two clusters of a replicator before
// it runs: can they be reached, are they what the file says, may we do there
// what we need, and are they set up so that the guarantees hold.
//
// It promises to name the cause and the fix of what it finds, and to print the
// kafka-acls.sh command for each permission that is missing. A cluster that
// cannot be reached is a finding, not an error: the other one is still checked.
//
// It changes nothing but the topic __anabranch_probe of the target, in which the
// rules that exactly-once rests on are tried (package kprobe) when nothing else is
// wrong there. Else it creates no topic, writes no record, joins no group and
// leaves every transactional id as it is. Permissions are read from the answers of
// the brokers, or probed with requests about things that do not exist.
//
// Check may be called from any goroutine and leaves nothing running.
package preflight
