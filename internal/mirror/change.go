package mirror

import (
	"fmt"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
)

// Action is the kind of a Change.
type Action string

// The actions, in the order in which Apply carries them out.
const (
	ActionAdopt  Action = "adopt"  // take the existing target topic into the ledger
	ActionCreate Action = "create" // create the topic on the target
	ActionGrow   Action = "grow"   // add partitions on the target
	ActionAlter  Action = "alter"  // set or delete settings of the target topic
	ActionDelete Action = "delete" // delete the target topic
	ActionForget Action = "forget" // close the ledger entry of a topic that is gone on both sides
	ActionDrift  Action = "drift"  // present but different, and left alone: Apply does nothing
)

// Setting is one topic setting to be written. A nil Value deletes it, so that
// the default of the target's brokers holds again.
type Setting struct {
	Name  string  `json:"name"`
	Value *string `json:"value"`
}

// Change is one item of a plan.
type Change struct {
	Action        Action     `json:"action"`
	Source        string     `json:"source"`
	Target        string     `json:"target"`
	SourceTopicID [16]byte   `json:"-"`
	TargetTopicID [16]byte   `json:"-"`
	Partitions    int32      `json:"partitions,omitempty"` // create, grow: the count afterwards
	Settings      []Setting  `json:"settings,omitempty"`   // create, alter
	Drift         []dr.Drift `json:"drift,omitempty"`      // drift
}

// String describes the change to a person, in one line.
func (c Change) String() string {
	switch c.Action {
	case ActionCreate:
		return fmt.Sprintf("create topic %s with %d partitions: %s", c.Target, c.Partitions, settingsText(c.Settings))
	case ActionGrow:
		return fmt.Sprintf("grow topic %s to %d partitions", c.Target, c.Partitions)
	case ActionAlter:
		return fmt.Sprintf("alter topic %s: %s", c.Target, settingsText(c.Settings))
	case ActionAdopt:
		return "adopt existing topic " + c.Target
	case ActionDelete:
		return fmt.Sprintf("delete topic %s, which was deleted at the source", c.Target)
	case ActionForget:
		return fmt.Sprintf("forget topic %s, which is gone on both clusters", c.Target)
	case ActionDrift:
		parts := make([]string, 0, len(c.Drift))
		for _, d := range c.Drift {
			parts = append(parts, fmt.Sprintf("%s is %q at the source and %q on the target (%s)", d.Setting, d.Source, d.Target, d.Reason))
		}
		return "leave topic " + c.Target + " as it is: " + strings.Join(parts, ", ")
	}
	return string(c.Action) + " topic " + c.Target
}

func settingsText(settings []Setting) string {
	parts := make([]string, 0, len(settings))
	for _, s := range settings {
		if s.Value == nil {
			parts = append(parts, "delete "+s.Name)
			continue
		}
		parts = append(parts, s.Name+"="+*s.Value)
	}
	return strings.Join(parts, ", ")
}

// TopicReport is what is known of one selected topic.
type TopicReport struct {
	Name   string
	Target string

	// State is TopicCreating, TopicRunning (the topics of both sides are in
	// order), TopicHalted, TopicSourceDeleted or TopicTargetDeleted. A topic may
	// be running and still have a Code: then its settings or partition count
	// cannot follow, and its records can.
	State  dr.TopicState
	Code   dr.HaltCode
	Reason string
	Drift  []dr.Drift

	SourceTopicID [16]byte
	TargetTopicID [16]byte // zero while unknown
	Partitions    int32    // of the source; 0 when it is gone
}
