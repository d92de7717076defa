package dr

import (
	"encoding/json"
	"strings"
	"time"
)

// RunKind says what a run does to a pair.
type RunKind string

// The kinds of runs.
const (
	RunSwitchover RunKind = "switchover" // the roles swap, both clusters work: nothing is lost
	RunFailover   RunKind = "failover"   // the standby takes over without the active
	RunFailback   RunKind = "failback"   // the lost cluster returns: its tail is decided upon, and by choice the roles swap back
	RunDrill      RunKind = "drill"      // a switchover that measures and moves nothing
)

// RunState is the state of a run.
type RunState string

// The states of a run.
const (
	RunRunning  RunState = "RUNNING"  // not at its end; see Holder for whether a process works on it
	RunWaiting  RunState = "WAITING"  // for an approval
	RunStopped  RunState = "STOPPED"  // a step failed behind a point of no return: resume goes on
	RunAborting RunState = "ABORTING" // what was done is being undone
	RunFinished RunState = "FINISHED"
	RunAborted  RunState = "ABORTED" // everything since the last point of no return was undone
	RunClosed   RunState = "CLOSED"  // a later decision about the roles overtook it: never resumed
)

// Over reports whether nothing more happens in the run.
func (s RunState) Over() bool { return s == RunFinished || s == RunAborted || s == RunClosed }

// StepState is the state of one step of a run.
type StepState string

// The states of a step.
const (
	StepPending StepState = "PENDING"
	StepRunning StepState = "RUNNING"
	StepWaiting StepState = "WAITING" // for an approval
	StepDone    StepState = "DONE"
	StepFailed  StepState = "FAILED"
	StepUndone  StepState = "UNDONE"
	StepStuck   StepState = "UNDO_FAILED" // abort once more undoes it
)

// Evidence is one fact that was looked at: a value held against a threshold.
type Evidence struct {
	Name      string `json:"name"`              // stable, snake_case: message_lag, canary_refused
	Subject   string `json:"subject,omitempty"` // what it is about: broker 2, topic orders partition 7
	Value     string `json:"value"`             // as seen, with its unit
	Threshold string `json:"threshold,omitempty"`
	Passed    bool   `json:"passed"`
	Why       string `json:"why,omitempty"` // where it did not pass, or what it does not prove
	AtMs      int64  `json:"at_ms,omitempty"`
}

// Gate is the answer of a condition that a step must meet before the next one
// begins.
type Gate struct {
	Passed    bool       `json:"passed"`
	Value     string     `json:"value"`               // what is compared, with its unit: "1,204 records"
	Threshold string     `json:"threshold,omitempty"` // "<= 10,000 records"
	Left      int64      `json:"left,omitempty"`      // how far from passing, in the unit of Value; 0: passed, or it can't be counted
	Reason    string     `json:"reason,omitempty"`    // why it has not passed
	Approve   bool       `json:"approve,omitempty"`   // it waits for somebody's word: run approve
	Evidence  []Evidence `json:"evidence,omitempty"`
	Findings  []Finding  `json:"findings,omitempty"` // what somebody should know although it passed, or mend because it did not
}

// PlannedStep is a step as it would be done now.
type PlannedStep struct {
	ID              string          `json:"id"`
	Title           string          `json:"title"`
	PointOfNoReturn bool            `json:"point_of_no_return,omitempty"`
	Plan            json.RawMessage `json:"plan,omitempty"` // what it would work from; the same that a run records
	Gate            *Gate           `json:"gate,omitempty"` // of steps whose condition can be asked beforehand
	Error           string          `json:"error,omitempty"`
}

// Plan is what a run would do: made by the same code that does it.
type Plan struct {
	Pair  string        `json:"pair"`
	Kind  RunKind       `json:"kind"`
	From  ClusterRef    `json:"from"` // active before
	To    ClusterRef    `json:"to"`   // active afterwards
	Epoch int64         `json:"epoch"`
	Steps []PlannedStep `json:"steps"`
	Ready bool          `json:"ready"` // no step has an error and no gate asked beforehand is closed
}

// StepStatus is a step of a run as its journal knows it.
type StepStatus struct {
	ID              string          `json:"id"`
	Title           string          `json:"title"`
	State           StepState       `json:"state"`
	PointOfNoReturn bool            `json:"point_of_no_return,omitempty"`
	StartedAt       time.Time       `json:"started_at,omitzero"`
	EndedAt         time.Time       `json:"ended_at,omitzero"`
	Plan            json.RawMessage `json:"plan,omitempty"`
	Gate            *Gate           `json:"gate,omitempty"`   // the newest answer
	Result          json.RawMessage `json:"result,omitempty"` // what the step noted for later steps and for the report
	Error           string          `json:"error,omitempty"`
}

// Holder is the process that works on a run.
type Holder struct {
	Who       string    `json:"who"` // user@host
	PID       int       `json:"pid"`
	Run       string    `json:"run,omitempty"`
	Since     time.Time `json:"since"`
	RenewedAt time.Time `json:"renewed_at"`
}

// Run is a run as its journal knows it.
type Run struct {
	ID         string          `json:"id"`
	Pair       string          `json:"pair"`
	Kind       RunKind         `json:"kind"`
	State      RunState        `json:"state"`
	From       ClusterRef      `json:"from"`
	To         ClusterRef      `json:"to"`
	Home       ClusterRef      `json:"home"`                 // the cluster whose copy of the journal decides
	HomeUnread bool            `json:"home_unread"`          // the home did not answer: more may have happened than is shown
	Epoch      int64           `json:"epoch"`                // of the roles when it began
	Committed  bool            `json:"committed"`            // past its last point of no return: only forward
	By         string          `json:"by"`                   // who began it
	StartedAt  time.Time       `json:"started_at"`           //
	EndedAt    time.Time       `json:"ended_at,omitzero"`    //
	Reason     string          `json:"reason,omitempty"`     // why it was aborted, stopped or closed
	Parameters json.RawMessage `json:"parameters,omitempty"` // as it was begun
	Holder     *Holder         `json:"holder,omitempty"`     // nil: no process works on it
	Steps      []StepStatus    `json:"steps,omitempty"`
	Report     *RunReport      `json:"report,omitempty"` // of a finished run
}

// RunReport is what a finished run says of itself. Seconds are measured, -1
// where they are not known.
type RunReport struct {
	Seconds          float64      `json:"seconds"`
	WriteStopSeconds float64      `json:"write_stop_seconds"` // from the first right that was taken from a client to the opening of the new active
	Risk             *RiskReport  `json:"risk,omitempty"`     // of a failover
	Tail             *TailReport  `json:"tail,omitempty"`     // of a failback
	Drill            *DrillReport `json:"drill,omitempty"`    // of a drill
	Unproven         []string     `json:"unproven,omitempty"` // what was believed and not proved, for example a fence without a canary
	Findings         []Finding    `json:"findings,omitempty"` // what somebody should look at now
}

// DrillReport is what a drill measured, end to end, with records and a group of
// its own. Seconds are -1 where they were not measured.
type DrillReport struct {
	Topic         string  `json:"topic"`
	Records       int     `json:"records"`        // written to the active, and read on the standby, each once and byte for byte
	RecordSeconds float64 `json:"record_seconds"` // from the write of a record to its being read on the standby, of the slowest one
	Group         string  `json:"group"`
	GroupSeconds  float64 `json:"group_seconds"` // from the commit to the exact position on the standby, of the slower one
	ClockSeconds  float64 `json:"clock_seconds"` // by how much clocks of brokers and of this host differ at least
	Principal     string  `json:"principal"`     // who wrote the records
	Client        bool    `json:"client"`        // that was an ordinary client, with the credentials of canary
}

// RiskTopic is what of one topic is not on the standby.
type RiskTopic struct {
	Topic     string  `json:"topic"`
	Records   int64   `json:"records"`   // below the last observed end and not copied
	Estimated int64   `json:"estimated"` // written after the last observation, at the rate before it
	Seconds   float64 `json:"seconds"`   // from the newest copied record to the last observation; -1: not known
	Unknown   int     `json:"unknown"`   // partitions of which no end was ever observed
}

// RiskReport is what a failover loses, as far as the standby can know.
type RiskReport struct {
	Records    int64       `json:"records"`
	Estimated  int64       `json:"estimated"`
	Seconds    float64     `json:"seconds"` // of the worst topic; -1: not known
	ObservedAt time.Time   `json:"observed_at,omitzero"`
	AgeSeconds float64     `json:"age_seconds"` // of the oldest observation that was counted; -1: none
	Unknown    int         `json:"unknown"`
	Topics     []RiskTopic `json:"topics,omitempty"`
}

// RunEventKind says what happened.
type RunEventKind string

// The kinds of events.
const (
	RunEventRun  RunEventKind = "run"  // the run's state changed
	RunEventStep RunEventKind = "step" // a step's state changed
	RunEventGate RunEventKind = "gate" // a condition was asked
	RunEventNote RunEventKind = "note" // something that somebody should read, for example a journal copy that is behind
)

// RunEvent is one thing that happened in a run, for those who watch it.
type RunEvent struct {
	Run     string       `json:"run"`
	At      time.Time    `json:"at"`
	Kind    RunEventKind `json:"kind"`
	State   RunState     `json:"state,omitempty"`
	Step    string       `json:"step,omitempty"`
	Title   string       `json:"title,omitempty"`
	StepIs  StepState    `json:"step_state,omitempty"`
	Gate    *Gate        `json:"gate,omitempty"`
	Message string       `json:"message,omitempty"`
	Elapsed float64      `json:"elapsed_seconds"`       // of the step, of the run for its own events
	ETA     float64      `json:"eta_seconds,omitempty"` // until the gate passes, by the rate at which Left shrinks; 0: not known
}

// UnreadPair is a pair whose journal could not be read, and why.
type UnreadPair struct {
	Pair   string `json:"pair"`
	Reason string `json:"reason"`
}

// UnreadRunsError is returned together with the runs of the pairs that could be read.
type UnreadRunsError struct {
	Pairs []UnreadPair // at least one
}

// Error names the pairs.
func (e *UnreadRunsError) Error() string {
	var list []string
	for _, p := range e.Pairs {
		list = append(list, "pair "+p.Pair+": "+p.Reason)
	}
	return "runs may be missing: " + strings.Join(list, "; ")
}
