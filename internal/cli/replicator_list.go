package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

func newReplicatorList(d Deps) *cobra.Command {
	var flags serverFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the replicators",
		Long:  help(`Lists the replicators of the server with their state and lag.`, 0, 1, 2, 3, 4),
		Example: `  anabranch replicator list
  anabranch replicator list -o json --server https://dr.example:8443`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.client(d)
			if err != nil {
				return err
			}
			list, err := c.Replicators(cmd.Context())
			if err != nil {
				return err
			}
			p := printer(d, cmd)
			if len(list) == 0 {
				p.Note("no replicators")
			}
			return p.Data(api.ReplicatorList{Replicators: list}, func(pg *out.Page) { listText(pg, list) })
		},
	}
	flags.add(cmd)
	outputFlag(cmd)
	return cmd
}

func listText(pg *out.Page, list []dr.ReplicatorStatus) {
	var rows [][]string
	for _, st := range list {
		rows = append(rows, []string{
			st.Name, st.Pair, st.Source, st.Target, string(st.State), strconv.Itoa(len(st.Topics)), out.Offset(st.MessageLag),
			out.Seconds(st.ReplicationLatencySeconds), out.Rate(st.ThroughputBytesPerSecond), st.Reason,
		})
	}
	pg.Table([]string{"NAME", "PAIR", "SOURCE", "TARGET", "STATE", "TOPICS", "LAG", "LATENCY", "THROUGHPUT", "REASON"}, rows)
}
