package replicate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/seeded"
)

// outcome is what an answer to a produce request proves.
type outcome int

const (
	outcomeWritten outcome = iota
	outcomeRefused         // certainly not written, or the broker will notice a second copy: may be sent again, same bytes and sequence
	outcomeBarred          // certainly not written, and will not be: the pipeline halted
	outcomeOpen            // may be written: the log must be read
)

// judge classifies an answer. The list of errors that mean "not written" is
// closed; everything that is not on it leaves the outcome open. A refusal that
// will not pass by itself halts the pipeline.
//
// NOT_LEADER_OR_FOLLOWER and UNKNOWN_TOPIC_OR_PARTITION may come after the
// append, when leadership moves while the request waits for its replicas
// (DelayedProduce.tryComplete). Sending the same bytes with the same sequence
// again is exact as long as the new leader remembers the producer, which it
// does for fresh records; for old ones the log must be read.
func (p *pipeline) judge(it *item, a produceAnswer, sendErr error) outcome {
	if errors.Is(sendErr, errNotSent) {
		p.waiting = sendErr.Error()
		return outcomeRefused
	}
	if sendErr != nil && seeded.Bug("no-answer-not-written") {
		return outcomeRefused
	}
	if sendErr != nil && seeded.Bug("no-answer-written") {
		it.answer.baseOffset = p.targetEnd
		return outcomeWritten
	}
	if sendErr != nil {
		p.note(fmt.Errorf("produce to the target: %w", sendErr))
		return outcomeOpen
	}
	if a.code == 0 {
		return outcomeWritten
	}
	err := kerr.ErrorForCode(a.code)
	text := err.Error()
	if a.message != "" {
		text += ": " + a.message
	}
	at := it.pieces[0].SourceOffset
	is := func(list ...*kerr.Error) bool {
		return slices.ContainsFunc(list, func(k *kerr.Error) bool { return errors.Is(err, k) })
	}
	switch {
	case is(kerr.NotEnoughReplicas): // checked before the append
		p.waiting = "the target has fewer in-sync replicas than min.insync.replicas"
		return outcomeRefused
	case is(kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.LeaderNotAvailable, kerr.UnknownTopicID, kerr.FencedLeaderEpoch):
		if p.old(it) && !seeded.Bug("old-refusal-believed") {
			break
		}
		p.waiting = "the target's leader moves: " + text
		return outcomeRefused
	case is(kerr.OutOfOrderSequenceNumber):
		if p.stalled { // behind a refused one, as it must be
			return outcomeRefused
		}
	case is(kerr.MessageTooLarge, kerr.RecordListTooLarge):
		if it.count == 1 {
			p.stop(dr.HaltTooLarge, fmt.Sprintf("the record at source offset %d is too large for target topic %s: %s", at, p.target, text))
			return outcomeBarred
		}
		p.maxBytes, p.lowered = min(p.maxBytes, max(1024, len(it.bytes)/2)), true
		p.note(fmt.Errorf("target topic %s takes smaller batches than its configuration said: %s", p.target, text))
		return outcomeOpen
	case is(kerr.CorruptMessage, kerr.InvalidRecord):
		if bad := kbatch.VerifyCRC(it.bytes); bad != nil {
			p.stop(dr.HaltCorrupt, fmt.Sprintf("source offsets from %d on (%d records): the payload does not match its checksum: %v", at, it.count, bad))
			return outcomeBarred
		}
		if is(kerr.InvalidRecord) {
			p.stop(dr.HaltRefused, fmt.Sprintf("source offsets from %d on (%d records): %s", at, it.count, text))
			return outcomeBarred
		}
	case is(kerr.InvalidTimestamp, kerr.UnsupportedForMessageFormat, kerr.PolicyViolation, kerr.UnsupportedCompressionType, kerr.InvalidTopicException):
		p.stop(dr.HaltRefused, fmt.Sprintf("source offsets from %d on (%d records): %s", at, it.count, text))
		return outcomeBarred
	case is(kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed):
		p.stop(dr.HaltUnauthorized, fmt.Sprintf("produce to target topic %s: %s", p.target, text))
		return outcomeBarred
	}
	p.note(fmt.Errorf("produce to target topic %s partition %d: %w: %s", p.target, p.id.partition, err, a.message))
	return outcomeOpen
}
