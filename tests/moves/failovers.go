package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// lostRecords is what a failover lost, and what the product said of it.
type lostRecords struct {
	How       string  `json:"how"`                // the active was lost
	Lost      int     `json:"lost"`               // acknowledged there and not on the other cluster
	Below     int     `json:"below"`              // of them below the ends that the product had seen
	AtRisk    int64   `json:"at_risk"`            // as reported
	Estimated int64   `json:"estimated"`          // as reported, behind the ends that it had seen
	Waited    string  `json:"waited,omitempty"`   // how long the returned cluster was watched with no decision
	Policy    string  `json:"policy,omitempty"`   // of the failback
	Ledger    int64   `json:"ledger"`             // records, as reported by the failback
	Failback  string  `json:"failback,omitempty"` // its run
	Rebuilt   bool    `json:"rebuilt,omitempty"`  //
	Hanging   bool    `json:"hanging,omitempty"`  // a broker of the returned cluster had left out markers of transactions
	FailbackS float64 `json:"failback_seconds"`   // of the command

	FailbackKilled string `json:"failback_killed,omitempty"` // at what, and what was done then
	Exported       bool   `json:"exported"`                  // the list of the ledger was compared, record by record
}

// sealedPartition is what a failover reports of a partition.
type sealedPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Position  int64  `json:"position"`
	SourceEnd int64  `json:"source_end"`
}

// sealStep is the id of the step whose result says where each partition stood.
const sealStep = "seal"

// sealed returns the partitions of the report of a failover.
func sealed(run dr.Run) ([]sealedPartition, error) {
	for _, step := range run.Steps {
		if step.ID != sealStep {
			continue
		}
		type report struct {
			Partitions []sealedPartition `json:"partitions"`
		}
		var v struct {
			report
			Data report `json:"data"`
		}
		if err := json.Unmarshal(step.Result, &v); err != nil {
			return nil, fmt.Errorf("read the result of step %s: %w", step.ID, err)
		}
		if list := slices.Concat(v.Partitions, v.Data.Partitions); len(list) > 0 {
			return list, nil
		}
		return nil, fmt.Errorf("the result of step %s of run %s names no partitions: %s", step.ID, run.ID, tail(string(step.Result), 400))
	}
	return nil, fmt.Errorf("run %s has no step %s", run.ID, sealStep)
}

// checkRisk holds what a failover reported against what is lost. Everything below
// a position has to be there, and what is lost below the ends that were seen has
// to be within the numbers. Behind these ends the report is open.
func checkRisk(risk dr.RiskReport, parts []sealedPartition, lost map[string]ktest.Produced) (below int, bad []ktest.Violation) {
	type tp struct {
		topic     string
		partition int32
	}
	at := map[tp]sealedPartition{}
	for _, p := range parts {
		at[tp{p.Topic, p.Partition}] = p
	}
	seen := map[string]int64{}
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		r := lost[id].Record
		v := ktest.Violation{Kind: Unreported, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, ID: id}
		p, known := at[tp{r.Topic, r.Partition}]
		switch {
		case !known:
			v.Detail = "its partition is not in the report"
			bad = append(bad, v)
		case r.Offset < p.Position:
			v.Detail = fmt.Sprintf("everything below %d is said to be there", p.Position)
			bad = append(bad, v)
		case r.Offset < p.SourceEnd:
			below++
			seen[r.Topic]++
		}
	}
	for _, t := range risk.Topics {
		if n := seen[t.Topic]; n > t.Records {
			bad = append(bad, ktest.Violation{Kind: Unreported, Topic: t.Topic, Partition: -1, Offset: -1, Detail: fmt.Sprintf("%d of what was seen is lost, reported are %d", n, t.Records)})
		}
		delete(seen, t.Topic)
	}
	for topic, n := range seen {
		bad = append(bad, ktest.Violation{Kind: Unreported, Topic: topic, Partition: -1, Offset: -1, Detail: fmt.Sprintf("%d of what was seen is lost, and nothing is reported", n)})
	}
	return below, bad
}

// The kinds of violations of a failover.
const (
	Unreported ktest.Kind = "unreported" // lost, and the report excludes it
	Undecided  ktest.Kind = "undecided"  // it moved before it was decided what becomes of it
)

// loss is how an active cluster is lost.
type loss string

// The ways.
const (
	killed loss = "killed -9"
	cutOff loss = "cut off from the product, clients go on"
	both   loss = "killed -9 together with the workers"
	behind loss = "killed -9 together with the workers, which were behind"
)

// slowLink is what passes a connection to a standby that is to fall behind, in
// bytes a second: less than clients write.
const slowLink = 4 << 10

// failovers has the active cluster lost, the other one take over, and the lost one
// return, n times.
func (s *stage) failovers(ctx context.Context, n int) error {
	began := time.Now()
	for i := range n {
		m, err := s.failover(ctx, i)
		if m != nil {
			s.report.Failovers = append(s.report.Failovers, m)
		}
		if err != nil {
			return fmt.Errorf("failover %d: %w", i+1, err)
		}
		left := time.Since(began) / time.Duration(i+1) * time.Duration(n-i-1)
		s.say("failover %d of %d, %s to %s (%s): command %.1f s, writes stopped %.1f s; %d lost, of them %d of %d seen, %d estimated behind; ledger %d, %s, back in %.1f s; %s; about %v left",
			i+1, n, m.From, m.To, m.How, m.Command, m.Clients, m.Lost, m.Below, m.AtRisk, m.Estimated, m.Ledger, m.Policy, m.FailbackS, m.Verdict.kinds(), left.Round(time.Second))
		if err := m.Verdict.err(); err != nil {
			return fmt.Errorf("failover %d: %w", i+1, err)
		}
	}
	return nil
}

// failover does one, to the end of the failback that follows.
func (s *stage) failover(ctx context.Context, i int) (*moved, error) {
	from, to := s.active, s.other(s.active)
	if err := s.settle(ctx, from); err != nil {
		return nil, err
	}
	s.hooks.onFence(nil)
	m, parts, err := s.lose(ctx, i, from, to)
	if err != nil {
		return m, err
	}
	var risk dr.RiskReport
	if m.risk != nil {
		risk = *m.risk
	}
	// The first sight of the new active: nothing of the old one is added to it
	// before a decision.
	first, err := to.read(ctx)
	if err != nil {
		return m, err
	}
	s.say("%s is active alone (%s, %.1f s%s), %d at risk, %d estimated; %s returns", to.name, m.How, m.Command, commaIf(m.Killed), m.AtRisk, m.Estimated, from.name)
	policy := []dr.TailPolicy{dr.TailAppend, dr.TailQuarantine, dr.TailDiscard}[i%3]
	m.Rebuilt = s.rebuilt > 0 && i%s.rebuilt == s.rebuilt-1
	if m.Rebuilt {
		return m, s.rebuild(ctx, m, from, to)
	}
	if err := s.back(ctx, from); err != nil {
		return m, err
	}
	lost, bad, err := s.undecided(ctx, m, from, to, first)
	if err != nil {
		return m, err
	}
	var wrong []ktest.Violation
	m.Below, wrong = checkRisk(risk, parts, lost)
	m.Lost = len(lost)
	if found := slices.Concat(bad, wrong); len(found) > 0 {
		return m, fmt.Errorf("before it is decided: %s", ktest.Summary(found))
	}
	s.say("%d records are lost, %d of them below ends that were seen; nothing moved for %v", m.Lost, m.Below, s.watch)
	if err := s.failback(ctx, i, m, policy, from, to, lost); err != nil {
		return m, err
	}
	m.Verdict, err = s.judge(ctx, skipped)
	return m, err
}

// lose takes the active cluster away at a random moment and fails over.
func (s *stage) lose(ctx context.Context, i int, from, to *side) (*moved, []sealedPartition, error) {
	how := []loss{killed, cutOff, both, behind}[i%4]
	args := []string{"failover", pair, "--yes"}
	var err error
	switch how {
	case cutOff:
		from.cutOff()
		args = append(args, "--force")
		// Clients go on where they are: what they write now is lost.
		err = pause(ctx, time.Second+time.Duration(s.rng.Int64N(int64(2*time.Second))))
	case both:
		err = cmp.Or(s.killWorkers(), from.kill())
	case behind:
		to.slow(slowLink)
		err = cmp.Or(pause(ctx, 4*time.Second+time.Duration(s.rng.Int64N(int64(3*time.Second)))), s.killWorkers(), from.kill())
		to.mend()
	default:
		err = from.kill()
	}
	if err != nil {
		return nil, nil, err
	}
	k := &killedRun{}
	if chosen(i, s.failoverKills, s.options.failovers) {
		k.Kind = string(dr.RunFailover)
	}
	r, runs, err := s.moveOrKill(ctx, i, failoverSteps, k, args...)
	if err != nil {
		return nil, nil, err
	}
	m := newMoved(runs[0], r)
	m.Options, m.lostRecords = strings.Join(args[3:], " "), &lostRecords{How: string(how)}
	if k.Kind != "" {
		m.Killed = k.String()
	}
	if runs[0].Report == nil || runs[0].Report.Risk == nil {
		return m, nil, fmt.Errorf("run %s reports nothing about what is at risk", runs[0].ID)
	}
	m.risk = runs[0].Report.Risk
	m.AtRisk, m.Estimated = m.risk.Records, m.risk.Estimated
	parts, err := sealed(runs[0])
	if err != nil {
		return m, nil, err
	}
	if how == both || how == behind {
		for i := range s.workers {
			if err := s.startWorker(i); err != nil {
				return m, nil, err
			}
		}
	}
	if err := s.over(ctx, runs[0], from, to); err != nil {
		return m, nil, err
	}
	m.Clients = s.stopped()
	return m, parts, nil
}

// killWorkers ends all of them at once.
func (s *stage) killWorkers() error {
	var err error
	for _, w := range s.workers {
		err = cmp.Or(err, w.Kill())
	}
	return err
}

// back brings a lost cluster back.
func (s *stage) back(ctx context.Context, from *side) error {
	from.mend()
	if from.cluster.Process(0) == nil {
		return nil
	}
	var g errgroup.Group
	for i := range s.brokers {
		select {
		case <-from.cluster.Process(i).Done():
			g.Go(func() error { return from.cluster.StartBroker(ctx, i) })
		default:
		}
	}
	return g.Wait()
}

// undecided watches both clusters for a while, reached by all workers, before it
// is decided what becomes of the tail: nothing may move. It returns what is lost.
func (s *stage) undecided(ctx context.Context, m *moved, from, to *side, first logs) (map[string]ktest.Produced, []ktest.Violation, error) {
	before, err := s.audit.look(ctx, s.book.History(), from, to)
	if err != nil {
		return nil, nil, err
	}
	m.Waited = s.watch.String()
	if err := pause(ctx, s.watch); err != nil {
		return nil, nil, err
	}
	after, err := s.audit.look(ctx, s.book.History(), from, to)
	if err != nil {
		return nil, nil, err
	}
	return s.audit.newlyLost(after.missing(from, to)), moving(from, to, first, before, after), nil
}

// moving finds what was copied between the clusters since the first sight of the
// new active.
func moving(from, to *side, first logs, before, after sight) []ktest.Violation {
	var bad []ktest.Violation
	copied := func(native string, on *side, had, has map[string]ktest.Record) {
		for _, p := range after.h.Produced {
			_, before := had[p.ID]
			if r, now := has[p.ID]; now && !before && p.Cluster == native {
				bad = append(bad, ktest.Violation{Kind: Undecided, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, ID: p.ID, Detail: "copied to " + on.name})
			}
		}
	}
	copied(from.native(), to, there(first), there(after.sides[to]))
	copied(to.native(), from, there(before.sides[from]), there(after.sides[from]))
	return bad
}

// failback takes the returned cluster back and then makes it active again, or
// leaves it the standby, by turns.
func (s *stage) failback(ctx context.Context, i int, m *moved, policy dr.TailPolicy, from, to *side, lost map[string]ktest.Produced) error {
	m.Policy = string(policy)
	export := filepath.Join(s.dir, "tail.jsonl")
	k := &killedRun{}
	if chosen(i, s.failbackKills, s.options.failovers) {
		k.Kind = string(dr.RunFailback)
	}
	args := []string{"failback", pair, "--tail", string(policy), "--stay", "--yes", "--export", export}
	left, err := from.unmarked()
	if err != nil {
		return err
	}
	if len(left) > 0 { // a broker left a transaction open for ever: without consent the failback says so and ends
		args, m.Hanging = append(args, "--abort-transactions"), true
	}
	r, runs, err := s.moveOrKill(ctx, i, failbackSteps, k, args...)
	if err != nil {
		return err
	}
	if k.Kind != "" {
		m.FailbackKilled = k.String()
		s.say("run %s %s", k.Run, k)
	}
	m.Failback, m.FailbackS, m.Ledger = runs[0].ID, r.Took.Seconds(), -1
	if rep := runs[0].Report; rep != nil && rep.Tail != nil {
		m.Ledger = rep.Tail.Records
	}
	for id := range lost {
		if policy == dr.TailAppend {
			s.audit.late[id] = true
		} else {
			s.audit.only[id], s.audit.passed[id] = from.native(), true
		}
	}
	if m.Ledger != int64(len(lost)) {
		return fmt.Errorf("the ledger of run %s has %d records, lost are %d: %s", m.Failback, m.Ledger, len(lost), sample(lost))
	}
	// Whoever resumes a run exports nothing.
	if runs[0].ID != k.Run || k.At == tooLate {
		if bad := checkExport(export, lost); bad != nil {
			return fmt.Errorf("the export of run %s: %w", m.Failback, bad)
		}
		m.Exported = true
	}
	if policy == dr.TailQuarantine {
		return s.quarantined(ctx, runs[0].ID, to, lost)
	}
	return nil
}

// checkExport holds the list of what only the returned cluster has against what
// is lost: the same places, and nothing else.
func checkExport(file string, lost map[string]ktest.Produced) error {
	type place struct {
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Offset    int64  `json:"offset"`
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the export: %w", err)
	}
	want := map[place]bool{}
	for _, p := range lost {
		want[place{p.Record.Topic, p.Record.Partition, p.Record.Offset}] = true
	}
	listed := 0
	for line := range bytes.Lines(raw) {
		var p place
		if err := json.Unmarshal(line, &p); err != nil {
			return fmt.Errorf("read the export: %w", err)
		}
		if !want[p] {
			return fmt.Errorf("lists %s-%d@%d, which is not lost, or lists it twice", p.Topic, p.Partition, p.Offset)
		}
		delete(want, p)
		listed++
	}
	if listed != len(lost) {
		return fmt.Errorf("lists %d records, lost are %d", listed, len(lost))
	}
	return nil
}

// sample names a few records.
func sample(of map[string]ktest.Produced) string {
	ids := slices.Sorted(maps.Keys(of))
	return strings.Join(ids[:min(10, len(ids))], " ")
}

// quarantined looks whether the topics of a quarantine hold what was lost, and
// nothing else.
func (s *stage) quarantined(ctx context.Context, run string, on *side, lost map[string]ktest.Produced) error {
	r, err := ktest.NewReader(on.cluster)
	if err != nil {
		return err
	}
	defer r.Close()
	var bad []ktest.Violation
	for _, t := range topics() {
		name := t.name + ".divergent." + run
		h := ktest.History{}
		for _, p := range lost {
			if p.Record.Topic == t.name {
				p.Record.Topic = name
				// Where it came from is told with it.
				p.Record.Headers = append(slices.Clone(p.Record.Headers), ktest.Header{Key: "anabranch.source.offset", Value: strconv.AppendInt(nil, p.Record.Offset, 10)})
				h.Produced = append(h.Produced, p)
			}
		}
		if len(h.Produced) == 0 {
			continue
		}
		l, err := r.Read(ctx, name, ktest.ReadCommitted)
		if err != nil {
			return fmt.Errorf("read the quarantine of %s: %w", t.name, err)
		}
		bad = append(bad, ktest.Check(h, on.native(), l)...)
	}
	if len(bad) > 0 {
		return fmt.Errorf("the quarantine of run %s: %s", run, ktest.Summary(bad))
	}
	return nil
}

// rebuiltPolicy stands for the policy of a failback to a new, empty cluster.
const rebuiltPolicy = "rebuilt"

// rebuild puts a new, empty cluster in the place of the lost one, and has it
// seeded.
func (s *stage) rebuild(ctx context.Context, m *moved, from, to *side) error {
	for _, p := range s.producers {
		if err := p.hold(ctx); err != nil {
			return err
		}
	}
	other, err := s.audit.look(ctx, s.book.History(), to)
	if err != nil {
		return err
	}
	native := from.native()
	has := there(other.sides[to])
	for _, p := range s.book.History().Produced {
		if _, ok := has[p.ID]; !ok && p.Cluster == native && p.Outcome == ktest.Acknowledged {
			m.Lost++
		}
	}
	s.audit.retire(s.book.History(), native, other.sides[to])
	s.audit.seeded(to.native())
	from.mend()
	if err := from.close(); err != nil {
		return err
	}
	if err := from.start(ctx); err != nil {
		return err
	}
	for _, p := range s.producers {
		p.resume()
	}
	// Its certificate is another one.
	if err := s.restartWorkers(); err != nil {
		return err
	}
	r, err := s.anabranch(ctx, "failback", pair, "--rebuilt", "--stay", "--yes")
	if err != nil {
		return err
	}
	runs, err := r.finished()
	if err != nil {
		return err
	}
	m.Policy, m.Failback, m.FailbackS = rebuiltPolicy, runs[0].ID, r.Took.Seconds()
	m.Verdict, err = s.judge(ctx, skipped)
	return err
}
