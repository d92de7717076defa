package move

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/runbook"
)

// FenceMethod says how clients are kept from writing.
type FenceMethod string

// The methods of a fence.
const (
	FenceByACL    FenceMethod = "acl"
	FenceByHook   FenceMethod = "hook"
	FenceByPeople FenceMethod = "manual" // somebody does it, and approves the step
)

// Consumers says what becomes of consumers before the roles swap.
type Consumers string

// What becomes of consumers.
const (
	ConsumersSync  Consumers = "sync"  // their exact positions are carried, nobody waits for them
	ConsumersDrain Consumers = "drain" // those with members read everything first
)

// Parameters are what a move is asked for. The zero value of a field is its
// default. They are kept in the journal.
type Parameters struct {
	To                 string        `json:"to,omitempty"`                  // name of the cluster that is to become active; "": the standby
	LagThreshold       int64         `json:"lag_threshold,omitempty"`       // records, before writers are stopped; 0: 10,000
	LagTimeout         time.Duration `json:"lag_timeout,omitempty"`         // for each wait for the lag; 0: 10 minutes before the fence, one behind it
	CatchUpTimeout     time.Duration `json:"catch_up_timeout,omitempty"`    // for the lag behind the fence; 0: LagTimeout
	TransactionTimeout time.Duration `json:"transaction_timeout,omitempty"` // how long open transactions may take to end; 0: 30 s
	AbortTransactions  bool          `json:"abort_transactions,omitempty"`  // consent: those that did not end are aborted
	Consumers          Consumers     `json:"consumers,omitempty"`           // "": sync
	ConsumersTimeout   time.Duration `json:"consumers_timeout,omitempty"`   // 0: 5 minutes
	FenceBy            FenceMethod   `json:"fence,omitempty"`               // "": acl
	FenceTimeout       time.Duration `json:"fence_timeout,omitempty"`       // for the proof; 0: one minute
	TailRecords        int           `json:"tail_records,omitempty"`        // of each partition compared; 0: 100
	WatchFor           time.Duration `json:"watch_for,omitempty"`           // how long the old active is watched before the run ends; 0: 5 s
	Force              bool          `json:"force,omitempty"`               // failover: without evidence, and with what could not be sealed
	Confirmed          bool          `json:"confirmed,omitempty"`           // failover, failback: nobody is asked
	Tail               dr.TailPolicy `json:"tail,omitempty"`                // failback; "": there is no record to decide about
	TailSeen           *int64        `json:"tail_seen,omitempty"`           // failback: records that were shown to whoever decided; more are refused. nil: decided whatever there is
	Rebuilt            bool          `json:"rebuilt,omitempty"`             // failback: the other cluster is a new, empty one
	Stay               bool          `json:"stay,omitempty"`                // failback: no switchover afterwards
	RebuildTopics      bool          `json:"rebuild_topics,omitempty"`      // failback: topics of the returned cluster that have what the active has not are made anew
	DeleteTopics       bool          `json:"delete_topics,omitempty"`       // consent: to the deletion that takes
	TopicsSeen         *int          `json:"topics_seen,omitempty"`         // topics that were shown to whoever agreed to that; more are refused. nil: whichever there are
	LoseHistory        bool          `json:"lose_history,omitempty"`        // consent: also with older records that the active does not have any more
}

func (p Parameters) withDefaults() Parameters {
	if p.LagThreshold == 0 {
		p.LagThreshold = 10_000
	}
	if p.TransactionTimeout == 0 {
		p.TransactionTimeout = 30 * time.Second
	}
	if p.Consumers == "" {
		p.Consumers = ConsumersSync
	}
	if p.ConsumersTimeout == 0 {
		p.ConsumersTimeout = 5 * time.Minute
	}
	if p.FenceBy == "" {
		p.FenceBy = FenceByACL
	}
	if p.FenceTimeout == 0 {
		p.FenceTimeout = time.Minute
	}
	if p.TailRecords == 0 {
		p.TailRecords = 100
	}
	if p.WatchFor == 0 {
		p.WatchFor = 5 * time.Second
	}
	return p
}

// stored is what the journal keeps of how a run was begun: with the roles of
// that moment, so that any process makes the same steps.
type stored struct {
	Parameters Parameters       `json:"parameters"`
	Role       dr.Role          `json:"role"`
	Knows      dr.RoleKnowledge `json:"knows"`
	Closes     []string         `json:"closes,omitempty"` // runs that this one overtook
}

// Options configures a Mover.
type Options struct {
	Pair    string
	Journal *runbook.Journal
	// Clusters are those of the configuration; an id is empty where the cluster
	// did not answer.
	Clusters      [2]dr.ClusterRef
	InitialActive string // name; counts where no roles are kept
	Ports         Ports
	Who           dr.Holder
	Watch         func(dr.RunEvent) // see runbook.Options
	Logger        *slog.Logger      // nil means discard
	Poll          time.Duration     // between two questions to a gate; 0 means 100 ms
}

// Mover does the moves of one pair. It starts no workers: while a run is under
// way, somebody sees to it that the pair's replicators have some.
type Mover struct{ o Options }

// New returns a mover.
func New(o Options) *Mover {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Ports.Hooks == nil {
		o.Ports.Hooks = noHooks{}
	}
	return &Mover{o}
}

type noHooks struct{}

func (noHooks) Call(context.Context, HookName, dr.Run) (string, error) { return "", nil }

func (m *Mover) machine() *runbook.Machine {
	return runbook.New(runbook.Options{
		Journal: m.o.Journal, Recipe: m.recipe, Who: m.o.Who, Watch: m.o.Watch, Logger: m.o.Logger, Poll: m.o.Poll, Needed: needed,
	})
}

// Plan returns what a move would do now, and changes nothing.
func (m *Mover) Plan(ctx context.Context, kind dr.RunKind, p Parameters) (dr.Plan, error) {
	h, err := m.header(ctx, kind, p)
	if err != nil {
		return dr.Plan{}, err
	}
	return m.machine().Plan(ctx, h)
}

// Move does a move and returns the run as it ended; an error says why it is not
// FINISHED. Of a failback it is the part that protects the pair again: unless it
// is to stay so, a switchover follows, which is a run of its own.
func (m *Mover) Move(ctx context.Context, kind dr.RunKind, p Parameters) (dr.Run, error) {
	h, err := m.header(ctx, kind, p)
	if err != nil {
		return dr.Run{}, err
	}
	return m.machine().Start(ctx, h)
}

// Switchover swaps the roles of two clusters that work.
func (m *Mover) Switchover(ctx context.Context, p Parameters) (dr.Run, error) {
	return m.Move(ctx, dr.RunSwitchover, p)
}

// Failover makes the standby active without the active.
func (m *Mover) Failover(ctx context.Context, p Parameters) (dr.Run, error) {
	return m.Move(ctx, dr.RunFailover, p)
}

// Failback takes the lost cluster back, and then swaps the roles back unless
// the parameters say Stay. It returns the runs that it did.
func (m *Mover) Failback(ctx context.Context, p Parameters) ([]dr.Run, error) {
	run, err := m.Move(ctx, dr.RunFailback, p)
	if err != nil || p.Stay {
		return []dr.Run{run}, err
	}
	back, err := m.Switchover(ctx, p)
	return []dr.Run{run, back}, err
}

// Drill does what of a switchover can be done without moving anything, and
// measures it.
func (m *Mover) Drill(ctx context.Context, p Parameters) (dr.Run, error) {
	return m.Move(ctx, dr.RunDrill, p)
}

// Resume goes on with a run, see runbook.Machine.
func (m *Mover) Resume(ctx context.Context, id string) (dr.Run, error) {
	return m.machine().Resume(ctx, id)
}

// Abort undoes a run that has not passed its point of no return.
func (m *Mover) Abort(ctx context.Context, id string) (dr.Run, error) {
	return m.machine().Abort(ctx, id)
}

func (m *Mover) recipe(h runbook.Header) (runbook.Recipe, error) {
	var s stored
	if err := json.Unmarshal(h.Parameters, &s); err != nil {
		return runbook.Recipe{}, fmt.Errorf("read the parameters of the run: %w", err)
	}
	r := recipe{Ports: m.o.Ports, Parameters: s.Parameters.withDefaults(), stored: s, from: h.From, to: h.To, who: m.o.Who.Who}
	switch h.Kind {
	case dr.RunSwitchover:
		return r.switchover(), nil
	case dr.RunFailover:
		return r.failover(), nil
	case dr.RunFailback:
		return r.failback(), nil
	case dr.RunDrill:
		return r.drill(), nil
	}
	return runbook.Recipe{}, fmt.Errorf("no recipe for a run of kind %q", h.Kind)
}

// header decides, from the roles as they are, what a move begins with.
func (m *Mover) header(ctx context.Context, kind dr.RunKind, p Parameters) (runbook.Header, error) {
	l, err := m.o.Journal.List(ctx)
	if err != nil {
		return runbook.Header{}, &dr.Error{Code: dr.CodeUnreachable, Err: err}
	}
	if l.Role.IsZero() {
		if l.Role, err = m.firstRole(); err != nil {
			return runbook.Header{}, err
		}
	}
	h, closes, err := begin(kind, p, l, m.o.Clusters)
	if err != nil {
		return runbook.Header{}, err
	}
	h.Pair, h.Kind, h.Epoch, h.Closes = m.o.Pair, kind, l.Role.Epoch, closes
	h.Parameters, err = json.Marshal(stored{Parameters: p, Role: l.Role, Knows: l.Knowledge(), Closes: closes})
	return h, err
}

// firstRole is what the configuration says, where nothing else is known.
func (m *Mover) firstRole() (dr.Role, error) {
	active, standby := m.o.Clusters[0], m.o.Clusters[1]
	if standby.Name == m.o.InitialActive {
		active, standby = standby, active
	}
	if active.ID == "" || standby.ID == "" {
		return dr.Role{}, &dr.Error{
			Code: dr.CodeConflict, Err: fmt.Errorf("pair %s: no roles are kept on the clusters that answer, and the other one's id is not known", m.o.Pair),
			Hint: "the pair never ran, or its state is lost",
		}
	}
	return dr.FirstRole(m.o.Pair, active, standby, m.o.Who.Who, time.Now()), nil
}

func refuse(hint, format string, args ...any) error {
	return &dr.Error{Code: dr.CodeRefused, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// begin decides between which clusters a move goes, and whether it may begin. It
// is pure.
func begin(kind dr.RunKind, p Parameters, l runbook.Listing, clusters [2]dr.ClusterRef) (runbook.Header, []string, error) {
	role, open := l.Role, l.Open()
	active, standby := role.Ref(role.Active), role.Ref(role.Standby)
	for _, c := range clusters { // the file's names count, where they are of the same clusters
		switch c.ID {
		case "":
		case active.ID:
			active = c
		case standby.ID:
			standby = c
		}
	}
	if role.Hold != "" {
		return runbook.Header{}, nil, refuse("anabranch pair status "+role.Pair, "the pair is held: %s", role.Hold)
	}
	if open != nil && kind != dr.RunFailover {
		return runbook.Header{}, nil, &dr.Error{Code: dr.CodeConflict, Err: &runbook.OpenRunError{Run: *open}, Hint: "run resume, or run abort"}
	}
	switch kind {
	case dr.RunSwitchover, dr.RunDrill:
		return beginSwitchover(p, l, active, standby)
	case dr.RunFailover:
		return beginFailover(p, l, active, standby, open)
	case dr.RunFailback:
		return beginFailback(p, l, active, standby, clusters)
	}
	return runbook.Header{}, nil, fmt.Errorf("no run of kind %q", kind)
}

func beginSwitchover(p Parameters, l runbook.Listing, active, standby dr.ClusterRef) (runbook.Header, []string, error) {
	switch {
	case l.Role.State == dr.RoleFailedOver:
		return runbook.Header{}, nil, refuse("anabranch failback "+l.Role.Pair, "the pair has failed over to %s, and %s was not taken back", active.Name, standby.Name)
	case p.To != "" && p.To == active.Name:
		return runbook.Header{}, nil, refuse("anabranch pair status "+l.Role.Pair, "%s is active already", active.Name)
	case p.To != "" && p.To != standby.Name:
		return runbook.Header{}, nil, refuse("--to takes one of the two", "%s is none of the pair's clusters %s and %s", p.To, active.Name, standby.Name)
	case len(l.Unread) > 0:
		return runbook.Header{}, nil, &dr.Error{Code: dr.CodeUnreachable, Err: fmt.Errorf("a switchover needs both clusters: %w", joined(l.Unread)), Hint: "where the active is lost: anabranch failover " + l.Role.Pair}
	}
	return runbook.Header{From: active, To: standby, Home: standby}, nil, nil
}

// beginFailover also lets the cluster take over that is active by what is seen,
// where the other one does not answer and may have become active unseen: by a run
// that is not over, or as somebody says who forces it.
func beginFailover(p Parameters, l runbook.Listing, active, standby dr.ClusterRef, open *dr.Run) (runbook.Header, []string, error) {
	from, to := active, standby
	if p.To == active.Name && p.To != "" {
		unseen := len(l.Unread) > 0 && (p.Force || open != nil && open.HomeUnread)
		if !unseen {
			return runbook.Header{}, nil, refuse("anabranch pair status "+l.Role.Pair, "%s is active already", active.Name)
		}
		from, to = standby, active
	} else if p.To != "" && p.To != standby.Name {
		return runbook.Header{}, nil, refuse("--to takes one of the two", "%s is none of the pair's clusters %s and %s", p.To, active.Name, standby.Name)
	}
	if l.Role.State == dr.RoleFailedOver && to == standby && !p.Force {
		return runbook.Header{}, nil, refuse("--force, if the active is lost too; else anabranch failback "+l.Role.Pair, "the pair has failed over to %s, and %s was not taken back", active.Name, standby.Name)
	}
	if err, ok := l.Unread[to.Name]; ok {
		return runbook.Header{}, nil, &dr.Error{Code: dr.CodeUnreachable, Err: fmt.Errorf("a failover needs the cluster that takes over: %w", err), Hint: "anabranch pair status " + l.Role.Pair}
	}
	var closes []string
	for _, r := range l.Runs {
		if !r.State.Over() {
			closes = append(closes, r.ID)
		}
	}
	return runbook.Header{From: from, To: to, Home: to}, closes, nil
}

func beginFailback(p Parameters, l runbook.Listing, active, standby dr.ClusterRef, clusters [2]dr.ClusterRef) (runbook.Header, []string, error) {
	switch {
	case l.Role.State != dr.RoleFailedOver:
		return runbook.Header{}, nil, refuse("anabranch switchover "+l.Role.Pair, "the pair has not failed over: %s is active, %s its standby", active.Name, standby.Name)
	case p.RebuildTopics && p.Rebuilt:
		return runbook.Header{}, nil, refuse("without --rebuild-topics", "a new, empty cluster has no topics to make anew")
	case len(l.Unread) > 0:
		return runbook.Header{}, nil, &dr.Error{Code: dr.CodeUnreachable, Err: fmt.Errorf("a failback needs both clusters: %w", joined(l.Unread)), Hint: "wait until they answer; the pair works without the lost one"}
	case p.Tail != dr.TailUndecided && !slices.Contains(dr.TailPolicies(), p.Tail):
		return runbook.Header{}, nil, refuse("--tail append, quarantine or discard", "%q is no answer to what becomes of the records that only %s has", p.Tail, standby.Name)
	}
	for _, c := range clusters {
		if c.Name != standby.Name || c.ID == standby.ID {
			continue
		}
		if !p.Rebuilt {
			return runbook.Header{}, nil, refuse("--rebuilt, if that is meant", "%s is another cluster (%s) than the one that was lost (%s)", c.Name, c.ID, standby.ID)
		}
		return runbook.Header{From: active, To: c, Home: active}, nil, nil
	}
	if p.Rebuilt {
		return runbook.Header{}, nil, refuse("without --rebuilt", "%s is the cluster that was lost (%s), not a new one", standby.Name, standby.ID)
	}
	return runbook.Header{From: active, To: standby, Home: active}, nil, nil
}

func joined(errs map[string]error) error {
	var all []error
	for name, err := range errs {
		all = append(all, fmt.Errorf("cluster %s: %w", name, err))
	}
	return errors.Join(all...)
}
