package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/preflight"
)

// checkReport is what config check prints.
type checkReport struct {
	File        string             `json:"file"`
	Valid       bool               `json:"valid"`                // the file can be served; says nothing about the clusters
	Problems    []config.Problem   `json:"problems"`             // with the file
	Replicators []preflight.Report `json:"replicators,omitzero"` // what was found on the clusters of each; left out without --connect
}

func newConfigCheck(d Deps) *cobra.Command {
	var connect bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file, and with --connect its clusters",
		Long: help(`Checks a configuration file and lists every problem with its line.

--connect also looks at the clusters: whether every address can be reached, what the
brokers support, and which permissions the principals lack, with the kafka-acls.sh
commands that grant them. On targets it tries whether the brokers keep the rules that
exactly-once rests on, in the topic __anabranch_probe; it changes nothing else.`, 0, 1, 2, 3),
		Example: `  anabranch config check anabranch.yaml
  anabranch config check anabranch.yaml --connect -o json`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report := checkReport{File: args[0], Problems: []config.Problem{}}
			conf, err := config.Load(args[0])
			if err != nil {
				problems, ok := errors.AsType[*config.ProblemsError](err)
				if !ok {
					return err
				}
				report.Problems = problems.List
			} else if report.Valid = true; connect {
				if report.Replicators, err = checkClusters(cmd.Context(), d, conf); err != nil {
					return err
				}
			}
			if err := printer(d, cmd).Data(report, func(pg *out.Page) { checkText(pg, report) }); err != nil {
				return err
			}
			return report.verdict()
		},
	}
	cmd.Flags().BoolVar(&connect, "connect", false, "also check the clusters of the file")
	outputFlag(cmd)
	return cmd
}

// checkClusters checks the clusters of every replicator, one after the other.
func checkClusters(ctx context.Context, d Deps, conf *config.Config) ([]preflight.Report, error) {
	reports := []preflight.Report{}
	for _, name := range conf.ReplicatorNames {
		r := conf.Replicators[name]
		source, ok1 := conf.ClientOptions(r.Source)
		target, ok2 := conf.ClientOptions(r.Target)
		filter, err := r.Filter()
		if !ok1 || !ok2 || err != nil {
			panic("bug: a file that was loaded has a replicator that is not valid") // Load checked it.
		}
		var groups *preflight.Groups
		if r.Groups.Enabled {
			groups = &preflight.Groups{Include: r.Groups.Include, Deleted: r.Groups.Deleted}
		}
		report, err := d.Preflight(ctx, preflight.Options{Source: source, Target: target, Replicator: preflight.Replicator{
			Name: name, Include: r.Topics.Include, Filter: filter, Naming: r.Naming(),
			Settings: r.TopicSettings, DeletedTopics: r.DeletedTopics, SessionTimeout: r.SessionTimeout.Std(), Delivery: r.Delivery,
			Groups: groups, ACLs: r.ACLs.Enabled, Quotas: r.Quotas, Replication: int16(conf.Clusters[r.Target].StateTopic.ReplicationFactor),
		}})
		if err != nil {
			return nil, fmt.Errorf("check replicator %s: %w", name, err)
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// findings returns the findings of all replicators, each once: two replicators
// between the same clusters find much of the same.
func (r checkReport) findings() []dr.Finding {
	var list []dr.Finding
	seen := make(map[dr.Finding]bool)
	for _, one := range r.Replicators {
		for _, f := range one.Findings {
			if !seen[f] {
				seen[f] = true
				list = append(list, f)
			}
		}
	}
	return list
}

// verdict turns what was printed into an exit code.
func (r checkReport) verdict() error {
	if !r.Valid {
		return &toldError{code: dr.CodeConfig}
	}
	failed := false
	for _, f := range r.findings() {
		if f.Severity != dr.SeverityError {
			continue
		}
		if strings.HasSuffix(f.Code, "unreachable") {
			return &toldError{code: dr.CodeUnreachable}
		}
		failed = true
	}
	if failed {
		return &toldError{code: dr.CodeInternal}
	}
	return nil
}

func checkText(pg *out.Page, r checkReport) {
	for _, x := range r.Problems {
		pg.Line("%s", x)
	}
	if !r.Valid {
		pg.Line("%s: %s", r.File, count(int64(len(r.Problems)), "problem"))
		return
	}
	var rows [][]string
	for _, one := range r.Replicators {
		for _, side := range []struct {
			name    string
			cluster preflight.ClusterReport
		}{{"source", one.Source}, {"target", one.Target}} {
			c := side.cluster
			rows = append(rows, []string{one.Replicator, side.name, c.Name, c.ClusterID, reached(c), versions(c), c.Principal, strconv.Itoa(c.Topics)})
		}
	}
	pg.Table([]string{"REPLICATOR", "SIDE", "CLUSTER", "CLUSTER ID", "BROKERS", "VERSIONS", "PRINCIPAL", "TOPICS"}, rows)
	findings := r.findings()
	for _, f := range findings {
		pg.Line("%s: %s: %s [%s]", f.Severity, f.Subject, f.Message, f.Code)
		for line := range strings.Lines(f.Fix) {
			pg.Line("    %s", strings.TrimRight(line, "\r\n"))
		}
	}
	switch {
	case len(findings) > 0:
		pg.Line("%s: valid; %s about its clusters", r.File, findingCounts(findings))
	case r.Replicators != nil:
		pg.Line("%s: valid, and its clusters are fine", r.File)
	default:
		pg.Line("%s: valid", r.File)
	}
}

// reached counts the brokers that answered.
func reached(c preflight.ClusterReport) string {
	if len(c.Brokers) == 0 {
		return ""
	}
	n := 0
	for _, b := range c.Brokers {
		if b.Reachable {
			n++
		}
	}
	return fmt.Sprintf("%d of %d", n, len(c.Brokers))
}

// versions lists the versions of the brokers, each once.
func versions(c preflight.ClusterReport) string {
	var list []string
	seen := make(map[string]bool)
	for _, b := range c.Brokers {
		if b.Version != "" && !seen[b.Version] {
			seen[b.Version] = true
			list = append(list, b.Version)
		}
	}
	return strings.Join(list, ", ")
}

func findingCounts(list []dr.Finding) string {
	var parts []string
	for _, s := range []dr.Severity{dr.SeverityError, dr.SeverityWarning, dr.SeverityInfo} {
		n := int64(0)
		for _, f := range list {
			if f.Severity == s {
				n++
			}
		}
		noun := string(s)
		if s == dr.SeverityInfo {
			noun = "note"
		}
		if n > 0 {
			parts = append(parts, count(n, noun))
		}
	}
	return strings.Join(parts, ", ")
}
