package e2e

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
)

// madeAnew loses the primary with records that were not copied, and has its topic
// made anew from the secondary, by a run that is killed when the old one is gone: both logs are equal then, and nothing is known to
// differ any more, not even what was left on the primary before. Groups go on at
// their next records, also one that only the primary knew.
func (l *lab) madeAnew(everywhere []string) {
	l.t.Helper()
	w := serve(l.t, l.bin, l.file, l.listen)
	l.ready()
	everywhere = append(everywhere, l.primary.write(movedTopic, "before-anew", 2, 3)...)
	eventually(l.t, 20*time.Second, func() error { return l.secondary.once(movedTopic, everywhere) })
	if err := w.stop(20 * time.Second); err != nil {
		l.t.Fatal(err)
	}
	read := map[string][]string{"msk-left": l.primary.consume("msk-left", movedTopic, 1)} // nobody carries it
	l.primary.write(movedTopic, "tail-anew", 2, 3)
	if err := l.primary.KillBroker(0); err != nil {
		l.t.Fatal(err)
	}
	l.move("failover", "orders-dr")
	everywhere = append(everywhere, l.secondary.write(movedTopic, "after-anew", 2, 3)...)
	read[movedGroup] = l.secondary.consume(movedGroup, movedTopic, 5)
	if err := l.primary.StartBroker(l.t.Context(), 0); err != nil {
		l.t.Fatal(err)
	}
	args := []string{"failback", "orders-dr", "--tail", "discard", "--rebuild-topics", "--stay", "--yes", "-o", "json"}
	exit, stdout, stderr := l.anabranch(args...)
	var said struct {
		Tail  dr.TailReport
		Error struct{ Hint string }
	}
	if err := json.Unmarshal([]byte(stdout), &said); err != nil || exit != 4 || !strings.HasPrefix(said.Error.Hint, "--delete-topics") || len(said.Tail.Rebuild) != 1 {
		l.t.Fatalf("without the consent to delete: exit %d, %v\n%s%s", exit, err, stdout, stderr)
	}
	if r := said.Tail.Rebuild[0]; r.Topic != movedTopic || r.Tail != 2 || r.Known != 4 || r.Gone != 0 || r.Kept != "" {
		l.t.Errorf("to be made anew: %+v", r)
	}
	id := l.killedWhenGone(append(args, "--delete-topics")...)
	exit, stdout, stderr = l.anabranch("run", "resume", id, "-o", "json")
	l.t.Logf("failback --rebuild-topics, resumed: exit %d\n%s", exit, stderr)
	var run dr.Run
	if err := json.Unmarshal([]byte(stdout), &run); exit != 0 || err != nil {
		l.t.Fatalf("exit %d, %v\n%s", exit, err, stdout)
	}
	if made := run.Report.Tail.Rebuild; len(made) != 1 || made[0].NewID == "" || made[0].NewID == made[0].TopicID || made[0].Kept != "" {
		l.t.Errorf("made anew: %+v", made)
	}
	w = serve(l.t, l.bin, l.file, l.listen)
	for _, s := range []*side{l.primary, l.secondary} {
		eventually(l.t, 30*time.Second, func() error { return s.once(movedTopic, everywhere) })
	}
	here, err := l.primary.read(movedTopic)
	if err != nil {
		l.t.Fatal(err)
	}
	there, err := l.secondary.read(movedTopic)
	if err != nil {
		l.t.Fatal(err)
	}
	if d := cmp.Diff(there, here); d != "" {
		l.t.Errorf("the logs differ (-secondary +primary):\n%s", d)
	}
	l.ready()
	l.move("switchover", "orders-dr")
	l.primary.cl.PurgeTopicsFromClient(movedTopic) // it still knows the old topic's id
	everywhere = append(everywhere, l.primary.write(movedTopic, "later-anew", 2, 3)...)
	eventually(l.t, 20*time.Second, func() error { return l.secondary.once(movedTopic, everywhere) })
	for group, before := range read {
		got := append(slices.Clone(before), l.primary.consume(group, movedTopic, 1000)...)
		slices.Sort(got)
		if d := cmp.Diff(slices.Sorted(slices.Values(everywhere)), got); d != "" {
			l.t.Errorf("group %s, which had read %v, read (-want +got):\n%s", group, before, d)
		}
	}
	if err := w.stop(20 * time.Second); err != nil {
		l.t.Fatal(err)
	}
	l.compared(nil)
}

// killedWhenGone runs a command, and kills it -9 as soon as the primary does not have
// the topic any more that it had, or has another one. It returns the run.
func (l *lab) killedWhenGone(args ...string) string {
	l.t.Helper()
	id := func() kadm.TopicID {
		list, err := l.primary.adm.ListTopics(l.t.Context(), movedTopic)
		if err != nil {
			l.t.Fatal(err)
		}
		return list[movedTopic].ID
	}
	before := id()
	cmd := exec.CommandContext(l.t.Context(), l.bin, append(args, "--config", l.file)...)
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	for limit := time.Now().Add(time.Minute); id() == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			l.t.Fatal("the topic was not deleted")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		l.t.Fatal(err)
	}
	_ = cmd.Wait()               // it says that it was killed
	time.Sleep(11 * time.Second) // a lock is believed for 10
	exit, stdout, stderr := l.anabranch("run", "list", "orders-dr", "-o", "json")
	var list struct{ Runs []dr.Run }
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || exit != 0 || len(list.Runs) == 0 {
		l.t.Fatalf("exit %d, %v\n%s%s", exit, err, stdout, stderr)
	}
	if list.Runs[0].State.Over() {
		l.t.Errorf("run %s is %s", list.Runs[0].ID, list.Runs[0].State)
	}
	return list.Runs[0].ID
}
