package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/api/apiclient"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

func newGroupDescribe(d Deps) *cobra.Command {
	var flags groupFlags
	var watch bool
	cmd := &cobra.Command{
		Use:   "describe GROUP",
		Short: "Show where a consumer group stands on both sides of a replicator",
		Long: help(`Shows where a consumer group stands in each partition, on both sides of every
replicator that carries it, or of one. CURRENT-OFFSET, LOG-END-OFFSET and LAG are those
of the source, as kafka-consumer-groups.sh shows them. Then:

  TARGET-OFFSET  what is committed on the target
  TARGET-LAG     from there to the end of the target's log
  TRANSLATED     what the source's position is on the target
  DISTANCE       TRANSLATED - TARGET-OFFSET; 0: the target is where the source is;
                 above 0 with SYNCED: the next round writes it
  BLOCKED-BY     members of the group on the target: its position is not touched

Below are the commands to choose from, where something needs a decision. Exit code 5:
some replicators could not be asked.

--watch shows it again each second until Ctrl-C: JSON as one object a line, YAML as
one document each.`, 0, 1, 2, 3, 4, 5),
		Example: `  anabranch group describe msk-consumer
  anabranch group describe msk-consumer --replicator primary-to-secondary --watch
  anabranch group describe msk-consumer -o json`,
		Args: exactly("GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := flags.client(d)
			if err != nil {
				return err
			}
			p := printer(d, cmd)
			if watch {
				return flags.watch(cmd.Context(), d, c, p, args[0])
			}
			g, err := flags.group(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if err := p.Data(api.GroupList{Groups: g.groups}, func(pg *out.Page) { groupsText(pg, g.groups) }); err != nil {
				return err
			}
			return g.tell(p)
		},
	}
	cmd.ValidArgsFunction = flags.completeGroups(d)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second")
	flags.add(d, cmd, "only this replicator (default: all that carry the group)")
	outputFlag(cmd)
	return cmd
}

// group asks for one group.
func (f *groupFlags) group(ctx context.Context, c *apiclient.Client, name string) (gathered, error) {
	g, err := f.gather(ctx, c, func(replicator string) ([]dr.GroupStatus, error) {
		st, err := c.Group(ctx, replicator, name)
		if err != nil {
			return nil, err
		}
		return []dr.GroupStatus{st}, nil
	})
	if f.replicator == "" && dr.CodeOf(err) == dr.CodeNotFound {
		err = &dr.Error{Code: dr.CodeNotFound, Hint: "anabranch group list names them", Err: fmt.Errorf("no replicator carries a group named %q", name)}
	}
	return g, err
}

// watch shows a group each second until the context ends or it can't be asked.
func (f *groupFlags) watch(ctx context.Context, d Deps, c *apiclient.Client, p *out.Printer, name string) error {
	wipe := ""
	if isTerminal(d.Stdout) {
		wipe = "\x1b[H\x1b[2J" // Cursor home, erase display (ECMA-48).
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		g, err := f.group(ctx, c, name)
		if err != nil {
			return err
		}
		if err := p.Event(api.GroupList{Groups: g.groups}, wipe, func(pg *out.Page) { groupsText(pg, g.groups) }); err != nil {
			return err
		}
		if err := g.tell(p); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func groupsText(pg *out.Page, list []dr.GroupStatus) {
	for i, st := range list {
		if i > 0 {
			pg.Line("")
		}
		groupText(pg, st)
	}
}

func groupText(pg *out.Page, st dr.GroupStatus) {
	synced := ""
	if !st.SyncedAt.IsZero() {
		synced = st.SyncedAt.UTC().Format(time.RFC3339)
	}
	again := ""
	if st.ReadAgain > 0 {
		again = "at most " + count(st.ReadAgain, "record")
	}
	pg.Fields(
		[2]string{"Group", st.Group},
		[2]string{"Replicator", st.Replicator},
		[2]string{"Type", st.Type},
		[2]string{"State", withReason(string(st.State), st.Reason)},
		[2]string{"Source", withLag(st.SourceState, st.SourceLag)},
		[2]string{"Target", withLag(st.TargetState, st.TargetLag)},
		[2]string{"Read again", again},
		[2]string{"Written", synced},
	)
	if len(st.Partitions) == 0 {
		pg.Line("")
		pg.Line("No committed offsets of topics that are replicated.")
		return
	}
	var rows [][]string
	for _, p := range st.Partitions {
		renamed := ""
		if p.TargetTopic != p.Topic {
			renamed = p.TargetTopic
		}
		rows = append(rows, []string{
			st.Group, p.Topic, renamed, strconv.Itoa(int(p.Partition)), out.Offset(p.SourceOffset), out.Offset(p.SourceEndOffset), out.Offset(p.SourceLag),
			out.Offset(p.TargetOffset), out.Offset(p.TargetLag), out.Offset(p.TranslatedOffset), distance(p), string(p.State), strings.Join(p.BlockedBy, ", "), p.Reason,
		})
	}
	pg.Line("")
	pg.Table([]string{
		"GROUP", "TOPIC", "TARGET-TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG",
		"TARGET-OFFSET", "TARGET-LAG", "TRANSLATED", "DISTANCE", "STATE", "BLOCKED-BY", "REASON",
	}, rows)
	groupAdviceText(pg, st)
}

// distance is empty where one of the two positions is not known.
func distance(p dr.GroupPartition) string {
	if p.TargetOffset < 0 || p.TranslatedOffset < 0 {
		return ""
	}
	return strconv.FormatInt(p.Distance, 10)
}

func withLag(state string, lag int64) string {
	switch {
	case lag < 0:
		return state
	case state == "":
		return "lag " + out.Offset(lag)
	}
	return state + ", lag " + out.Offset(lag)
}
