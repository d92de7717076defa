package cli

import (
	"fmt"

	"github.com/anabranch/anabranch/internal/dr"
)

// halt is a halted partition, or a topic that is halted as a whole.
type halt struct {
	replicator, topic string
	partition         *dr.PartitionStatus // nil: the whole topic
	code              dr.HaltCode
	reason            string
}

// advice is what an operator can do about a halt.
type advice struct {
	say     string // the situation, and what to do first
	choices []choice
}

// choice is one command and what it would mean.
type choice struct{ command, means string }

// adviceFor returns the advice for a halt. Choices are in the order in which they
// should be considered.
func adviceFor(h halt) advice {
	match := h.do(dr.ResolveMatch, "looks for the end of the target's log in the source's and proposes offsets; changes nothing")
	restart := h.do(dr.ResolveRestart, "copies from the beginning again: what the target holds already is there twice")
	recreate := h.recreate("deletes the topic on the target and copies it from the beginning")
	startAt := h.startAt
	switch h.code {
	case dr.HaltRetention:
		return advice{"Records were deleted at the source before they were copied. They are lost for the target.", []choice{
			h.do(dr.ResolveContinue, "accepts the gap and goes on at the first offset that is left"), recreate,
		}}
	case dr.HaltSourceRecreated:
		return advice{"The topic was deleted and created again at the source. The target holds the records of the old one.", []choice{
			recreate, h.whole(dr.ResolveRestart, "keeps the old records and copies the new topic behind them"),
		}}
	case dr.HaltSourceTruncated:
		return advice{"The source lost records which the target has (unclean leader election).", []choice{
			h.do(dr.ResolveContinue, "keeps them on the target and goes on from where the source's log was cut"),
			match, startAt("copies from the offset on"), recreate,
		}}
	case dr.HaltTargetTruncated:
		return advice{"The target lost records which it had acknowledged. Find out from where they are missing.", []choice{
			match, startAt("copies from the offset that match proposed"), recreate,
		}}
	case dr.HaltTargetRecreated, dr.HaltTargetDeleted:
		return advice{"Somebody deleted the topic on the target. It is never silently created again.", []choice{
			h.recreate("creates the topic on the target and copies it from the beginning"),
		}}
	case dr.HaltTooLarge:
		return advice{"Raise max.message.bytes of the topic on the target (where topic_settings is follow, of the source's topic: the target follows), then go on.", []choice{
			h.do(dr.ResolveContinue, "tries again"), startAt("leaves out what is below the offset"),
		}}
	case dr.HaltCorrupt:
		return advice{"The source serves a damaged batch. Repair it there (another replica may be intact), then go on.", []choice{
			h.do(dr.ResolveContinue, "tries again"), startAt("leaves out what is below the offset"),
		}}
	case dr.HaltUnauthorized:
		return advice{"Grant the permission; anabranch config check FILE --connect prints the command. It then goes on by itself.", nil}
	case dr.HaltRefused:
		return advice{"Change the setting of the target's topic that refuses the records, then go on.", []choice{
			h.do(dr.ResolveContinue, "tries again"), startAt("leaves out what is below the offset"),
		}}
	case dr.HaltForeign:
		return advice{"A batch carries a replicator's producer id where no replicator wrote: the log was cloned, linked or restored. Find out where it is from.", []choice{
			match, startAt("leaves out what is below the offset"), restart, recreate,
		}}
	case dr.HaltExisting:
		return advice{"Both sides held records when the replicator first ran, the target's of no replicator. Decide which source offset comes next.", []choice{
			match, startAt("copies from the offset that match proposed"), restart, recreate,
		}}
	case dr.HaltPosition:
		return advice{"Nothing on the target says where to resume.", []choice{
			match, startAt("copies from the offset that match proposed"), restart, recreate,
		}}
	case dr.HaltNames:
		return advice{"Put topic_names of the configuration file back: the topic is replicated under another name.", nil}
	default:
		return advice{"This version knows no advice for the reason; the server may be newer.", []choice{match}}
	}
}

// do returns the command that takes an action.
func (h halt) do(action dr.ResolveAction, means string) choice {
	cmd := fmt.Sprintf("anabranch replicator resolve %s --topic %s", h.replicator, h.topic)
	if h.partition != nil {
		cmd += fmt.Sprintf(" --partition %d", h.partition.Partition)
	}
	return choice{cmd + " --action " + string(action), means}
}

// recreate is for the whole topic even if only one partition is halted.
func (h halt) recreate(means string) choice { return h.whole(dr.ResolveRecreate, means) }

// whole returns the command that takes an action for the whole topic.
func (h halt) whole(action dr.ResolveAction, means string) choice {
	h.partition = nil
	return h.do(action, means)
}

func (h halt) startAt(means string) choice {
	c := h.do(dr.ResolveStartAt, means)
	if h.partition != nil {
		c.command += fmt.Sprintf(" --offset %d=OFFSET", h.partition.Partition)
	} else {
		c.command += " --offset PARTITION=OFFSET"
	}
	return c
}
