package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/ktest"
)

// grantForPair runs the commands of a page that are for the named cluster of its
// example on this one, for the user "client" and a replicator of the pair.
func (s *side) grantForPair(page, cluster, replicator string) {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
	if err != nil {
		s.t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(raw), "\n## Optional\n")
	admin, err := s.AdminConfigFile()
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(line, "'", ""), "primary-to-secondary", replicator))
		if len(words) == 0 || words[0] != "kafka-acls.sh" || !strings.Contains(line, "--bootstrap-server "+cluster+"-") {
			continue
		}
		n++
		words[slices.Index(words, "--bootstrap-server")+1] = s.BootstrapServers()[0]
		words[slices.Index(words, "admin.properties")] = admin
		words[slices.Index(words, "--allow-principal")+1] = "User:" + s.Auth().ClientUser
		if out, err := s.Tool(s.t.Context(), "org.apache.kafka.tools.AclCommand", words[1:]...); err != nil {
			s.t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	if n == 0 {
		s.t.Fatalf("%s has no command for %s", page, cluster)
	}
}

// TestRunbooks_WithTheDocumentedPermissionsOnly drills, switches over and fails
// over as a principal that has what docs/permissions.md and docs/pairs.md give it,
// and nothing else.
func TestRunbooks_WithTheDocumentedPermissionsOnly(t *testing.T) {
	ktest.Long(t) // TestServe_WithTheDocumentedPermissionsOnly has those of replicators
	t.Parallel()
	l := &lab{t: t, bin: binary(t), listen: ktest.FreeAddress(t)}
	l.primary = newSideOf(t, ktest.Options{Version: ktest.Newest, Security: ktest.SASLSSL})
	l.secondary = newSideOf(t, ktest.Options{Version: ktest.Oldest, Security: ktest.SASLSSL})
	for i, s := range []*side{l.primary, l.secondary} {
		s.grantForPair("permissions.md", "primary", "orders-dr-to-"+[]string{"secondary", "primary"}[i])
		s.grantForPair("permissions.md", "secondary", "orders-dr-to-"+[]string{"primary", "secondary"}[i])
		s.grantForPair("pairs.md", "secondary", "")
	}
	l.file = writeFile(t, t.TempDir(), "anabranch.yaml", "clusters:\n"+l.primary.asClient("primary")+l.secondary.asClient("secondary")+fmt.Sprintf(`pairs:
  orders-dr: {clusters: [primary, secondary], topics: {include: ["orders.*"]}, groups: {include: ["orders.*"], sync_interval: 1s}, acls: {interval: 1s}}
api: {listen: %q}
`, l.listen))
	l.primary.create("orders-a", 2)
	rules := kadm.NewACLs().Topics("orders-a").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead, kadm.OpWrite).Allow("User:app").AllowHosts("*")
	if _, err := l.primary.adm.CreateACLs(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	l.primary.write("orders-a", "a", 40, 2)
	w := serve(t, l.bin, l.file, l.listen)
	l.ready()
	awaitEqual(t, l.primary, l.secondary, "orders-a", 40, 30*time.Second)
	known := [2]int{len(l.primary.denied()), len(l.secondary.denied())}
	for _, args := range [][]string{{"switchover", "orders-dr", "--drill"}, {"switchover", "orders-dr"}} {
		r := l.move(args...)
		t.Logf("unproven: %v, findings: %+v", r.Report.Unproven, r.Report.Findings)
	}
	l.ready()
	l.secondary.write("orders-a", "b", 10, 2)
	awaitEqual(t, l.secondary, l.primary, "orders-a", 50, 20*time.Second)
	if err := l.secondary.KillBroker(0); err != nil {
		t.Fatal(err)
	}
	l.move("failover", "orders-dr")
	for _, line := range slices.Concat(l.primary.denied()[known[0]:], l.secondary.denied()[known[1]:]) {
		// Who asks for all topics is not shown those that he may not describe.
		if !strings.Contains(line, "operation = DESCRIBE") || !strings.Contains(line, "resource = Topic:LITERAL:__consumer_offsets for request = Metadata") {
			t.Errorf("refused: %s", line)
		}
	}
	w.kill() // with a cluster gone, a worker that is asked to stop waits for it, and says so
}
