package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
)

// checkReport is what config check prints.
type checkReport struct {
	File     string           `json:"file"`
	Valid    bool             `json:"valid"`             // the file can be served; says nothing about the clusters
	Problems []config.Problem `json:"problems"`          // with the file
	Findings []dr.Finding     `json:"findings,omitzero"` // with the clusters; left out without --connect
}

func newConfigCheck(d Deps) *cobra.Command {
	var connect bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file, and with --connect its clusters",
		Long: help(`Checks a configuration file and lists every problem with its line.

--connect also looks at the clusters: whether every address can be reached, what the
brokers support, and which permissions the principals lack, with the kafka-acls.sh
lines that grant them. It changes nothing on them.`, 0, 1, 2, 3),
		Example: `  anabranch config check anabranch.yaml
  anabranch config check anabranch.yaml --connect -o json`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := printer(d, cmd)
			report := checkReport{File: args[0], Problems: []config.Problem{}}
			conf, err := config.Load(args[0])
			if err != nil {
				problems, ok := errors.AsType[*config.Problems](err)
				if !ok {
					return err
				}
				report.Problems = problems.List
			} else if report.Valid = true; connect {
				if report.Findings, err = d.Preflight(cmd.Context(), conf); err != nil {
					return err
				}
				if report.Findings == nil {
					report.Findings = []dr.Finding{}
				}
			}
			if err := p.Data(report, func(pg *out.Page) { checkText(pg, report) }); err != nil {
				return err
			}
			return report.verdict()
		},
	}
	if d.Preflight != nil {
		cmd.Flags().BoolVar(&connect, "connect", false, "also check the clusters of the file")
	}
	outputFlag(cmd)
	return cmd
}

// verdict turns what was printed into an exit code.
func (r checkReport) verdict() error {
	if !r.Valid {
		return &toldError{code: dr.CodeConfig}
	}
	code := dr.Code("")
	for _, f := range r.Findings {
		switch {
		case f.Severity != dr.SeverityError:
		case f.Code == string(dr.CodeUnreachable):
			return &toldError{code: dr.CodeUnreachable}
		default:
			code = dr.CodeInternal
		}
	}
	if code != "" {
		return &toldError{code: code}
	}
	return nil
}

func checkText(pg *out.Page, r checkReport) {
	for _, x := range r.Problems {
		pg.Line("%s", x)
	}
	for _, f := range r.Findings {
		pg.Line("%s: %s: %s [%s]", f.Severity, f.Subject, f.Message, f.Code)
		for line := range strings.Lines(f.Fix) {
			pg.Line("    %s", strings.TrimRight(line, "\r\n"))
		}
	}
	switch {
	case !r.Valid:
		pg.Line("%s: %s", r.File, count(int64(len(r.Problems)), "problem"))
	case len(r.Findings) > 0:
		pg.Line("%s: valid; %s about its clusters", r.File, findingCounts(r.Findings))
	case r.Findings != nil:
		pg.Line("%s: valid, and its clusters are fine", r.File)
	default:
		pg.Line("%s: valid", r.File)
	}
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
			parts = append(parts, fmt.Sprint(count(n, noun)))
		}
	}
	return strings.Join(parts, ", ")
}
