package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

// follow runs the commands of a runbook in their order, as a person would who
// reads it from top to bottom, and returns what they printed. Where the page
// leaves it to a terminal to ask, nobody is asked.
func (l *lab) follow(name string) []string {
	l.t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbooks", name+".md"))
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for i, block := range strings.Split(string(raw), "```sh\n") {
		if i == 0 {
			continue
		}
		block, _, _ = strings.Cut(block, "```")
		for line := range strings.Lines(block) {
			words := strings.Fields(strings.ReplaceAll(line, "tail.jsonl", filepath.Join(l.t.TempDir(), "tail.jsonl")))
			if len(words) == 0 || words[0] != "anabranch" {
				l.t.Fatalf("%s.md: %q is no command", name, line)
			}
			args := words[1:]
			if moves(args) {
				args = append(args, "--yes")
			}
			exit, stdout, stderr := l.anabranch(args...) // the file is named here, and not by the environment
			l.t.Logf("%s.md: %s: exit %d\n%s%s", name, strings.TrimSpace(line), exit, stdout, stderr)
			if exit != 0 {
				l.t.Fatalf("%s.md: %s: exit %d", name, strings.TrimSpace(line), exit)
			}
			out = append(out, stdout)
		}
	}
	if len(out) < 4 {
		l.t.Fatalf("%s.md has %d commands", name, len(out))
	}
	return out
}

// moves reports whether a command would ask for the name of the pair.
func moves(args []string) bool {
	for _, a := range args {
		if a == "--dry-run" || a == "--drill" || a == "--yes" {
			return false
		}
	}
	return args[0] == "switchover" || args[0] == "failover" || args[0] == "failback"
}

// both waits until both clusters of the pair answer.
func (l *lab) both() {
	l.t.Helper()
	eventually(l.t, time.Minute, func() error {
		var st dr.PairStatus
		exit, stdout, stderr := l.anabranch("pair", "status", "orders-dr", "-o", "json")
		if err := json.Unmarshal([]byte(stdout), &st); err != nil || exit != 0 {
			return fmt.Errorf("exit %d: %w\n%s", exit, err, stderr)
		}
		for _, s := range st.Sides {
			if !s.Reachable {
				return fmt.Errorf("cluster %s: %s", s.Cluster, s.Error)
			}
		}
		return nil
	})
}

// TestRunbooks_CommandsWork follows the runbooks on a pair under load: a drill and
// a switchover, the way back, a failover, and the failback.
func TestRunbooks_CommandsWork(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := serve(t, l.bin, l.file, l.listen)
	first := l.primary.write(movedTopic, "first", 6, 3)
	l.ready()
	eventually(t, 30*time.Second, func() error { return l.secondary.once(movedTopic, first) })
	app := l.load()
	active := func(want string) {
		t.Helper()
		if st := l.ready(); st.Active != want {
			t.Fatalf("%s is active, not %s", st.Active, want)
		}
	}
	l.follow("drill") // it ends with a real switchover
	active("secondary")
	l.follow("planned")
	active("primary")
	acked := append(app.stop(), first...)
	for _, s := range []*side{l.primary, l.secondary} {
		eventually(t, 20*time.Second, func() error { return s.once(movedTopic, acked) })
	}

	if err := l.primary.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	said := l.follow("unplanned")
	if !strings.Contains(said[0], "does not answer") || !strings.Contains(said[1], "not copied:") || !strings.Contains(said[len(said)-1], "pair_failed_over") {
		t.Errorf("the commands of unplanned.md do not say what the page says")
	}
	later := l.secondary.write(movedTopic, "later", 3, 3)
	if err := l.primary.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	l.both()
	l.follow("failback")
	active("secondary")
	for _, s := range []*side{l.primary, l.secondary} {
		eventually(t, 20*time.Second, func() error { return s.once(movedTopic, append(acked, later...)) })
	}
	if err := w.stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
}
