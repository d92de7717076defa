package dr

import "time"

// PairSide is one cluster of a pair, as it was seen just now.
type PairSide struct {
	Cluster   string      `json:"cluster"`              // name in the configuration file
	ClusterID string      `json:"cluster_id,omitempty"` // empty: it did not answer, and nothing else tells
	Role      string      `json:"role"`                 // active or standby
	Reachable bool        `json:"reachable"`
	Error     string      `json:"error,omitempty"` // why it is not
	RoleEpoch int64       `json:"role_epoch"`      // of its own copy of the roles; 0: it has none, or it was not read
	Probe     *ProbeStats `json:"probe,omitempty"` // nil: not probed
}

// The roles of a cluster.
const (
	PairActive  = "active"
	PairStandby = "standby"
)

// ProbeStats is what probes of one cluster found, in seconds.
type ProbeStats struct {
	Brokers  int          `json:"brokers"` // that the cluster lists
	Answered int          `json:"answered"`
	Stages   []ProbeStage `json:"stages"`
	At       time.Time    `json:"at"`
}

// ProbeStage is one thing that was tried, several times.
type ProbeStage struct {
	Name    string  `json:"name"` // connect, metadata, produce or fetch
	Tried   int     `json:"tried"`
	Failed  int     `json:"failed"`
	Median  float64 `json:"median_seconds"` // of those that did not fail
	Worst   float64 `json:"worst_seconds"`
	Trend   float64 `json:"trend"` // mean of the second half of the tries over that of the first; 0: not known
	Problem string  `json:"problem,omitempty"`
}

// PairReplicator is one direction of a pair, as the state of its target says.
type PairReplicator struct {
	Name       string    `json:"name"`
	Source     string    `json:"source"`
	Target     string    `json:"target"`
	Known      bool      `json:"known"` // false: the target did not answer, or the replicator never ran
	Workers    int       `json:"workers"`
	Paused     bool      `json:"paused"`
	Topics     int       `json:"topics"`
	Partitions int       `json:"partitions"`
	Halted     int       `json:"halted"`      // partitions
	MessageLag int64     `json:"message_lag"` // -1: not known
	AsOf       time.Time `json:"as_of,omitzero"`
}

// RecoveryPoint is what would be lost if the active cluster were gone now.
type RecoveryPoint struct {
	Records int64     `json:"records"`        // written to the active and not copied; -1: not known
	Seconds float64   `json:"seconds"`        // age of the oldest of them; 0: there are none; -1: not known
	Live    bool      `json:"live"`           // the active was asked just now; else from what the standby was told last
	AsOf    time.Time `json:"as_of,omitzero"` // of the oldest observation that was counted
}

// RecoveryTime is how long the last move took.
type RecoveryTime struct {
	Seconds float64   `json:"seconds"` // during which clients could not write
	Kind    RunKind   `json:"kind"`
	Run     string    `json:"run"`
	At      time.Time `json:"at"`
}

// DrillTime is what the last drill measured.
type DrillTime struct {
	Run           string    `json:"run"`
	At            time.Time `json:"at"`
	RecordSeconds float64   `json:"record_seconds"` // from the write of a record to its being on the standby; -1: not measured
	GroupSeconds  float64   `json:"group_seconds"`  // from the commit of a group to its position on the standby; -1: not measured
	ClockSeconds  float64   `json:"clock_seconds"`  // by how much clocks differ at least; -1: not measured
}

// PairStatus is what is known of a pair.
type PairStatus struct {
	Name          string           `json:"name"`
	State         RoleState        `json:"state,omitempty"` // empty: the pair never ran
	Active        string           `json:"active"`          // name of the cluster
	Standby       string           `json:"standby"`
	Epoch         int64            `json:"epoch"`
	InitialActive string           `json:"initial_active"` // as the file says; counts once
	Hold          string           `json:"hold,omitempty"`
	Run           *Run             `json:"run,omitempty"` // that is not over, without its steps
	Sides         []PairSide       `json:"sides"`         // active first
	Replicators   []PairReplicator `json:"replicators"`   // to the standby first
	RPO           RecoveryPoint    `json:"rpo"`
	RTO           *RecoveryTime    `json:"rto,omitempty"`   // nil: never measured
	Drill         *DrillTime       `json:"drill,omitempty"` // nil: never drilled
	Ready         bool             `json:"ready"`           // no finding is an error
	Findings      []Finding        `json:"findings"`        // errors first
	At            time.Time        `json:"at"`
}
