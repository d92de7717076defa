package cli

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/api/apiclient"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// diffFlags are those of the commands that compare two clusters.
type diffFlags struct {
	server     serverFlags
	replicator string
	all        bool
	exitCode   bool
}

func (f *diffFlags) add(d Deps, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.replicator, "replicator", "", "replicator whose clusters are compared (required)")
	must(cmd.RegisterFlagCompletionFunc("replicator", func(cmd *cobra.Command, _ []string, part string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return f.server.completeNames(d)(cmd, nil, part)
	}))
	cmd.Flags().BoolVar(&f.all, "all", false, "text: also show what does not differ")
	cmd.Flags().BoolVar(&f.exitCode, "exit-code", false, "exit with "+strconv.Itoa(api.ExitDiffers)+" when there are differences")
	f.server.add(cmd)
	outputFlag(cmd)
}

// client returns a client of the server, if the flags make sense.
func (f *diffFlags) client(d Deps, cmd *cobra.Command) (*apiclient.Client, error) {
	if f.replicator == "" {
		return nil, usageError(cmd, errors.New("--replicator is missing"))
	}
	return f.server.client(d)
}

// verdict turns what was printed into an exit code.
func (f *diffFlags) verdict(differs bool) error {
	if differs && f.exitCode {
		return &differError{}
	}
	return nil
}

// differError is returned by a command that has printed differences, where
// somebody asked for an exit code.
type differError struct{}

func (*differError) Error() string { return "there are differences" }

func newACL(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "acl",
		Short:   "Compare access rules and client quotas of two clusters",
		Long:    help(`Compares the access rules (ACLs) and client quotas of a replicator's clusters.`, 0, 2),
		Example: `  anabranch acl diff --replicator primary-to-secondary`,
		Args:    noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newACLDiff(d))
	return cmd
}

func newACLDiff(d Deps) *cobra.Command {
	var flags diffFlags
	var commands bool
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show how access rules, quotas and credentials differ",
		Long: help(`Compares access rules (ACLs), client quotas and the users that have SCRAM credentials
on both clusters of a replicator, as they are now. Rules that let clients write are
STAGED: they wait for a failover, and are no difference. docs/access-rules.md explains
every state. Credentials can't be copied: for each user whose credentials the target
lacks, the command that makes them is shown.

--commands prints the kafka-acls.sh commands that make the STAGED rules on the target,
for a failover by hand, and nothing else.

JSON and YAML hold every rule, also those that do not differ.`, 0, 1, 2, 3, 4, 6),
		Example: `  anabranch acl diff --replicator primary-to-secondary
  anabranch acl diff --replicator primary-to-secondary --commands > open-secondary.sh
  anabranch acl diff --replicator primary-to-secondary --exit-code -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(d, cmd)
			if err != nil {
				return err
			}
			diff, err := c.ACLs(cmd.Context(), flags.replicator)
			if err != nil {
				return err
			}
			text := func(pg *out.Page) { accessText(pg, diff, flags.all) }
			if commands {
				text = func(pg *out.Page) { commandsText(pg, diff) }
			}
			if err := printer(d, cmd).Data(diff, text); err != nil {
				return err
			}
			return flags.verdict(diff.Differs())
		},
	}
	cmd.Flags().BoolVar(&commands, "commands", false, "text: print the commands that make the STAGED rules, only")
	flags.add(d, cmd)
	return cmd
}

func accessText(pg *out.Page, d dr.AccessDiff, all bool) {
	partText(pg, "Access rules", d.ACLs)
	var rows [][]string
	same, others := 0, 0
	for _, e := range d.Rules {
		switch {
		case all:
		case e.State == dr.ACLSynced:
			same++
			continue
		case e.State == dr.ACLNotCopied:
			others++
			continue
		}
		a := e.ACL
		rows = append(rows, []string{string(e.State), a.Permission, a.Principal, a.Operation, a.ResourceType, a.Name, a.Pattern, a.Host, e.Reason})
	}
	pg.Table([]string{"STATE", "PERMISSION", "PRINCIPAL", "OPERATION", "RESOURCE", "NAME", "PATTERN", "HOST", "REASON"}, rows)
	if same+others > 0 {
		pg.Line("%s the same on both sides, %d of the source are not carried over; --all shows them", count(int64(same), "rule"), others)
	}
	pg.Line("")
	partText(pg, "Client quotas", d.Quotas)
	rows, same = nil, 0
	for _, e := range d.Limits {
		if !all && !e.State.Differs() {
			same++
			continue
		}
		rows = append(rows, []string{string(e.State), e.Entity, e.Key, quota(e.Source), quota(e.Target), e.Reason})
	}
	pg.Table([]string{"STATE", "ENTITY", "QUOTA", "SOURCE", "TARGET", "REASON"}, rows)
	if same > 0 {
		pg.Line("%s without a difference; --all shows them", count(int64(same), "quota"))
	}
	pg.Line("")
	if d.Credentials.State == dr.AccessRunning && len(d.Scram) == 0 {
		pg.Line("SCRAM credentials: the target lacks none")
		return
	}
	partText(pg, "SCRAM credentials", d.Credentials)
	for _, u := range d.Scram {
		pg.Line("  %s has credentials at the source that the target lacks (%s), and they can't be copied. Make them:", u.User, strings.Join(u.Mechanisms, ", "))
		pg.Line("      %s", u.Hint)
	}
}

// commandsText writes the commands that make what is staged.
func commandsText(pg *out.Page, d dr.AccessDiff) {
	for _, e := range d.Rules {
		if e.State == dr.ACLStaged && e.Command != "" {
			pg.Line("%s", e.Command)
		}
	}
}

// partText writes a heading with the state, and the commands that are lacking.
func partText(pg *out.Page, what string, p dr.AccessPart) {
	pg.Line("%s: %s", what, withReason(string(p.State), p.Reason))
	for _, g := range p.Grants {
		pg.Line("    %s", g)
	}
}

func quota(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'f', -1, 64)
}

func newTopic(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "topic",
		Short:   "Compare topics of two clusters",
		Long:    help(`Compares the topics of a replicator's clusters.`, 0, 2),
		Example: `  anabranch topic diff --replicator primary-to-secondary`,
		Args:    noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newTopicDiff(d))
	return cmd
}

func newTopicDiff(d Deps) *cobra.Command {
	var flags diffFlags
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show how settings and partitions of topics differ",
		Long: help(`Compares the settings and partition counts of all selected topics on both clusters of
a replicator, as they are now, and says why a setting does not follow. The target is
asked whether it would take what is about to follow; nothing is changed.

Settings that always stay the target's own (KEPT) are no difference; --all shows them.
JSON and YAML hold every topic.`, 0, 1, 2, 3, 4, 6),
		Example: `  anabranch topic diff --replicator primary-to-secondary
  anabranch topic diff --replicator primary-to-secondary --all
  anabranch topic diff --replicator primary-to-secondary --exit-code -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(d, cmd)
			if err != nil {
				return err
			}
			list, err := c.TopicDiff(cmd.Context(), flags.replicator)
			if err != nil {
				return err
			}
			if err := printer(d, cmd).Data(list, func(pg *out.Page) { topicDiffText(pg, list, flags.all) }); err != nil {
				return err
			}
			return flags.verdict(list.Differs())
		},
	}
	flags.add(d, cmd)
	return cmd
}

func topicDiffText(pg *out.Page, list api.TopicDiffList, all bool) {
	var topics, settings [][]string
	same := 0
	for _, t := range list.Topics {
		if !all && !t.Differs() {
			same++
			continue
		}
		target := ""
		if t.TargetTopic != t.Topic {
			target = t.TargetTopic
		}
		topics = append(topics, []string{t.Topic, target, string(t.State), number(t.SourcePartitions), number(t.TargetPartitions), topicReason(t)})
		for _, s := range t.Settings {
			if all || s.State != dr.SettingKept {
				settings = append(settings, []string{t.Topic, s.Setting, string(s.State), text(s.Source), text(s.Target), s.Reason})
			}
		}
	}
	pg.Table([]string{"TOPIC", "TARGET", "STATE", "SOURCE PARTITIONS", "TARGET PARTITIONS", "REASON"}, topics)
	if len(settings) > 0 {
		pg.Line("")
		pg.Table([]string{"TOPIC", "SETTING", "STATE", "SOURCE", "TARGET", "REASON"}, settings)
	}
	if same > 0 {
		pg.Line("%s the same on both sides", count(int64(same), "topic"))
	}
	if len(list.Topics) == 0 {
		pg.Line("no topics")
	}
}

func topicReason(t dr.TopicDiff) string {
	if t.Code == "" {
		return t.Reason
	}
	return withReason(string(t.Code), t.Reason)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number(n int32) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(int(n))
}
