package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandLines returns the commands of the program that a page has, in blocks and
// in the text.
func commandLines(page string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?m)`(anabranch [^`\n]+)`|^ *(anabranch [^\n]+)$").FindAllStringSubmatch(page, -1) {
		line, _, _ := strings.Cut(m[1]+m[2], " #")
		line, _, _ = strings.Cut(line, " > ")
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

// parses reports why a command line is none of the program's. What stands in for
// something (PAIR, RUN, FILE) is taken for it.
func parses(root *cobra.Command, line string) error {
	args := strings.Fields(strings.ReplaceAll(line, "'", ""))[1:]
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	// A set of its own: flags that were set once stay set.
	flags := pflag.NewFlagSet(line, pflag.ContinueOnError)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		own := *f
		own.Value = anything{f.Value.Type()}
		flags.AddFlag(&own)
	})
	if err := flags.Parse(rest); err != nil {
		return err
	}
	if cmd.Args == nil {
		return nil
	}
	return cmd.Args(cmd, flags.Args())
}

// anything is a flag's value that takes what a document has in its place.
type anything struct{ kind string }

func (a anything) String() string   { return "" }
func (a anything) Set(string) error { return nil }
func (a anything) Type() string     { return a.kind }

func TestRunbooks_CommandsParse(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "runbooks", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pairs.md", "howto/failover.md", "states.md", "verify.md", "guarantees.md"} {
		pages = append(pages, filepath.Join("..", "..", "docs", filepath.FromSlash(name)))
	}
	pages = append(pages, filepath.Join("..", "..", "README.md"))
	if len(pages) < 12 {
		t.Fatalf("%d pages", len(pages))
	}
	root, n := wholeTree(), 0
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(raw)) {
			n++
			if slices.Contains([]string{"anabranch replicator", "anabranch run"}, line) {
				continue // a part of the program, not a command
			}
			if err := parses(root, line); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(page), line, err)
			}
		}
	}
	if n < 60 {
		t.Errorf("%d commands", n)
	}
	for _, bad := range []string{"anabranch switchover", "anabranch switchover orders-dr --no-such-flag", "anabranch run undo X", "anabranch pair status a b"} {
		if parses(root, bad) == nil {
			t.Errorf("%s passes for a command", bad)
		}
	}
}

// TestFixes_AreCommandsThatParse reads the commands that findings, errors and
// notes tell people to type.
func TestFixes_AreCommandsThatParse(t *testing.T) {
	root, n := wholeTree(), 0
	// A text, and further texts and expressions that are put behind it.
	part := `"([^"]*)"|[\w.]+(?:\([^()]*\))?`
	said := regexp.MustCompile(`"anabranch [^"]+"(?:\s*\+\s*(?:` + part + `))*`)
	parts := regexp.MustCompile(part)
	for _, dir := range []string{"app", "move", "fence", "preflight", "replicate"} {
		names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, sentence := range said.FindAllString(string(raw), -1) {
				var words strings.Builder
				for _, m := range parts.FindAllStringSubmatch(sentence, -1) {
					if m[0][0] != '"' {
						m[1] = "X"
					}
					words.WriteString(m[1])
				}
				line, _, _ := strings.Cut(strings.ReplaceAll(words.String(), "%s", "X"), " looks ")
				if strings.HasSuffix(name, "_test.go") || strings.Contains(line, "%") {
					continue
				}
				n++
				if err := parses(root, line); err != nil {
					t.Errorf("%s: %s: %v", name, line, err)
				}
			}
		}
	}
	if n < 12 {
		t.Errorf("%d commands", n)
	}
}
