package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

func TestSeedsRepeatAndTheirNeighboursDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for seed := range uint64(12) {
		p := planOf(seed)
		if d := cmp.Diff(p, planOf(seed)); d != "" {
			t.Errorf("seed %d: %s", seed, d)
		}
		if p.Load < 60*time.Second || p.Load > 120*time.Second {
			t.Errorf("seed %d: load of %v", seed, p.Load)
		}
		for side, o := range p.Clusters {
			if err := o.Validate(); err != nil {
				t.Error(err)
			}
			seen[side+" "+describe(o)] = true
		}
		if p.Clusters["a"].Version == p.Clusters["b"].Version {
			t.Errorf("seed %d: both sides are %s", seed, p.Clusters["a"].Version)
		}
	}
	// Two sides, one or three brokers, the oldest version or one of two levels of
	// the newest.
	if len(seen) != 2*2*3 {
		t.Errorf("12 seeds have %d shapes of clusters, want 12: %v", len(seen), seen)
	}
}

// testAttack is an attack on a round without clusters.
func testAttack(t *testing.T, seed uint64) *attack {
	t.Helper()
	r := &round{ctx: t.Context(), plan: planOf(seed), began: time.Now()}
	r.crew = newCrew(nil, t.TempDir(), seed)
	t.Cleanup(r.crew.close)
	return newAttack(r)
}

func TestADeckHoldsEveryKind(t *testing.T) {
	t.Parallel()
	for seed, three := range map[uint64]bool{0: false, 2: true} {
		a := testAttack(t, seed)
		got := map[string]int{}
		for _, k := range a.shuffled() {
			got[k.name]++
		}
		for _, k := range kinds() {
			want := k.cards
			if k.three && !three {
				want = 0
			}
			if got[k.name] != want {
				t.Errorf("seed %d: %q comes %d times, want %d", seed, k.name, got[k.name], want)
			}
		}
	}
}

// TestTheSameSeedChoosesTheSame holds for the choices that need no running
// clusters.
func TestTheSameSeedChoosesTheSame(t *testing.T) {
	t.Parallel()
	choices := func(seed uint64) (out []string) {
		a := testAttack(t, seed)
		for _, k := range append(workerKinds(), networkKinds()...) {
			j, ok := k.choose(a)
			if !ok || len(j.keys) == 0 || j.what == "" {
				t.Errorf("%s: %v, %+v", k.name, ok, j)
			}
			out = append(out, k.name+" "+j.what)
		}
		return out
	}
	if d := cmp.Diff(choices(5), choices(5)); d != "" {
		t.Error(d)
	}
	if cmp.Equal(choices(5), choices(6)) {
		t.Error("two seeds choose the same")
	}
}

func TestAFaultKeepsWhatItTouchesToItself(t *testing.T) {
	t.Parallel()
	a := testAttack(t, 1)
	k := kind{name: "x", most: 2}
	if !a.take(k, []string{"ab-0", "a"}) || a.take(k, []string{"ab-0"}) || !a.take(k, []string{"ab-1"}) {
		t.Error("keys do not keep others out, or too many")
	}
	if a.take(k, []string{"ba-0"}) {
		t.Error("a third one of a kind that comes twice at most")
	}
}

func TestTakeOversAreMeasured(t *testing.T) {
	t.Parallel()
	c := newCrew(nil, t.TempDir(), 1)
	t.Cleanup(c.close)
	for slot := range int32(4) {
		c.acquired([]string{"ab-0", "ab-1"}[slot%2], slot)
	}
	c.acquired("ba-0", 0)
	c.faultBegins()
	c.lost("ab-0", succeeded)
	c.acquired("ba-0", 0) // another replicator's slot
	c.acquired("ab-1", 1) // a slot that it had
	c.acquired("ab-1", 0)
	if done, open := c.takeOvers(); len(done) != 0 || open != 1 {
		t.Fatalf("%v, %d open", done, open)
	}
	c.acquired("ab-1", 2)
	done, open := c.takeOvers()
	if len(done) != 1 || open != 0 || done[0].Slots != 2 || !done[0].Alone || done[0].How != succeeded {
		t.Fatalf("%+v, %d open", done, open)
	}
	// What a frozen worker acquires does not count, and another fault makes it
	// not alone.
	c.lost("ab-1", frozen)
	c.faultBegins()
	for slot := range int32(4) {
		c.acquired("ab-1", slot)
	}
	if done, open := c.takeOvers(); len(done) != 1 || open != 1 {
		t.Fatalf("%+v, %d open", done, open)
	}
	for slot := range int32(4) {
		c.acquired("ab-0", slot)
	}
	if done, _ := c.takeOvers(); len(done) != 2 || done[1].Slots != 4 || done[1].Alone {
		t.Fatalf("%+v", done)
	}
	c.lost("ab-0", frozen)
	c.kept("ab-1")
	if _, open := c.takeOvers(); open != 1 || c.mu.kept != 0 {
		t.Errorf("%d open, %d kept", open, c.mu.kept)
	}
	c.kept("ab-0")
	if _, open := c.takeOvers(); open != 0 || c.mu.kept != 1 {
		t.Errorf("%d open, %d kept", open, c.mu.kept)
	}
}

func TestPausesAreFoundAndThoseOfOperatorsLeftOut(t *testing.T) {
	t.Parallel()
	began := time.Now()
	at := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	w := &watcher{replicator: "ab", began: began, last: map[int32]time.Time{}}
	for _, s := range []float64{1, 1.2, 4, 4.1, 12, 12.3} {
		w.seen(0, at(s))
	}
	w.seen(1, at(9)) // its first record: no pause
	faults := []Fault{{Kind: "kill -9", At: 2 * time.Second, Took: time.Second}, {Kind: pauseKind, What: "ba, for 2s", At: 5 * time.Second, Took: time.Second}}
	if p, ok := w.longest(faults); !ok || p.Took != at(12).Sub(at(4.1)) || len(p.During) != 1 {
		t.Errorf("%+v, %v", p, ok)
	}
	faults[1].What = "ab, for 2s"
	if p, ok := w.longest(faults); !ok || p.Took != at(4).Sub(at(1.2)) || p.During[0] != "kill -9" {
		t.Errorf("%+v, %v", p, ok)
	}
}

func TestRecordsTellTheirSide(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		r    kgo.Record
		want string
	}{
		{kgo.Record{Value: []byte("ktest-id:a-w/plain/1;text")}, "a"},
		{kgo.Record{Headers: []kgo.RecordHeader{{Key: "h"}, {Key: "ktest-id", Value: []byte("b-w/plain/2")}}}, "b"},
		{kgo.Record{Value: []byte("something else")}, ""},
		{kgo.Record{}, ""},
	} {
		if got := nativeTo(&c.r); got != c.want {
			t.Errorf("%q: side %q, want %q", c.r.Value, got, c.want)
		}
	}
}

func TestTroubleIsWhatIsNotRunning(t *testing.T) {
	t.Parallel()
	good := func() dr.ReplicatorStatus {
		return dr.ReplicatorStatus{State: dr.ReplicatorRunning, Topics: []dr.TopicStatus{{
			Name: "t", State: dr.TopicRunning, Partitions: []dr.PartitionStatus{{State: dr.PartitionRunning}},
		}}}
	}
	if got := trouble(good()); got != "" {
		t.Error(got)
	}
	for name, spoil := range map[string]func(*dr.ReplicatorStatus){
		"state":     func(st *dr.ReplicatorStatus) { st.State = dr.ReplicatorDegraded },
		"reason":    func(st *dr.ReplicatorStatus) { st.Reason = "x" },
		"topic":     func(st *dr.ReplicatorStatus) { st.Topics[0].State = dr.TopicHalted },
		"partition": func(st *dr.ReplicatorStatus) { st.Topics[0].Partitions[0].State = dr.PartitionHalted },
	} {
		st := good()
		if spoil(&st); trouble(st) == "" {
			t.Errorf("%s: no trouble", name)
		}
	}
}

// testReport is a report of a clean round and of one that lost a record.
func testReport() *Report {
	rep := newReport(7)
	for i, lost := range []int{0, 1} {
		r := Round{
			Seed: uint64(7 + i), Load: time.Hour / 2, Acknowledged: 1000, Found: map[string]int{"lost": lost}, Kills: map[string]int{"ab": 2, "ba": 1},
			Faults:    []Fault{{Kind: "kill -9"}, {Kind: "network cut", Error: "no answer"}},
			TakeOvers: []TakeOver{{How: succeeded, Took: 7 * time.Second, Alone: true}, {How: succeeded, Took: 9 * time.Second}},
			Pauses:    []Pause{{Replicator: "ab", Took: 8 * time.Second, During: []string{"kill -9"}}},
		}
		if lost > 0 {
			r.Failures, r.Logs = []string{"plain: 1 violations"}, "logs"
		}
		rep.Rounds = append(rep.Rounds, r)
	}
	return rep
}

func TestReportTellsWhatWentWrongAndHowToRepeatIt(t *testing.T) {
	t.Parallel()
	rep := testReport()
	if rep.failed() != 1 {
		t.Errorf("%d rounds failed, want 1", rep.failed())
	}
	// Columns of tables are apart by any number of blanks.
	text := strings.Join(strings.Fields(string(rep.text())), " ")
	for _, want := range []string{
		"2 rounds, 1 failed", "under load 1.00 hours", "2000 acknowledged", "lost 1", "twice 0", "late 0", "kills of workers (-9) 6",
		"2 kill -9", "2 network cut (2 could not be made or undone in full)", "2: median 7.0 s, at most 7.0 s", "4: median 9.0 s, at most 9.0 s",
		"8s, during: kill -9", "Round of seed 8: FAILED", "plain: 1 violations", "make campaign SEED=8 ROUNDS=1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, rep.text())
		}
	}
	dir := t.TempDir()
	if err := rep.write(dir); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(read(t, filepath.Join(dir, "report.json")), &back); err != nil || len(back.Rounds) != 2 || back.Rounds[1].Found["lost"] != 1 {
		t.Errorf("%v, %+v", err, back)
	}
}

// TestReportShowsEveryKindOfViolation holds that no column of the verdict is left
// out of the sums.
func TestReportShowsEveryKindOfViolation(t *testing.T) {
	t.Parallel()
	for _, c := range ktest.Columns() {
		for _, k := range c.Kinds {
			r := Round{Found: map[string]int{}}
			r.add([]ktest.Row{{Found: map[ktest.Kind]int{k: 3}}})
			rep := &Report{Rounds: []Round{r}}
			if text := strings.Join(strings.Fields(string(rep.text())), " "); !strings.Contains(text, c.Title+" 3") {
				t.Errorf("the report does not show %s", k)
			}
		}
	}
}

// TestOrdersReachAWorkerAndLateOnesDoNot runs the worker's side of the protocol
// without a cluster.
func TestOrdersReachAWorkerAndLateOnesDoNot(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := &child{out: json.NewEncoder(&out)}
	if _, err := c.do(t.Context(), order{Do: doReset}); err != nil {
		t.Error(err)
	}
	if _, err := c.do(t.Context(), order{Do: doPause, Deadline: time.Now().Add(-time.Second)}); err == nil {
		t.Error("an order that came too late is carried out")
	}
	c.tell(notice{Done: 3, Error: "x"})
	var n notice
	if err := json.Unmarshal(out.Bytes(), &n); err != nil || n.Done != 3 || n.Error != "x" {
		t.Errorf("%v, %+v", err, n)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	o, err := parse([]string{"-duration", "1h", "-seed", "9", "-rounds", "2", "-dir", "x"})
	if err != nil || o != (options{time.Hour, 9, 2, "x", ""}) {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := parse(nil); err != nil || o.seed == 0 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"-nonsense", "-endings=nonsense"} {
		if _, err := parse([]string{bad}); err == nil {
			t.Errorf("%s passes", bad)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
