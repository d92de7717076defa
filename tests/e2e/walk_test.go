package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

const walkTopic = "customer"

// consoleTools are Apache Kafka's console tools by the names of their scripts.
var consoleTools = map[string]string{
	"kafka-acls":             "org.apache.kafka.tools.AclCommand",
	"kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
	"kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
	"kafka-consumer-groups":  "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
	"kafka-topics":           "org.apache.kafka.tools.TopicCommand",
}

// newWalk makes a pair of one broker each, and a server. Nothing is in it: topic,
// rules and group are made as users make them.
func newWalk(t *testing.T) (*lab, *worker) {
	t.Helper()
	l := &lab{t: t, bin: binary(t), listen: ktest.FreeAddress(t)}
	// Groups of one member wait for no others.
	atOnce := map[string]string{"group.initial.rebalance.delay.ms": "0"}
	l.primary = newSideOf(t, ktest.Options{Version: ktest.Oldest, Security: ktest.SASLSSL, Properties: atOnce})
	l.secondary = newSideOf(t, ktest.Options{Version: ktest.Newest, Security: ktest.SASLSSL, Properties: atOnce})
	dir := t.TempDir()
	var clusters, canaries strings.Builder
	for _, s := range []struct {
		name string
		*side
	}{{"primary", l.primary}, {"secondary", l.secondary}} {
		a := s.Auth()
		fmt.Fprintf(&clusters, "  %s:\n    bootstrap_servers: [%q]\n    tls: {ca_file: %q}\n    sasl: {mechanism: PLAIN, username: %q, password: \"${file:%s}\"}\n",
			s.name, s.BootstrapServers()[0], a.CAFile, a.AdminUser, writeFile(t, dir, s.name+"-password", a.AdminPassword))
		fmt.Fprintf(&canaries, "      %s: {sasl: {mechanism: PLAIN, username: %q, password: \"${file:%s}\"}}\n", s.name, a.ClientUser, writeFile(t, dir, s.name+"-client", a.ClientPassword))
	}
	l.file = writeFile(t, dir, "anabranch.yaml", fmt.Sprintf(`clusters:
%spairs:
  orders-dr:
    clusters: [primary, secondary]
    initial_active: primary
    groups: {sync_interval: 500ms}
    acls: {interval: 1s}
    canary:
%sapi: {listen: %q}
`, clusters.String(), canaries.String(), l.listen))
	return l, serve(t, l.bin, l.file, l.listen)
}

// tool runs a console tool as the application's user, or as the administrator,
// with what is typed into it, and returns the lines that it prints.
func (s *side) tool(as func() (string, error), typed []string, name string, args ...string) []string {
	s.t.Helper()
	conf, err := as()
	if err != nil {
		s.t.Fatal(err)
	}
	input := strings.Join(append(slices.Clone(typed), ""), "\n")
	began := time.Now()
	printed, err := s.ToolInput(s.t.Context(), input, consoleTools[name], append([]string{"--bootstrap-server", s.BootstrapServers()[0], "--command-config", conf}, args...)...)
	if err != nil {
		s.t.Fatalf("%s %q: %v\n%s", name, args, err, printed)
	}
	s.t.Logf("%s on %s, %v: %d bytes typed, %d printed", name, s.Version(), time.Since(began).Round(time.Millisecond), len(input), len(printed))
	return strings.Split(strings.TrimSpace(printed), "\n")
}

// produce types messages into the console producer.
func (s *side) produce(messages ...string) []string {
	s.t.Helper()
	for _, line := range s.tool(s.ClientConfigFile, messages, "kafka-console-producer", "--topic", walkTopic) {
		if strings.Contains(line, "ERROR") {
			s.t.Fatalf("kafka-console-producer: %s", line)
		}
	}
	return messages
}

// messages leaves out what a tool says besides.
func messages(printed []string) []string {
	return slices.DeleteFunc(printed, func(line string) bool { return !strings.HasPrefix(line, "This is ") })
}

// consumed reads with the group so many messages, from its position or else from
// the beginning; 0: until no more come.
func (s *side) consumed(n int) []string {
	s.t.Helper()
	args := []string{"--topic", walkTopic, "--from-beginning", "--group", movedGroup, "--timeout-ms", "30000", "--max-messages", strconv.Itoa(n)}
	if n == 0 {
		args = args[:len(args)-2]
		args[len(args)-1] = "8000"
	}
	return messages(s.tool(s.ClientConfigFile, nil, "kafka-console-consumer", args...))
}

// everything reads the topic without a group of its own until no more comes, and
// wants each of the messages once.
func (s *side) everything(want []string) {
	s.t.Helper()
	eventually(s.t, time.Minute, func() error {
		got := messages(s.tool(s.AdminConfigFile, nil, "kafka-console-consumer", "--topic", walkTopic, "--from-beginning", "--timeout-ms", "4000"))
		if len(got) < len(want) {
			return fmt.Errorf("read %d of %d messages", len(got), len(want))
		}
		readOnce(s.t, want, got)
		return nil
	})
}

// carried waits until nothing is left to be copied, and the group stands on the
// standby where it stands on the active.
func (l *lab) carried(w *worker, replicator string, active *side) {
	l.t.Helper()
	eventually(l.t, time.Minute, func() error {
		_, stdout, _ := l.anabranch("pair", "status", "orders-dr", "-o", "json")
		var st dr.PairStatus
		if err := json.Unmarshal([]byte(stdout), &st); err != nil {
			return err
		}
		if !st.Ready || st.RPO.Records != 0 {
			return fmt.Errorf("%s", stdout)
		}
		committed, err := active.adm.FetchOffsetsForTopics(l.t.Context(), movedGroup, walkTopic)
		if err != nil {
			return err
		}
		code, body := w.get("/api/v1/replicators/" + replicator + "/groups/" + movedGroup)
		var g dr.GroupStatus
		if err := json.Unmarshal(body, &g); err != nil || code != http.StatusOK {
			return fmt.Errorf("status %d: %s", code, body)
		}
		if g.State != dr.GroupSynced || len(g.Partitions) == 0 {
			return fmt.Errorf("%s", body)
		}
		for _, p := range g.Partitions {
			if at, ok := committed.Lookup(walkTopic, p.Partition); !ok || at.At != p.SourceOffset || p.TargetOffset != p.TranslatedOffset {
				return fmt.Errorf("partition %d: committed %d, %s", p.Partition, at.At, body)
			}
		}
		return nil
	})
}

// mayWrite reports whether the rules that kafka-acls lists let the application
// write to the topic.
func (s *side) mayWrite() bool {
	s.t.Helper()
	return slices.ContainsFunc(s.tool(s.AdminConfigFile, nil, "kafka-acls", "--list", "--topic", walkTopic), func(line string) bool {
		return strings.Contains(line, "principal=User:"+s.Auth().ClientUser) && strings.Contains(line, "operation=WRITE") && strings.Contains(line, "permissionType=ALLOW")
	})
}

// TestWalk_WithTheConsoleTools goes the way of an operator who has Apache Kafka's
// console tools and one command for each move: a topic and a group, a planned
// switchover and the way back, the loss of the primary, and the failback. The group
// msk-consumer reads each message once, on whichever side is active.
func TestWalk_WithTheConsoleTools(t *testing.T) {
	ktest.Long(t) // TestRunbooks_CommandsWork goes the same way without the console tools
	t.Parallel()
	l, w := newWalk(t)
	user := "User:" + l.primary.Auth().ClientUser
	l.ready()

	t.Log("a topic, an application that may use it, two messages, and a group that reads them")
	l.primary.tool(l.primary.AdminConfigFile, nil, "kafka-topics", "--create", "--topic", walkTopic, "--partitions", "3", "--replication-factor", "1")
	l.primary.tool(l.primary.AdminConfigFile, nil, "kafka-acls", "--add", "--allow-principal", user, "--producer", "--consumer", "--topic", walkTopic, "--group", movedGroup)
	written := l.primary.produce("This is a customer topic", "This is the 2nd message to the topic.")
	readings := [][]string{l.primary.consumed(2)}
	readOnce(t, written, readings...)

	t.Log("the standby has both under their names")
	l.carried(w, "orders-dr-to-secondary", l.primary)
	if got := l.secondary.tool(l.secondary.AdminConfigFile, nil, "kafka-topics", "--list"); !slices.Contains(got, walkTopic) {
		t.Errorf("topics of the secondary: %q", got)
	}
	if got := l.secondary.tool(l.secondary.AdminConfigFile, nil, "kafka-consumer-groups", "--list"); !slices.Contains(got, movedGroup) {
		t.Errorf("groups of the secondary: %q", got)
	}

	t.Log("a planned switchover: two more messages, and the group reads only these")
	l.move("switchover", "orders-dr")
	more := l.secondary.produce("This is the 3rd message to the topic.", "This is the 4th message to the topic.")
	written = append(written, more...)
	readings = append(readings, l.secondary.consumed(2))
	readOnce(t, written, readings...)
	if l.primary.mayWrite() || !l.secondary.mayWrite() {
		t.Error("the rules do not let the application write to the secondary alone")
	}
	refused := l.primary.tool(l.primary.ClientConfigFile, []string{"This is for nobody."}, "kafka-console-producer", "--topic", walkTopic)
	if !strings.Contains(strings.Join(refused, "\n"), "authorization failed") {
		t.Errorf("a message for the old active: %q", refused)
	}
	l.carried(w, "orders-dr-to-primary", l.secondary)

	t.Log("the way back: the primary shows the four messages without any duplicates")
	l.move("switchover", "orders-dr")
	l.primary.everything(written)

	t.Log("three thousand messages, of which the group reads a thousand before the primary is lost")
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprintf("This is order %d.", i)
	}
	written = append(written, l.primary.produce(many...)...)
	readings = append(readings, l.primary.consumed(1000))
	l.carried(w, "orders-dr-to-secondary", l.primary)
	if err := l.primary.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	if r := l.move("failover", "orders-dr"); r.Report.Risk == nil || r.Report.Risk.Records != 0 {
		t.Errorf("all was copied, the report says %+v", r.Report.Risk)
	}
	written = append(written, l.secondary.produce("This is the 5th message to the topic.", "This is the 6th message to the topic.")...)
	readings = append(readings, l.secondary.consumed(2002))
	readOnce(t, written, readings...)

	t.Log("the primary is back, and active again; the group reads what comes and nothing else")
	if err := l.primary.StartBroker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	l.both()
	exit, stdout, stderr := l.anabranch("failback", "orders-dr", "--yes", "-o", "json")
	t.Logf("failback: exit %d\n%s", exit, stderr)
	var runs []dr.Run
	if err := json.Unmarshal([]byte(stdout), &runs); exit != 0 || err != nil || len(runs) != 2 || runs[1].State != dr.RunFinished {
		t.Fatalf("exit %d, %v\n%s", exit, err, stdout)
	}
	written = append(written, l.primary.produce("This is the 7th message to the topic.")...)
	readings = append(readings, l.primary.consumed(0))
	readOnce(t, written, readings...)
	l.primary.everything(written)
	l.secondary.everything(written)
	if exit, stdout, stderr := l.anabranch("verify", "orders-dr"); exit != 0 {
		t.Errorf("verify: exit %d\n%s%s", exit, stdout, stderr)
	}
	l.refusedWalk()
	if err := w.stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// refusedWalk: what is refused says so to programs, and is seen afterwards.
func (l *lab) refusedWalk() {
	l.t.Helper()
	for _, args := range [][]string{{"failover", "orders-dr", "--yes"}, {"failback", "orders-dr", "--yes"}, {"failover", "orders-dr", "--dry-run"}} {
		exit, stdout, stderr := l.anabranch(append(args, "-o", "json")...)
		var said struct {
			ID    string      `json:"id"`
			State dr.RunState `json:"state"`
			Ready *bool       `json:"ready"`
			Error struct {
				Code dr.Code `json:"code"`
				Hint string  `json:"hint"`
				Pair string  `json:"pair"`
			} `json:"error"`
		}
		err := json.Unmarshal([]byte(stdout), &said)
		switch {
		case exit != 4 || err != nil:
			err = errors.Join(err, errors.New("want exit 4 and one value"))
		case args[2] == "--dry-run":
			if said.Ready == nil || *said.Ready {
				err = errors.New("the plan is ready")
			}
		case said.Error.Code != dr.CodeRefused || said.Error.Hint == "":
			err = errors.New("it does not say what to do")
		case args[0] == "failover" && (said.ID == "" || said.State != dr.RunAborted):
			err = errors.New("it does not say which run it was")
		case args[0] == "failback" && said.Error.Pair != "orders-dr":
			err = errors.New("it does not say which pair")
		}
		if err != nil {
			l.t.Errorf("%q: exit %d: %v\n%s%s", args, exit, err, stdout, stderr)
		}
	}
	_, stdout, _ := l.anabranch("run", "list", "orders-dr")
	if lines := strings.Split(strings.TrimSpace(stdout), "\n"); len(lines) != 7 || !strings.Contains(lines[1], "ABORTED") || strings.Count(stdout, "FINISHED") != 5 {
		l.t.Errorf("two switchovers, a failover, two runs of a failback and one refusal:\n%s", stdout)
	}
}
