// Package kbatch is the record-batch codec of the hot path. It owns everything
// that is known about the bytes of Kafka's log entries: the header of a record
// batch of magic 2, the messages of magic 0 and 1, their checksums, their
// compression and the framing of their records.
//
// It promises that a batch goes from a fetch response to a produce request
// without being opened ([Patch]), that such a patch keeps a damaged payload
// detectable, and that batches which cannot be passed through are made again
// record for record ([Assembler]): keys, values, headers and timestamps keep
// their bytes, null and empty stay different, and an entry is never opened
// before its checksum was found right.
//
// It never does I/O, starts no goroutine and never panics on foreign bytes.
// Counts and lengths found in the bytes never size an allocation on their own,
// and what a batch decompresses to is limited.
//
// The format follows the classes of org.apache.kafka.common.record:
// DefaultRecordBatch and DefaultRecord (magic 2, KIP-98),
// AbstractLegacyRecordBatch and LegacyRecord (magic 0 and 1, KIP-31, KIP-32).
package kbatch
