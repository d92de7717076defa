package move

import (
	"context"
	"encoding/json"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// Ports are what the recipes need of the clusters. Every method may be called
// again after any failure or kill, from another process, and then ends where one
// call would have ended. Errors are tried again by the machine, except those that
// runbook.Permanent marks or whose dr code says that trying is no use.
//
// from and to are the clusters of a direction of the pair: the replicator that
// copies from -> to is the one that writes to.
type Ports struct {
	Sides        Sides
	Fence        Fence
	Transactions Transactions
	Access       Access
	Replication  Replication
	Groups       Groups
	Verify       Verify
	Ledger       Ledger  // failback
	Rebuild      Rebuild // failback with RebuildTopics
	Hooks        Hooks   // nil: there are none
	Drill        Drill   // drill
}

// Sides looks at the clusters.
type Sides interface {
	// Preflight looks whether a switchover from -> to can work: both answer,
	// every topic of the pair is replicated and none halted, partitions and
	// settings agree, groups can be carried, both replicators run with live
	// workers, clocks are close, rights suffice. Evidence that did not pass
	// keeps the gate closed; findings are told. It changes nothing.
	Preflight(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, []dr.Finding, error)
	// Probe tries the cluster (connect, metadata, produce, fetch, the trend of
	// their latencies). Evidence that did not pass speaks for an impaired
	// cluster. It takes seconds at most, whatever state the cluster is in, and
	// needs no other cluster.
	Probe(ctx context.Context, cluster dr.ClusterRef) ([]dr.Evidence, error)
	// Returned looks whether the cluster is back and whole: all brokers answer,
	// all partitions have leaders, and it is the one that was lost; or, rebuilt,
	// one of another id that holds no topics of the pair.
	Returned(ctx context.Context, cluster dr.ClusterRef, rebuilt bool) ([]dr.Evidence, error)
}

// FenceKind says what a fence closes.
type FenceKind string

// What a fence closes.
const (
	FenceTopics       FenceKind = "topics"
	FenceTransactions FenceKind = "transactions" // planned when the topics are closed and no transaction is open
)

// FencePlan is what a fence would change. Data is all that Apply, Undo and Prove
// need, in any process: it is recorded before anything is changed.
type FencePlan struct {
	Data     json.RawMessage `json:"data"`
	Findings []dr.Finding    `json:"findings,omitempty"` // who could still write, for example
}

// Fence takes the right to write from the clients of one cluster, and gives it
// back.
type Fence interface {
	// Plan changes nothing. by is the method of the run; the plan names it, so
	// that whoever goes on does the same.
	Plan(ctx context.Context, cluster dr.ClusterRef, kind FenceKind, by FenceMethod) (FencePlan, error)
	// Apply returns when the cluster has taken the change. The replicators keep
	// their right at every moment.
	Apply(ctx context.Context, cluster dr.ClusterRef, plan json.RawMessage) error
	// Undo gives back exactly what was there, also where Apply was killed
	// halfway or never called. It needs nothing but the plan.
	Undo(ctx context.Context, cluster dr.ClusterRef, plan json.RawMessage) error
	// Prove looks whether the fence of all the plans holds. Proof is what Leaks
	// compares with. Evidence with an empty Threshold that did not pass is told
	// as unproven and keeps nothing closed.
	Prove(ctx context.Context, cluster dr.ClusterRef, plans []json.RawMessage) (Proof, error)
	// Leaks returns what clients wrote behind the ends of the proof, empty:
	// nothing. It is quick: it is asked several times a second.
	Leaks(ctx context.Context, cluster dr.ClusterRef, proof json.RawMessage) ([]dr.Evidence, error)
}

// Proof is what a fence looked like at one moment.
type Proof struct {
	Data     json.RawMessage `json:"data"`
	Evidence []dr.Evidence   `json:"evidence"`

	// ShownAt is when every broker was seen to show the fence, zero where one did
	// not or nobody can see it. Who writes behind it is not bound by it.
	ShownAt time.Time `json:"shown_at,omitzero"`
	// Leaks is what clients wrote, or may write, behind ShownAt.
	Leaks []dr.Evidence `json:"leaks,omitempty"`
}

// OpenTransaction is one that has not ended: whose it is, and since when.
type OpenTransaction struct {
	dr.Evidence
	Began time.Time // as its coordinator says, zero where none does; tells it from the one before
}

// Transactions are those of clients, in the topics of the pair.
type Transactions interface {
	// Open returns those that are open on the cluster.
	Open(ctx context.Context, cluster dr.ClusterRef) ([]OpenTransaction, error)
	// Abort ends all that are open now. Their producers are shut out.
	Abort(ctx context.Context, cluster dr.ClusterRef) error
}

// Access keeps the rules of clients.
type Access interface {
	// Hold pauses the copying of access rules in both directions, on every
	// cluster that answers. A pair has one hold: that of a later run takes the
	// place of an older one's.
	Hold(ctx context.Context, run string) error
	// Release ends the hold, whosever it is: one run at a time works on a pair,
	// and what another left behind is over. One cluster that answers is enough:
	// what the other one still has when it returns does not count. There being
	// no hold is fine.
	Release(ctx context.Context, run string) error
	// Open lets clients write on the cluster: fences of older runs on it are
	// undone and the staged rules made. It needs no other cluster.
	Open(ctx context.Context, cluster dr.ClusterRef) ([]dr.Finding, error)
}

// Lag is how far a direction is behind.
type Lag struct {
	Records  int64    // offsets between the positions and the ends of the source's logs, asked just now
	Restless int      // partitions whose checkpoint is not quiescent, or not known
	Halted   []string // partitions that stand, with the reason
	Worst    string   // the partition that is farthest behind, for people
}

// Sealed is what became of a seal.
type Sealed struct {
	Whole bool            `json:"whole"` // nothing that a former owner sends can arrive any more
	Open  []dr.Evidence   `json:"open,omitempty"`
	Risk  dr.RiskReport   `json:"risk"`
	Data  json.RawMessage `json:"data,omitempty"` // the positions, for whoever wants them
}

// Replication is the two replicators of the pair.
type Replication interface {
	// Lag compares with the source's ends, asked after the call began. It needs
	// both clusters.
	Lag(ctx context.Context, from, to dr.ClusterRef) (Lag, error)
	// AtRisk says what a failover would lose, from the state of to alone.
	AtRisk(ctx context.Context, from, to dr.ClusterRef) (dr.RiskReport, error)
	// Seal stops the replicator from -> to durably at the role epoch and takes
	// over all its slots, with only to reachable. Called again it seals what was
	// left open. An epoch that is not higher than what is there changes nothing.
	Seal(ctx context.Context, from, to dr.ClusterRef, run string, epoch int64) (Sealed, error)
	// Release lets the replicator from -> to go on where it stands: stopped at
	// a lower role epoch, it works again. It needs only to.
	Release(ctx context.Context, from, to dr.ClusterRef, run string, epoch int64) error
	// Running looks whether the replicator from -> to runs with live workers
	// and knows its position in every partition: nothing is read again.
	Running(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, error)
}

// Groups are the positions of consumer groups.
type Groups interface {
	// Drained returns what groups with members on the cluster have not read.
	Drained(ctx context.Context, cluster dr.ClusterRef) (behind int64, worst []dr.Evidence, err error)
	// Final carries the exact positions of all groups from -> to, and needs both.
	// Seen is what Same compares with. Groups that could not be placed exactly are
	// evidence that did not pass, which is told and keeps nothing closed.
	Final(ctx context.Context, from, to dr.ClusterRef) (seen json.RawMessage, ev []dr.Evidence, err error)
	// Last is Final without Same for a cluster that is lost: what from does not say
	// within about two seconds in all, also where connections hang, is what to
	// remembers, and evidence tells of that. It needs only to.
	Last(ctx context.Context, from, to dr.ClusterRef) ([]dr.Evidence, error)
	// Same reports whether no group has committed on the cluster since.
	Same(ctx context.Context, cluster dr.ClusterRef, seen json.RawMessage) (bool, error)
	// Behind places groups that had read all of the returned cluster's log
	// behind its tail; the others are evidence that did not pass.
	Behind(ctx context.Context, returned, active dr.ClusterRef) ([]dr.Evidence, error)
}

// Verify compares what the clusters hold.
type Verify interface {
	// Tail compares the last records of each partition. Evidence that did not
	// pass is a difference; what a failback left on one cluster is known, and
	// none.
	Tail(ctx context.Context, from, to dr.ClusterRef, last int) ([]dr.Evidence, error)
}

// Ledger deals with what only the returned cluster has.
type Ledger interface {
	// Make finds, per partition, the records of the returned cluster from the
	// sealed position to its end, and returns the whole list. The returned cluster is
	// fenced; for a dry run, which has no id, it need not be, and may get more.
	Make(ctx context.Context, returned, active dr.ClusterRef, run string) (dr.TailReport, error)
	// Settle carries the policy out: append lets the replicator returned ->
	// active go on where it stands; quarantine copies the tail to topics of its
	// own, each record once, and then lets it go on behind the tail; discard
	// only the latter. Released at the role epoch.
	Settle(ctx context.Context, returned, active dr.ClusterRef, run string, policy dr.TailPolicy, epoch int64) error
	// Seed prepares a rebuilt cluster: everything of the active is copied to it,
	// whatever it was native to.
	Seed(ctx context.Context, rebuilt, active dr.ClusterRef, retired string, run string, epoch int64) error
}

// Rebuild makes topics of the returned cluster anew, where it has what the active
// has not.
type Rebuild interface {
	// Look lists the topics: those of the ledger, and those of which earlier
	// failbacks left something. It changes nothing.
	Look(ctx context.Context, returned, active dr.ClusterRef, tail dr.TailReport) ([]dr.RebuildTopic, error)
	// Plan reads what is needed to make the topics as they are. It changes nothing.
	Plan(ctx context.Context, returned, active dr.ClusterRef, topics []dr.RebuildTopic) (json.RawMessage, error)
	// Make deletes the topics by their ids, and makes others in their places, which
	// get everything from the active when the replicators are released. Both are
	// stopped at the role epoch. A topic to which something was written that is not
	// on the active stays as it is; a topic of another id is never deleted.
	Make(ctx context.Context, returned, active dr.ClusterRef, plan json.RawMessage, run string, epoch int64) ([]dr.RebuildTopic, error)
}

// HookName names a hook of the configuration.
type HookName string

// The hooks.
const (
	OnFence  HookName = "on_fence"
	OnSwitch HookName = "on_switch"
	OnDone   HookName = "on_done"
)

// Hooks tell others of a move.
type Hooks interface {
	// Call calls a hook with the run; one that is not configured does nothing.
	// It bounds its own time. What it calls may be called again after a kill.
	Call(ctx context.Context, hook HookName, run dr.Run) (output string, err error)
}

// Drill tries the way of a move with records and a group of its own.
type Drill interface {
	// Canary writes records to a topic of its own on from and commits for a group
	// of its own, waits for both on to, and measures. Evidence with an empty
	// Threshold is told and keeps nothing closed.
	Canary(ctx context.Context, from, to dr.ClusterRef) (dr.DrillReport, []dr.Evidence, error)
}
