package move_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
	"github.com/anabranch/anabranch/internal/runbook"
)

const pairName = "p"

var (
	refA = dr.ClusterRef{ID: "id-a", Name: "a"}
	refB = dr.ClusterRef{ID: "id-b", Name: "b"}
)

var errDown = errors.New("connection refused")

// cluster is a cluster of one topic with one partition, one group and the rules
// of its clients.
type cluster struct {
	ref    dr.ClusterRef
	up     bool
	silent bool   // connections hang while it is not up
	log    []int  // ids of records
	native []bool // written by clients
	rules  map[string]bool
	staged map[string]bool // wait for this cluster to become active
	fenced map[string]bool // taken by fences that stand
	group  int             // committed: index of the next unread record
	memory map[int]bool    // what the group had read, as the sync remembers it here
	open   int             // transactions
	began  time.Time       // when the last one did
	store  *runbook.MemoryStore
	made   int // how often its topic was made anew

	roleText string // as it was decoded last
	role     dr.Role
}

func newCluster(ref dr.ClusterRef) *cluster {
	return &cluster{ref: ref, up: true, rules: map[string]bool{}, staged: map[string]bool{}, fenced: map[string]bool{}, memory: map[int]bool{}, store: &runbook.MemoryStore{}}
}

func (c *cluster) writable() bool { return c.rules["topics:app"] }

func (c *cluster) append(id int, native bool) {
	c.log, c.native = append(c.log, id), append(c.native, native)
}

// direction is a replicator.
type direction struct {
	from, to *cluster
	position int
	epoch    int64
	stopped  bool
	below    int // records of from before that are copied whoever wrote them: the topic of to was made anew
}

// copies says whether the replicator has to copy a record.
func (d *direction) copies(i int) bool { return d.from.native[i] || i < d.below }

// world is a pair that lives on while processes die.
type world struct {
	mu       sync.Mutex
	a, b     *cluster
	dirs     []*direction
	nextID   int
	read     map[int]bool // by the consumer
	reader   *cluster     // where it reads
	holds    map[string]bool
	tail     map[int]bool // ids that a policy leaves on one side
	strict   bool         // no failover: never both writable
	writing  bool
	bad      []string
	hooks    []string
	slowHook time.Duration // how long on_fence takes
	// commitAfter lets the consumer commit right after the final sync, so often.
	commitAfter int
	gone        int64 // older records of a returned cluster that the active lacks, as its look says
}

func newWorld() *world {
	w := &world{a: newCluster(refA), b: newCluster(refB), read: map[int]bool{}, holds: map[string]bool{}, tail: map[int]bool{}, strict: true, writing: true}
	for _, r := range []string{"topics:app", "topics:batch", "transactions:app"} {
		w.a.rules[r], w.b.staged[r] = true, true
	}
	w.dirs = []*direction{{from: w.a, to: w.b}, {from: w.b, to: w.a}}
	w.reader = w.a
	return w
}

func (w *world) violate(format string, args ...any) {
	if len(w.bad) < 5 {
		w.bad = append(w.bad, fmt.Sprintf(format, args...))
	}
}

func (w *world) of(ref dr.ClusterRef) *cluster {
	if ref.ID == w.b.ref.ID {
		return w.b
	}
	return w.a
}

func (w *world) dir(from, to dr.ClusterRef) *direction {
	if from.ID == w.dirs[0].from.ref.ID && to.ID == w.dirs[0].to.ref.ID {
		return w.dirs[0]
	}
	return w.dirs[1]
}

// run lets clients and replicators work until ctx ends.
func (w *world) run(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		w.write()
		if n%3 == 0 {
			w.consume()
		}
		for _, d := range w.dirs {
			w.replicate(d)
		}
		w.mu.Unlock()
	}
}

// write: clients try both clusters, as clients do that were sent elsewhere or not.
func (w *world) write() {
	if !w.writing {
		return
	}
	if w.strict && w.a.writable() && w.b.writable() {
		w.violate("both clusters take writes")
	}
	for _, c := range []*cluster{w.a, w.b} {
		if c.up && c.writable() {
			w.nextID++
			c.append(w.nextID, true)
		}
	}
}

func (w *world) consume() {
	c := w.reader
	if !c.up || c.group >= len(c.log) {
		return
	}
	w.read[c.log[c.group]] = true
	c.group++
	if other := w.other(c); other.up { // the sync follows
		if other.memory[c.log[c.group-1]] = true; len(other.memory) < len(w.read) {
			maps.Copy(other.memory, w.read)
		}
	}
}

func (w *world) other(c *cluster) *cluster {
	if c == w.a {
		return w.b
	}
	return w.a
}

func (w *world) roleOf(c *cluster) dr.Role {
	values, _ := c.store.Read(context.Background(), dr.RoleKey(pairName))
	if v := string(values[dr.RoleKey(pairName)]); v != c.roleText {
		c.roleText = v
		c.role, _ = dr.DecodeRole([]byte(v))
	}
	return c.role
}

// held says whether a replicator waits because its pair failed over to its source.
func (w *world) held(d *direction) bool {
	role := w.roleOf(d.from)
	return role.State == dr.RoleFailedOver && role.Active == d.from.ref.ID
}

func (w *world) replicate(d *direction) {
	if !d.from.up || !d.to.up || d.stopped || w.held(d) {
		return
	}
	for n := 0; n < 3 && d.position < len(d.from.log); n++ {
		if d.copies(d.position) {
			d.to.append(d.from.log[d.position], false)
		}
		d.position++
	}
}

func (w *world) lag(d *direction) int64 {
	var n int64
	for i := d.position; i < len(d.from.log); i++ {
		if d.copies(i) {
			n++
		}
	}
	return n
}

// unread is the place of the first record of a log that was not read.
func unread(c *cluster, read map[int]bool) int {
	for i, id := range c.log {
		if !read[id] {
			return i
		}
	}
	return len(c.log)
}

// settled checks what holds at the end of everything: both logs hold each record
// once, but for what a policy left out.
func (w *world) settled(t *testing.T) {
	t.Helper()
	time.Sleep(time.Second)
	w.mu.Lock()
	w.writing = false
	w.mu.Unlock()
	time.Sleep(5 * time.Second)
	for range 600 { // a side that was away for long has much to get
		w.mu.Lock()
		left := w.lag(w.dirs[0]) + w.lag(w.dirs[1])
		w.mu.Unlock()
		if left == 0 {
			break
		}
		time.Sleep(time.Second)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.bad {
		t.Error(b)
	}
	all := map[int]int{}
	for _, c := range []*cluster{w.a, w.b} {
		seen := map[int]bool{}
		for _, id := range c.log {
			if seen[id] {
				t.Errorf("cluster %s holds record %d twice", c.ref.Name, id)
			}
			seen[id] = true
			all[id]++
		}
	}
	for id, in := range all {
		if in != 2 && !w.tail[id] {
			t.Errorf("record %d is on %d of 2 clusters", id, in)
		}
		if in == 2 && w.tail[id] {
			t.Errorf("record %d of the tail was copied", id)
		}
	}
	if len(w.holds) > 0 {
		t.Errorf("access rules are still held: %v", slices.Collect(maps.Keys(w.holds)))
	}
	if w.a.writable() && w.b.writable() {
		t.Error("both clusters take writes at the end")
	}
	if !w.a.writable() && !w.b.writable() {
		t.Error("no cluster takes writes at the end")
	}
}

// process is a process that does moves, and may die.
type process struct {
	w      *world
	killed bool
	dead   context.CancelCauseFunc

	writes, calls int // so far
	dieWrite      int // with the write of that number, 0: never
	dieCall       int // with the changing call of that number
	every         int // calls and writes of the journal so far, of any kind
	loseAt        int // from is lost with that one, 0: never
	fate          runbook.Fate
}

func (p *process) isDead() bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.killed
}

func (p *process) dieLocked() {
	p.killed = true
	p.dead(runbook.ErrDead)
}

// loseLocked loses cluster a when its time has come.
func (p *process) loseLocked() {
	if p.every++; p.every == p.loseAt {
		p.w.a.up, p.w.strict = false, false
	}
}

// away is what becomes of a request to a cluster that is not up.
func (c *cluster) away(ctx context.Context) error {
	if c.silent {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return errDown
}

// ask decides about writes of the journal, and looks at the world when the point
// of no return is written.
func (p *process) ask(records []runbook.Record) runbook.Fate {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.loseLocked()
	for _, r := range records {
		if strings.HasPrefix(r.Key, "c/run/") && strings.Contains(string(r.Value), `"committed":true`) && strings.Contains(string(r.Value), `"step":"switch"`) {
			p.w.atTheSwitch(records)
		}
	}
	if !strings.HasPrefix(records[0].Key, "c/run/") {
		return runbook.Written
	}
	if p.writes++; p.writes != p.dieWrite {
		return runbook.Written
	}
	if p.fate != runbook.Interrupted {
		p.dieLocked()
	}
	return p.fate
}

func (p *process) askOther([]runbook.Record) runbook.Fate { return runbook.Written }

// atTheSwitch checks what must hold when roles swap.
func (w *world) atTheSwitch(records []runbook.Record) {
	i := slices.IndexFunc(records, func(r runbook.Record) bool { return r.Key == dr.RoleKey(pairName) })
	if i < 0 {
		w.violate("the point of no return has no role record with it")
		return
	}
	role, err := dr.DecodeRole(records[i].Value)
	if err != nil {
		w.violate("%v", err)
		return
	}
	from, to := w.a, w.b
	if role.Active == w.a.ref.ID {
		from, to = to, from
	}
	d := w.dir(from.ref, to.ref)
	if to.group != unread(to, w.read) && (role.State == dr.RoleMoving || to.group > unread(to, w.read)) {
		w.violate("the group stands at %d of %s, its next unread record is at %d", to.group, to.ref.Name, unread(to, w.read))
	}
	if role.State == dr.RoleFailedOver {
		if !d.stopped {
			w.violate("the roles swap and the replicator is not sealed")
		}
		return
	}
	if from.writable() || from.open > 0 {
		w.violate("the roles swap and %s takes writes (%d open transactions)", from.ref.Name, from.open)
	}
	if n := w.lag(d); n > 0 {
		w.violate("the roles swap and %d records are not copied", n)
	}
}

// enter is the beginning of every call of a port; its result ends it. A changing
// call may be the last thing that the process does.
func (p *process) enter(ctx context.Context, changes string, needs ...*cluster) (leave func(), err error) {
	p.w.mu.Lock()
	if p.killed || ctx.Err() != nil {
		p.w.mu.Unlock()
		return nil, runbook.ErrDead
	}
	p.loseLocked()
	for _, c := range needs {
		if !c.up {
			p.w.mu.Unlock()
			return nil, c.away(ctx)
		}
	}
	last := false
	if changes != "" {
		p.calls++
		last = p.calls == p.dieCall
	}
	if last && p.fate == runbook.NotWritten {
		p.dieLocked()
		p.w.mu.Unlock()
		return nil, runbook.ErrDead
	}
	return func() {
		if last {
			p.dieLocked()
		}
		p.w.mu.Unlock()
	}, nil
}

func (p *process) mover(ctx context.Context) (*move.Mover, context.Context) {
	ctx, p.dead = context.WithCancelCause(ctx)
	w := p.w
	side := func(c *cluster, ask func([]runbook.Record) runbook.Fate) runbook.Side {
		s := runbook.Side{Cluster: c.ref, Store: &reachable{c, w, &runbook.Mortal{Store: c.store, Dead: p.isDead, Ask: ask}}}
		if !c.up {
			s = runbook.Side{Cluster: dr.ClusterRef{Name: c.ref.Name}}
		}
		return s
	}
	askFor := func(c *cluster) func([]runbook.Record) runbook.Fate {
		return func(r []runbook.Record) runbook.Fate {
			if !p.home(c, r) {
				return p.askOther(r)
			}
			return p.ask(r)
		}
	}
	j := runbook.NewJournal(runbook.JournalOptions{Pair: pairName, Sides: [2]runbook.Side{side(w.a, askFor(w.a)), side(w.b, askFor(w.b))}})
	m := move.New(move.Options{
		Pair: pairName, Journal: j, InitialActive: "a", Who: dr.Holder{Who: "ann@host", PID: 1},
		Clusters: [2]dr.ClusterRef{w.a.ref, w.b.ref},
		Ports:    move.Ports{Sides: p, Fence: fenceOf{p}, Transactions: txnOf{p}, Access: accessOf{p}, Replication: replOf{p}, Groups: groupsOf{p}, Verify: verifyOf{p}, Ledger: ledgerOf{p}, Rebuild: rebuildOf{p}, Hooks: hooksOf{p}, Drill: drillOf{p}},
	})
	return m, ctx
}

// home reports whether the records are written to the home of their run: only
// those writes decide.
func (p *process) home(c *cluster, records []runbook.Record) bool {
	for _, r := range records {
		if parts := strings.Split(r.Key, "/"); strings.HasPrefix(r.Key, "c/run/") {
			values, _ := c.store.Read(context.Background(), strings.Join(parts[:4], "/")+"/000000")
			first := values[strings.Join(parts[:4], "/")+"/000000"]
			if first == nil {
				first = r.Value
			}
			var e struct {
				Header struct {
					Home dr.ClusterRef `json:"home"`
				} `json:"header"`
			}
			if err := json.Unmarshal(first, &e); err != nil {
				panic(err)
			}
			return e.Header.Home.ID == c.ref.ID
		}
	}
	return true
}

// reachable is a store that is gone with its cluster.
type reachable struct {
	c     *cluster
	w     *world
	store runbook.Store
}

func (r *reachable) up(ctx context.Context) error {
	r.w.mu.Lock()
	up := r.c.up
	r.w.mu.Unlock()
	if !up {
		return r.c.away(ctx)
	}
	return nil
}

func (r *reachable) Take(ctx context.Context) (runbook.Writer, error) {
	if err := r.up(ctx); err != nil {
		return nil, err
	}
	return r.store.Take(ctx)
}

func (r *reachable) Read(ctx context.Context, prefixes ...string) (map[string][]byte, error) {
	if err := r.up(ctx); err != nil {
		return nil, err
	}
	return r.store.Read(ctx, prefixes...)
}

func (r *reachable) Put(ctx context.Context, rec runbook.Record) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	return r.store.Put(ctx, rec)
}
