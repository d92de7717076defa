package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/dr"
)

// wholeTree has every command and flag there is.
func wholeTree() *cobra.Command {
	root := Root(Deps{
		Serve:  func(context.Context, ServeOptions) error { return nil },
		Demo:   func(context.Context, DemoOptions) error { return nil },
		Verify: func(context.Context, VerifyOptions) (dr.VerifyReport, error) { return dr.VerifyReport{}, nil },
		Pairs:  func(PairsOptions) (PairService, error) { return nil, errors.New("not in this test") },
	})
	root.InitDefaultHelpCmd()
	return root
}

// walk calls f for every command, in the order of the help.
func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		walk(c, f)
	}
}

// reference renders docs/cli.md.
func reference() []byte {
	var b bytes.Buffer
	b.WriteString(`# Commands

Data goes to standard output, notes and errors to standard error. Commands that print
take ` + "`--output text|json|yaml`" + `: text is for people and may change, JSON and YAML
have the same keys and only grow. The replicator and version shapes are those of the
[HTTP API](api.md). With JSON or YAML an error is printed to standard error in the same
format: ` + "`{\"error\": {\"code\", \"message\", \"hint\"}}`" + `.

| exit code | meaning |
|---|---|
`)
	for _, code := range []int{0, 1, 2, 3, 4, 5, api.ExitDiffers, api.ExitInterrupted} {
		fmt.Fprintf(&b, "| %d | %s |\n", code, exitMeaning(code))
	}
	b.WriteString(`
Other shapes than those of the API:

- ` + "`config check`" + `: ` + "`file`" + `, ` + "`valid`" + ` (can the file be served), ` + "`problems[]`" + ` with ` + "`file`, `line`" + ` (0: the
  file as a whole), ` + "`path`, `message`" + `; with ` + "`--connect`" + ` also ` + "`replicators[]`" + ` with
  ` + "`replicator`" + ` (its name), ` + "`source` and `target`" + ` (` + "`name`, `cluster_id`, `principal`, `addresses[]`, `brokers[]`" + `,
  ` + "`topics`, `missing_grants[]`" + `: kafka-acls.sh commands) and ` + "`findings[]`" + ` with ` + "`code`, `severity`" + ` (error,
  warning, info), ` + "`subject`, `message`, `fix`" + `. Exit code 1 when a finding is an error, 3 when that is a cluster
  that cannot be reached.
- ` + "`replicator resolve --dry-run`" + `: ` + "`replicator`, `topic`, `action`, `effect`, `partitions[]`" + ` with
  ` + "`partition`, `state`, `code`, `replicated_offset`, `source_offset`" + ` (where copying would go on;
  left out where only the server can tell).
- ` + "`offsets translate`" + `: an answer of the [API](api.md#offsets); with ` + "`--batch`" + ` one a line, whatever ` + "`--output`" + ` says.
- ` + "`group list` and `group describe`" + `: ` + "`groups[]`" + ` with the consumer groups of the API, of one replicator after the other;
  ` + "`group describe`" + ` with their partitions.
- ` + "`pair list` and `pair status`" + `: ` + "`pairs[]`" + ` with the [pairs of the API](api.md#pairs); one such pair.
- ` + "`group adopt --dry-run`" + `: ` + "`replicator`, `group`, `effect`, `partitions[]`" + ` with ` + "`topic`, `partition`, `target_offset`" + `,
  ` + "`translated_offset`, `distance`" + `.
- ` + "`verify`" + `: the report, which is also the proof file, see [verify.md](verify.md#the-report). Exit code 0 when all that was to be
  compared is equal, 6 when something differs, 5 when nothing differs but something could not be judged.
`)
	walk(wholeTree(), func(c *cobra.Command) {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n```\n%s\n```\n", c.CommandPath(), c.Short, c.UseLine())
		fmt.Fprintf(&b, "\n%s\n", markdown(c.Long))
		if flags := c.NonInheritedFlags().FlagUsages(); flags != "" {
			fmt.Fprintf(&b, "\nFlags:\n\n```\n%s```\n", flags)
		}
		fmt.Fprintf(&b, "\nExamples:\n\n```\n%s\n```\n", c.Example)
	})
	return b.Bytes()
}

// markdown puts the indented lines of a help text into code blocks.
func markdown(text string) string {
	return regexp.MustCompile(`(?m)((?:^  .*\n?)+)`).ReplaceAllStringFunc(text, func(block string) string {
		return "\n```\n" + strings.TrimRight(block, "\n") + "\n```\n"
	})
}

func TestReferenceIsUpToDate(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "cli.md")
	got := bytes.TrimRight(regexp.MustCompile(`\n{3,}`).ReplaceAll(reference(), []byte("\n\n")), "\n")
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("run go test ./internal/cli -update (-want +got):\n%s", d)
	}
}

func TestEveryCommandHasAHelpWithExampleAndExitCodes(t *testing.T) {
	n := 0
	walk(wholeTree(), func(c *cobra.Command) {
		n++
		if c.Short == "" || !strings.Contains(c.Long, "Exit codes:\n  0 ") || !strings.HasPrefix(c.Example, "  anabranch") && !strings.HasPrefix(c.Example, "  source") {
			t.Errorf("%s: short %q, example %q, long\n%s", c.CommandPath(), c.Short, c.Example, c.Long)
		}
		for line := range strings.SplitSeq(c.Long+"\n"+c.Example, "\n") {
			if len(line) > 120 {
				t.Errorf("%s: a line of %d bytes: %s", c.CommandPath(), len(line), line)
			}
		}
	})
	if n != 38 {
		t.Errorf("%d commands", n)
	}
}

func TestEveryHaltCodeHasAdvice(t *testing.T) {
	src, err := os.ReadFile(filepath.Join("..", "dr", "status.go"))
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`HaltCode += "([^"]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(codes) < 14 {
		t.Errorf("found only %d codes", len(codes))
	}
	unknown := adviceFor(halt{code: "MADE_UP"}).say
	for _, m := range codes {
		if adviceFor(halt{code: dr.HaltCode(m[1])}).say == unknown {
			t.Errorf("no advice for %s", m[1])
		}
	}
}

func TestAdviceNamesCommandsThatParse(t *testing.T) {
	p := dr.PartitionStatus{Partition: 3}
	for _, code := range []dr.HaltCode{dr.HaltRetention, dr.HaltSourceRecreated, dr.HaltSourceTruncated, dr.HaltTargetTruncated, dr.HaltTargetDeleted, dr.HaltTooLarge, dr.HaltForeign, dr.HaltExisting} {
		for _, partition := range []*dr.PartitionStatus{nil, &p} {
			for _, c := range adviceFor(halt{replicator: "primary-to-secondary", topic: "orders", partition: partition, code: code}).choices {
				s := newSession(t)
				line := strings.NewReplacer("PARTITION=OFFSET", "3=7", "OFFSET", "7").Replace(c.command)
				args := strings.Fields(line + " --dry-run")[1:]
				if exit, _, stderr := s.run("", args...); exit != 0 {
					t.Errorf("%s: exit %d: %s", line, exit, stderr)
				}
			}
		}
	}
}
