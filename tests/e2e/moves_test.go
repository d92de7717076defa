package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

const (
	movedTopic = "msk-topic"
	movedGroup = "msk-consumer"
)

// lab is a pair of secured clusters, the binary, and a file.
type lab struct {
	t                  *testing.T
	bin, file, listen  string
	primary, secondary *side
}

// newLab makes a pair. The product is the super user; applications are the user
// "client", who may read and write the topic on the primary.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, bin: binary(t), listen: ktest.FreeAddress(t)}
	l.primary = newSideOf(t, ktest.Options{Version: ktest.Newest, Security: ktest.SASLSSL})
	l.secondary = newSideOf(t, ktest.Options{Version: ktest.Oldest, Security: ktest.SASLSSL})
	dir := t.TempDir()
	cluster := func(name string, s *side) string {
		a := s.Auth()
		secret := writeFile(t, dir, name+"-password", a.AdminPassword)
		return fmt.Sprintf("  %s:\n    bootstrap_servers: [%q]\n    tls: {ca_file: %q}\n    sasl: {mechanism: PLAIN, username: %q, password: \"${file:%s}\"}\n",
			name, s.BootstrapServers()[0], a.CAFile, a.AdminUser, secret)
	}
	canary := func(name string, s *side) string {
		secret := writeFile(t, dir, name+"-client", s.Auth().ClientPassword)
		return fmt.Sprintf("      %s: {sasl: {mechanism: PLAIN, username: %q, password: \"${file:%s}\"}}\n", name, s.Auth().ClientUser, secret)
	}
	l.file = writeFile(t, dir, "anabranch.yaml", "clusters:\n"+cluster("primary", l.primary)+cluster("secondary", l.secondary)+fmt.Sprintf(`pairs:
  orders-dr:
    clusters: [primary, secondary]
    initial_active: primary
    topics: {include: ["msk-.*"]}
    groups: {include: ["msk-.*"], sync_interval: 500ms}
    acls: {interval: 1s}
    hooks:
      on_switch: {command: ["sh", "-c", "cat > %s/on-switch.json"]}
    canary:
%s%sapi: {listen: %q}
`, dir, canary("primary", l.primary), canary("secondary", l.secondary), l.listen))
	user := "User:" + l.primary.Auth().ClientUser
	l.primary.create(movedTopic, 3)
	rules := kadm.NewACLs().Topics(movedTopic).Groups(movedGroup).ResourcePatternType(kadm.ACLPatternLiteral).
		Operations(kadm.OpRead, kadm.OpWrite, kadm.OpDescribe).Allow(user).AllowHosts("*")
	if _, err := l.primary.adm.CreateACLs(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	return l
}

// anabranch runs a command of the product with the lab's file.
func (l *lab) anabranch(args ...string) (exit int, stdout, stderr string) {
	l.t.Helper()
	return run(l.t, l.bin, append(args, "--config", l.file)...)
}

// move runs a command that moves the pair and returns its run.
func (l *lab) move(args ...string) dr.Run {
	l.t.Helper()
	began := time.Now()
	exit, stdout, stderr := l.anabranch(append(args, "--yes", "-o", "json")...)
	l.t.Logf("%s: exit %d after %v\n%s", strings.Join(args, " "), exit, time.Since(began).Round(time.Millisecond), stderr)
	var r dr.Run
	if exit != 0 {
		l.t.Fatalf("%q: exit %d\n%s", args, exit, stdout)
	}
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		l.t.Fatalf("%q: %v\n%s", args, err, stdout)
	}
	if r.State != dr.RunFinished || r.Report == nil {
		l.t.Fatalf("%q: %s", args, stdout)
	}
	return r
}

// ready waits until nothing stands against a move.
func (l *lab) ready() dr.PairStatus {
	l.t.Helper()
	var st dr.PairStatus
	eventually(l.t, time.Minute, func() error {
		exit, stdout, stderr := l.anabranch("pair", "status", "orders-dr", "-o", "json")
		if err := json.Unmarshal([]byte(stdout), &st); err != nil || exit != 0 {
			return fmt.Errorf("exit %d: %w\n%s", exit, err, stderr)
		}
		if !st.Ready || st.RPO.Records > 500 {
			return fmt.Errorf("not ready: %s", stdout)
		}
		return nil
	})
	return st
}

// asUser makes a client of an application.
func (s *side) asUser(opts ...kgo.Opt) *kgo.Client {
	s.t.Helper()
	tls, err := s.Auth().TLSConfig()
	if err != nil {
		s.t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(s.BootstrapServers()...), kgo.DialTLSConfig(tls),
		kgo.SASL(plain.Auth{User: s.Auth().ClientUser, Pass: s.Auth().ClientPassword}.AsMechanism()))...)
	if err != nil {
		s.t.Fatal(err)
	}
	return cl
}

// application writes to whichever side lets it, one record at a time, and notes
// which were acknowledged. It moves over when it is refused, as an application
// does that is told of a move.
type application struct {
	mu       sync.Mutex
	acked    []string
	failures map[string]int // by their text
	gap      time.Duration  // longest between two acknowledgements
	stopped  chan struct{}
	cancel   context.CancelFunc
}

func (l *lab) load() *application {
	ctx, cancel := context.WithCancel(l.t.Context())
	a := &application{failures: map[string]int{}, stopped: make(chan struct{}), cancel: cancel}
	opts := []kgo.Opt{kgo.RecordDeliveryTimeout(2 * time.Second), kgo.AllowIdempotentProduceCancellation()}
	sides := []*kgo.Client{l.primary.asUser(opts...), l.secondary.asUser(opts...)}
	go func() {
		defer close(a.stopped)
		defer sides[0].Close()
		defer sides[1].Close()
		last := time.Now()
		for at, n := 0, 0; ctx.Err() == nil; n++ {
			value := fmt.Sprintf("load-%d", n)
			once, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			err := sides[at].ProduceSync(once, &kgo.Record{Topic: movedTopic, Key: []byte(value), Value: []byte(value)}).FirstErr()
			done()
			if err != nil {
				a.mu.Lock()
				a.failures[err.Error()]++
				a.mu.Unlock()
				at = 1 - at
				time.Sleep(20 * time.Millisecond)
				continue
			}
			a.mu.Lock()
			a.acked, a.gap, last = append(a.acked, value), max(a.gap, time.Since(last)), time.Now()
			a.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return a
}

func (a *application) stop() []string {
	a.cancel()
	<-a.stopped
	return a.acked
}

// once checks that a side holds each record that was acknowledged once.
func (s *side) once(topic string, acked []string) error {
	held, err := s.read(topic)
	if err != nil {
		return err
	}
	times := map[string]int{}
	for _, values := range held {
		for _, v := range values {
			times[v]++
		}
	}
	for _, v := range acked {
		if times[v] != 1 {
			return fmt.Errorf("record %s is there %d times", v, times[v])
		}
	}
	return nil
}

// TestMoves_SwitchoverForthAndBack moves the pair under load, first with a server
// and then without, and back.
func TestMoves_SwitchoverForthAndBack(t *testing.T) {
	ktest.Long(t) // tests/moves switches over twice under load
	t.Parallel()  // most of it is waiting
	l := newLab(t)
	first := l.primary.write(movedTopic, "m", 4, 1)
	w := serve(t, l.bin, l.file, l.listen)
	l.ready()
	if got := l.primary.consume(movedGroup, movedTopic, 2); !slices.Equal(got, first[:2]) {
		t.Fatalf("the group read %v", got)
	}
	w.awaitGroup("orders-dr-to-secondary", movedGroup)

	app := l.load()
	time.Sleep(2 * time.Second)
	there := l.move("switchover", "orders-dr")
	t.Logf("write stop %.2f s", there.Report.WriteStopSeconds)
	if st := l.ready(); st.Active != "secondary" || st.Epoch < 2 {
		t.Fatalf("after the switchover %s is active, epoch %d", st.Active, st.Epoch)
	}
	time.Sleep(time.Second)
	back := l.move("switchover", "orders-dr")
	t.Logf("write stop %.2f s", back.Report.WriteStopSeconds)
	if st := l.ready(); st.Active != "primary" {
		t.Fatalf("after the way back %s is active", st.Active)
	}
	acked := app.stop()
	t.Logf("%d records acknowledged, refused %v, longest pause of the application %v", len(acked), app.failures, app.gap)
	for _, s := range []*side{l.primary, l.secondary} {
		eventually(t, 20*time.Second, func() error { return s.once(movedTopic, append(acked, first...)) })
	}
	if err := w.stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// TestMoves_FailoverAndTheOldSideReturns kills the primary's broker, fails over
// with the secondary alone, and starts the broker again: nothing of it moves by
// itself.
func TestMoves_FailoverAndTheOldSideReturns(t *testing.T) {
	ktest.Long(t) // tests/moves fails over three times under load
	t.Parallel()  // most of it is waiting
	l := newLab(t)
	w := serve(t, l.bin, l.file, l.listen)
	l.ready()
	messages := l.primary.write(movedTopic, "message", 2, 1)
	if got := l.primary.consume(movedGroup, movedTopic, 2); !slices.Equal(got, messages) {
		t.Fatalf("the group read %v", got)
	}
	w.awaitGroup("orders-dr-to-secondary", movedGroup)
	if exit, _, stderr := l.anabranch("failover", "orders-dr", "--yes"); exit != 4 || !strings.Contains(stderr, "switchover") {
		t.Errorf("failover away from a cluster that works: exit %d\n%s", exit, stderr)
	}
	app := l.load()
	time.Sleep(2 * time.Second)
	if err := l.primary.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	app.stop()
	if exit, stdout, stderr := l.anabranch("pair", "status", "orders-dr"); exit != 0 || !strings.Contains(stdout, "does not answer") {
		t.Errorf("status without the active: exit %d\n%s%s", exit, stdout, stderr)
	}
	exit, stdout, stderr := l.anabranch("failover", "orders-dr", "--dry-run")
	if exit != 0 || !strings.Contains(stdout, "not copied:") {
		t.Fatalf("dry run: exit %d\n%s%s", exit, stdout, stderr)
	}
	t.Logf("dry run:\n%s", stdout)
	r := l.move("failover", "orders-dr")
	for _, s := range r.Steps {
		if took := s.EndedAt.Sub(s.StartedAt); s.ID == "groups-final" && took > 3*time.Second && !ktest.Overloaded(t) {
			t.Errorf("the groups waited %v for the active", took)
		}
	}
	if r.Report.Risk == nil {
		t.Fatal("the report says nothing of what was lost")
	}
	held, err := l.secondary.read(movedTopic)
	if err != nil {
		t.Fatal(err)
	}
	copied := 0
	for _, values := range held {
		copied += len(values)
	}
	lost := int64(len(messages) + len(app.acked) - copied)
	t.Logf("%d records acknowledged, %d copied: %d lost; the report says %d at most, about %d later", len(app.acked), copied, lost, r.Report.Risk.Records, r.Report.Risk.Estimated)
	cl := l.secondary.asUser()
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: movedTopic, Value: []byte("message-3")}).FirstErr(); err != nil {
		t.Fatalf("a client can't write to the new active: %v", err)
	}
	got := l.secondary.consume(movedGroup, movedTopic, copied+10)
	for _, m := range messages {
		if slices.Contains(got, m) {
			t.Errorf("the group reads %s again", m)
		}
	}
	if !slices.Contains(got, "message-3") {
		t.Errorf("the group did not read what was written after the failover, but %d records", len(got))
	}
	if err := l.primary.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second) // the workers reach it again meanwhile
	after, err := l.secondary.read(movedTopic)
	if err != nil {
		t.Fatal(err)
	}
	now := 0
	for _, values := range after {
		now += len(values)
	}
	if now != copied+1 {
		t.Errorf("the secondary holds %d records, had %d and got one: the old side's tail was copied by itself", now, copied)
	}
	if exit, stdout, _ := l.anabranch("pair", "status", "orders-dr", "--exit-code"); exit != 4 || !strings.Contains(stdout, "pair_failed_over") {
		t.Errorf("status after the failover: exit %d\n%s", exit, stdout)
	}
}

// TestMoves_FailbackWithEachPolicy loses the primary with two records that were
// not copied, three times, and takes it back with another policy each time. No
// server runs while the pair moves.
func TestMoves_FailbackWithEachPolicy(t *testing.T) {
	ktest.Long(t) // tests/moves fails back once with each, under load
	t.Parallel()  // most of it is waiting
	l := newLab(t)
	var everywhere []string // each is once on both sides
	decided := map[dr.TailPolicy]string{}
	for i, policy := range []dr.TailPolicy{dr.TailAppend, dr.TailQuarantine, dr.TailDiscard} {
		w := serve(t, l.bin, l.file, l.listen)
		l.ready()
		everywhere = append(everywhere, l.primary.write(movedTopic, fmt.Sprintf("before-%d", i), 2, 3)...)
		eventually(t, 20*time.Second, func() error { return l.secondary.once(movedTopic, everywhere) })
		if err := w.stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		tail := l.primary.write(movedTopic, fmt.Sprintf("tail-%d", i), 2, 3)
		if err := l.primary.KillBroker(0); err != nil {
			t.Fatal(err)
		}
		l.move("failover", "orders-dr")
		everywhere = append(everywhere, l.secondary.write(movedTopic, fmt.Sprintf("after-%d", i), 2, 3)...)
		if err := l.primary.StartBroker(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		l.undecided(policy)
		export := filepath.Join(t.TempDir(), "tail.jsonl")
		exit, stdout, stderr := l.anabranch("failback", "orders-dr", "--tail", string(policy), "--export", export, "--yes", "-o", "json")
		t.Logf("failback --tail %s: exit %d\n%s", policy, exit, stderr)
		var runs []dr.Run
		if err := json.Unmarshal([]byte(stdout), &runs); exit != 0 || err != nil || len(runs) != 2 {
			t.Fatalf("exit %d, %v\n%s", exit, err, stdout)
		}
		if r := runs[0].Report.Tail; r == nil || r.Records != 2 || r.Policy != policy {
			t.Errorf("the tail is %+v, want 2 records", r)
		}
		if raw, err := os.ReadFile(export); err != nil || strings.Count(string(raw), "\n") != 2 {
			t.Errorf("the export holds %q, %v", raw, err)
		}
		if policy == dr.TailAppend {
			everywhere = append(everywhere, tail...)
		} else if err := l.primary.once(movedTopic, tail); err != nil {
			t.Errorf("the old log lost its tail: %v", err)
		}
		if policy == dr.TailQuarantine {
			if err := l.secondary.once(movedTopic+".divergent."+runs[0].ID, tail); err != nil {
				t.Errorf("what was put aside: %v", err)
			}
		}
		for _, s := range []*side{l.primary, l.secondary} {
			eventually(t, 30*time.Second, func() error { return s.once(movedTopic, everywhere) })
		}
		decided[policy] = runs[0].ID
		l.compared(decided)
	}
	l.madeAnew(everywhere)
	l.nothingToDecide()
	// What was left out stands against no later move.
	w := serve(t, l.bin, l.file, l.listen)
	for range 2 {
		l.ready()
		l.move("switchover", "orders-dr")
	}
	if err := w.stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	l.compared(nil)
}

// undecided looks at a tail of two records, and says nothing about it: it is
// listed and exported, and nothing is done.
func (l *lab) undecided(policy dr.TailPolicy) {
	l.t.Helper()
	export := filepath.Join(l.t.TempDir(), "look.jsonl")
	exit, stdout, stderr := l.anabranch("failback", "orders-dr", "--dry-run", "--export", export)
	if exit != 0 || !strings.Contains(stdout, "tail: 2 records") || !strings.Contains(stderr, "--tail discard") {
		l.t.Errorf("before %s, dry run: exit %d\n%s%s", policy, exit, stdout, stderr)
	}
	if raw, err := os.ReadFile(export); err != nil || strings.Count(string(raw), "\n") != 2 {
		l.t.Errorf("before %s, the export holds %q, %v", policy, raw, err)
	}
	exit, stdout, stderr = l.anabranch("failback", "orders-dr", "--yes")
	if exit != 4 || !strings.Contains(stdout, "tail: 2 records") || !strings.Contains(stderr, "--tail discard") {
		l.t.Errorf("before %s, without a policy: exit %d\n%s%s", policy, exit, stdout, stderr)
	}
	if exit, stdout, _ := l.anabranch("run", "list", "orders-dr"); exit != 0 || strings.Count(stdout, "RUNNING")+strings.Count(stdout, "ABORT") != 0 {
		l.t.Errorf("before %s, the runs: exit %d\n%s", policy, exit, stdout)
	}
}

// compared holds that both clusters are equal, but for what was decided.
func (l *lab) compared(decided map[dr.TailPolicy]string) {
	l.t.Helper()
	exit, stdout, stderr := l.anabranch("verify", "orders-dr", "-o", "json")
	var r dr.VerifyPairReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || exit != 0 || r.State != dr.VerifyEqual {
		l.t.Fatalf("verify: exit %d, %v\n%s%s", exit, err, stdout, stderr)
	}
	var runs []string
	known := int64(0)
	for _, policy := range []dr.TailPolicy{dr.TailQuarantine, dr.TailDiscard} {
		if decided[policy] != "" {
			runs, known = append(runs, decided[policy]), known+2
		}
	}
	slices.Sort(runs)
	for _, one := range r.Reports {
		if one.Source.Name != "primary" {
			continue
		}
		found := int64(0)
		for _, u := range one.Unjudged {
			if u.Reason == dr.UnjudgedKnown {
				found += u.Count
			}
		}
		if found != known || !slices.Equal(runs, one.Decided) {
			l.t.Errorf("%d records are known divergence, by %v; want %d by %v", found, one.Decided, known, runs)
		}
	}
	if exit, stdout, _ := l.anabranch("verify", "orders-dr"); exit != 0 || (known > 0) != strings.Contains(stdout, "records only on primary, by decision of ") {
		l.t.Errorf("verify, for people: exit %d\n%s", exit, stdout)
	}
}

// nothingToDecide loses the primary with everything copied: nobody has to say what
// becomes of nothing.
func (l *lab) nothingToDecide() {
	l.t.Helper()
	if err := l.primary.KillBroker(0); err != nil {
		l.t.Fatal(err)
	}
	l.move("failover", "orders-dr")
	if err := l.primary.StartBroker(l.t.Context(), 0); err != nil {
		l.t.Fatal(err)
	}
	r := l.move("failback", "orders-dr", "--stay")
	if r.Report.Tail == nil || r.Report.Tail.Records != 0 || r.Report.Tail.Policy != dr.TailUndecided {
		l.t.Errorf("the tail is %+v, want none", r.Report.Tail)
	}
}

// TestMoves_KilledInTheMiddle kills the command behind the fence: once the run is
// undone, and the clients have exactly the rules that they had; once it goes on.
func TestMoves_KilledInTheMiddle(t *testing.T) {
	t.Parallel() // most of it is waiting
	l := newLab(t)
	raw, err := os.ReadFile(l.file)
	if err != nil {
		t.Fatal(err)
	}
	slow := writeFile(t, filepath.Dir(l.file), "slow.yaml", strings.Replace(string(raw), "    hooks:\n", "    hooks:\n      on_fence: {command: [sleep, \"20\"]}\n", 1))
	w := serve(t, l.bin, l.file, l.listen)
	l.ready()
	values := l.primary.write(movedTopic, "m", 30, 3)
	before := l.primary.rules()
	killed := func() string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), l.bin, "switchover", "orders-dr", "--yes", "--config", slow)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var list struct{ Runs []dr.Run }
		eventually(t, 30*time.Second, func() error {
			_, stdout, stderr := l.anabranch("run", "list", "orders-dr", "-o", "json")
			if err := json.Unmarshal([]byte(stdout), &list); err != nil {
				return fmt.Errorf("%w: %s", err, stderr)
			}
			if len(list.Runs) == 0 || list.Runs[0].State.Over() {
				return errors.New("no run yet")
			}
			_, stdout, _ = l.anabranch("run", "describe", list.Runs[0].ID, "-o", "json")
			var r dr.Run
			if err := json.Unmarshal([]byte(stdout), &r); err != nil {
				return err
			}
			for _, s := range r.Steps {
				if s.ID == "on-fence" && s.State == dr.StepRunning {
					return nil
				}
			}
			return errors.New("not there yet")
		})
		if exit, _, stderr := l.anabranch("switchover", "orders-dr", "--yes"); exit != 4 || !strings.Contains(stderr, "not over") && !strings.Contains(stderr, "works") {
			t.Errorf("a second operator: exit %d\n%s", exit, stderr)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it says that it was killed
		if now := l.primary.rules(); slices.Equal(now, before) {
			t.Error("the fence changed no rule")
		}
		time.Sleep(11 * time.Second) // a lock is believed for 10
		return list.Runs[0].ID
	}
	id := killed()
	if exit, stdout, stderr := l.anabranch("run", "abort", id, "--yes"); exit != 0 {
		t.Fatalf("abort: exit %d\n%s%s", exit, stdout, stderr)
	}
	if now := l.primary.rules(); !slices.Equal(now, before) {
		t.Errorf("after the abort the rules are\n%s\nbefore\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
	}
	id = killed()
	if exit, stdout, stderr := l.anabranch("run", "resume", id); exit != 0 {
		t.Fatalf("resume: exit %d\n%s%s", exit, stdout, stderr)
	}
	if st := l.ready(); st.Active != "secondary" {
		t.Errorf("%s is active", st.Active)
	}
	for _, s := range []*side{l.primary, l.secondary} {
		eventually(t, 20*time.Second, func() error { return s.once(movedTopic, values) })
	}
	if err := w.stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// rules lists the access rules of a cluster, sorted.
func (s *side) rules() []string {
	s.t.Helper()
	res, err := s.adm.DescribeACLs(s.t.Context(), kadm.NewACLs().AnyResource().ResourcePatternType(kadm.ACLPatternAny).Operations().Allow().Deny().AllowHosts().DenyHosts())
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, r := range res {
		for _, a := range r.Described {
			out = append(out, fmt.Sprintf("%v %v %s %s %s %v %v", a.Permission, a.Principal, a.Host, a.Name, a.Type, a.Operation, a.Pattern))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
