package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
)

// status returns what is known of the pair.
func (l *lab) status() dr.PairStatus {
	l.t.Helper()
	exit, stdout, stderr := l.anabranch("pair", "status", "orders-dr", "-o", "json")
	var st dr.PairStatus
	if err := json.Unmarshal([]byte(stdout), &st); err != nil || exit != 0 {
		l.t.Fatalf("exit %d: %v\n%s%s", exit, err, stdout, stderr)
	}
	return st
}

func found(st dr.PairStatus, code string) bool {
	return slices.ContainsFunc(st.Findings, func(f dr.Finding) bool { return f.Code == code })
}

// evidenceOf returns the evidence of a name in a step of a run.
func evidenceOf(r dr.Run, step, name string) (out []dr.Evidence) {
	for _, s := range r.Steps {
		if s.ID == step && s.Gate != nil {
			for _, e := range s.Gate.Evidence {
				if e.Name == name {
					out = append(out, e)
				}
			}
		}
	}
	return out
}

// TestDrill_EndToEnd drills from the file alone, then beside a server, first
// without a client that may write and then with one: records and a group arrive,
// nothing is written to a topic of anybody else, and the status says what was
// measured.
func TestDrill_EndToEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	canary := dr.CanaryName("orders-dr")
	first := l.primary.write(movedTopic, "first", 6, 3)
	// The file alone: nobody has ever run this pair, and no server runs.
	r := l.move("switchover", "orders-dr", "--drill")
	l.measured(r, false)
	for _, e := range evidenceOf(r, "canary", "canary_writer") {
		if e.Passed || !strings.Contains(e.Why, "--topic "+canary) {
			t.Errorf("a client that may not write: %+v", e)
		}
	}
	w := serve(t, l.bin, l.file, l.listen)
	if st := l.ready(); found(st, "pair_never_drilled") || st.Drill == nil || st.Drill.Run != r.ID || st.Drill.RecordSeconds != r.Report.Drill.RecordSeconds || st.RTO != nil {
		t.Errorf("after a drill: %+v", st)
	}
	rules := kadm.NewACLs().Topics(canary).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite).Allow("User:" + l.primary.Auth().ClientUser).AllowHosts("*")
	if _, err := l.primary.adm.CreateACLs(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	r = l.move("switchover", "orders-dr", "--drill")
	l.measured(r, true)
	for _, s := range []*side{l.primary, l.secondary} {
		if err := s.once(movedTopic, first); err != nil {
			t.Error(err)
		}
		if held, err := s.read(movedTopic); err != nil || count(held) != len(first) {
			t.Errorf("a drill wrote to the topic of a user: %d records, %v", count(held), err)
		}
	}
	_, text, _ := l.anabranch("pair", "status", "orders-dr")
	_, yaml, _ := l.anabranch("pair", "status", "orders-dr", "-o", "yaml")
	if !strings.Contains(text, "Drill:      records after ") || !strings.Contains(text, r.ID) || !strings.Contains(yaml, "drill:\n  run: "+r.ID+"\n") {
		t.Errorf("the status does not tell of the drill:\n%s\n%s", text, yaml)
	}
	// The clocks of both clusters are looked at before a switchover, too.
	r = l.move("switchover", "orders-dr")
	if ev := evidenceOf(r, "preflight", "clock"); len(ev) != 2 {
		t.Errorf("clocks in the preflight: %+v", evidenceOf(r, "preflight", "clocks"))
	}
	if st := l.ready(); st.RTO == nil || st.RTO.Run != r.ID || st.RTO.Seconds != r.Report.WriteStopSeconds || st.RTO.Seconds <= 0 || st.Drill == nil {
		t.Errorf("after a switchover: %+v, measured %v", st.RTO, r.Report.WriteStopSeconds)
	}
	l.measured(l.move("switchover", "orders-dr", "--drill"), false) // the other way: the client has no right there
	if err := w.stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}

func count(held map[int32][]string) (n int) {
	for _, values := range held {
		n += len(values)
	}
	return n
}

// measured checks what a drill says of itself.
func (l *lab) measured(r dr.Run, client bool) {
	l.t.Helper()
	d := r.Report.Drill
	if d == nil || d.Records == 0 || d.RecordSeconds <= 0 || d.RecordSeconds > 30 || d.GroupSeconds <= 0 || d.GroupSeconds > 30 || d.ClockSeconds < 0 || d.ClockSeconds > 1 || d.Client != client {
		l.t.Fatalf("drill %s measured %+v: %+v", r.ID, d, evidenceOf(r, "canary", "canary_records"))
	}
	l.t.Logf("drill: %+v", *d)
	if ev := evidenceOf(r, "canary", "clock"); len(ev) != 2 || !ev[0].Passed || !ev[1].Passed {
		l.t.Errorf("clocks: %+v, %+v", ev, evidenceOf(r, "canary", "clocks"))
	}
}

// TestPairStatus_RecoveryPointIsTrue compares what the status says with what was
// written: at rest, while nothing is copied, under load, and with the active gone.
func TestPairStatus_RecoveryPointIsTrue(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := serve(t, l.bin, l.file, l.listen)
	l.primary.write(movedTopic, "first", 6, 3)
	atRest := func() {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			if st := l.ready(); st.RPO.Records != 0 || st.RPO.Seconds != 0 || !st.RPO.Live {
				return fmt.Errorf("%+v", st.RPO)
			}
			return nil
		})
	}
	atRest()
	const forward = "orders-dr-to-secondary"
	api := func(verb string) {
		t.Helper()
		if exit, _, stderr := run(t, l.bin, "replicator", verb, forward, "--server", w.url); exit != 0 {
			t.Fatalf("%s: %s", verb, stderr)
		}
	}
	api("pause")
	w.awaitState(forward, dr.ReplicatorPaused, 10*time.Second) // what is written before that may still be copied
	began := time.Now()
	l.primary.write(movedTopic, "paused", 50, 3)
	time.Sleep(2 * time.Second)
	// 3 formats of one truth.
	st := l.status()
	if age := time.Since(began).Seconds(); st.RPO.Records != 50 || !st.RPO.Live || st.RPO.Seconds < 2 || st.RPO.Seconds > age+1 || !found(st, "pair_replicator_paused") {
		t.Errorf("50 records written %v s ago: %+v", age, st.RPO)
	}
	_, text, _ := l.anabranch("pair", "status", "orders-dr")
	_, yaml, _ := l.anabranch("pair", "status", "orders-dr", "-o", "yaml")
	if !strings.Contains(text, "RPO now:    50 records, the oldest ") || !strings.Contains(yaml, "rpo:\n  records: 50\n") {
		t.Errorf("the other formats say otherwise:\n%s\n%s", text, yaml)
	}
	api("resume")
	atRest()
	app := l.load()
	for range 5 {
		time.Sleep(time.Second)
		if st := l.status(); !st.RPO.Live || st.RPO.Records < 0 || st.RPO.Records > 3000 || st.RPO.Records > 0 && (st.RPO.Seconds < 0 || st.RPO.Seconds > 10) {
			t.Errorf("under load: %+v", st.RPO)
		} else {
			t.Logf("under load: %d records, %.2f s", st.RPO.Records, st.RPO.Seconds)
		}
	}
	// The active is lost while clients write: what the standby was told last, and
	// the rate, cover what is lost.
	if err := l.primary.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	acked := app.stop()
	st = l.status()
	held, err := l.secondary.read(movedTopic)
	if err != nil {
		t.Fatal(err)
	}
	lost := len(acked) + 56 - count(held)
	if st.RPO.Live || st.RPO.Records < int64(lost) || st.RPO.Records > 10000 || st.RPO.AsOf.After(killed.Add(time.Second)) || killed.Sub(st.RPO.AsOf) > 20*time.Second ||
		st.RPO.Records > 0 && (st.RPO.Seconds <= 0 || st.RPO.Seconds > 60) || !found(st, "pair_cluster_unreachable") {
		t.Errorf("%d records are lost, the status says %+v", lost, st.RPO)
	}
	_, text, _ = l.anabranch("pair", "status", "orders-dr")
	if !strings.Contains(text, ", as secondary was told at "+st.RPO.AsOf.UTC().Format(time.RFC3339)) {
		t.Errorf("the text does not say of when it is:\n%s", text)
	}
	t.Logf("the active is gone, %d records are lost: %+v", lost, st.RPO)
}
