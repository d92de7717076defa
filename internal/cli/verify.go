package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/obs"
	"github.com/anabranch/anabranch/internal/verify"
)

// VerifyOptions are what verify hands over.
type VerifyOptions struct {
	ConfigFile string
	Replicator string
	Build      obs.Build
	Stderr     io.Writer      // for the log
	What       verify.Options // without clusters
}

type verifyFlags struct {
	file, replicator, topics string
	partitions               []int32
	full                     bool
	sample                   float64
	seed                     uint64
	last                     int64
	from, to, rate, proof    string
	wait                     time.Duration
	parallel                 int
}

func newVerify(d Deps) *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify PAIR|--replicator NAME",
		Short: "Compare the records of two clusters, one by one",
		Long: help(`Reads both clusters of a replicator, or of a pair in both directions, and says whether
they are equal: which records are missing, extra, duplicated, reordered, changed
(a single byte in key, value, headers or timestamp) or misplaced (the offset map is
wrong), with their offsets on both sides. What cannot be judged is counted, with the
reason. Both clusters may be written meanwhile: compared is what was replicated when it
began.

Everything is compared, unless --topics, --partition, --from and --to, --sample or
--last say less. It needs no server, only the file and both clusters, and changes
nothing. docs/verify.md explains the answer and the digests of a proof file.`, 0, 1, 2, 3, 4, 5, 6),
		Example: `  anabranch verify --config anabranch.yaml orders-dr --proof proof.json
  anabranch verify --config anabranch.yaml --replicator primary-to-secondary
  anabranch verify --config anabranch.yaml --replicator primary-to-secondary --topics 'orders.*' --proof proof.json
  anabranch verify --config anabranch.yaml --replicator primary-to-secondary --sample 0.05 --rate-limit 10MiB
  anabranch verify --config anabranch.yaml --replicator primary-to-secondary --last 10000 -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly("PAIR")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(d, cmd, args) },
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			conf, err := config.Load(cmp.Or(f.file, d.Getenv("ANABRANCH_CONFIG")))
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return conf.PairNames, cobra.ShellCompDirectiveNoFileComp
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", "", "configuration file (default $ANABRANCH_CONFIG)")
	flags.StringVar(&f.replicator, "replicator", "", "replicator whose clusters are compared, instead of a pair")
	flags.StringVar(&f.topics, "topics", "", "pattern (RE2) that the whole name of a source topic must match")
	flags.Int32SliceVar(&f.partitions, "partition", nil, "only these partitions")
	flags.BoolVar(&f.full, "full", false, "compare everything (the default)")
	flags.Float64Var(&f.sample, "sample", 0, "compare this part, between 0 and 1, chosen at random")
	flags.Uint64Var(&f.seed, "seed", 0, "choose the same sample again (default: another one each time)")
	flags.Int64Var(&f.last, "last", 0, "compare the last so many copied records of each partition")
	flags.StringVar(&f.from, "from", "", "begin at this source offset, or at this time (RFC 3339)")
	flags.StringVar(&f.to, "to", "", "end before this source offset, or this time (RFC 3339)")
	flags.DurationVar(&f.wait, "wait", 0, "wait so long until what the source holds is replicated; otherwise it counts as lag")
	flags.StringVar(&f.rate, "rate-limit", "", "bytes a second to read at most, from both clusters together, for example 10MiB")
	flags.IntVar(&f.parallel, "parallel", verify.DefaultParallel, "partitions that are compared at the same time")
	flags.StringVar(&f.proof, "proof", "", "also write the report, with its digests, to this file")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
	must(cmd.MarkFlagFilename("proof", "json"))
	must(cmd.RegisterFlagCompletionFunc("replicator", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		conf, err := config.Load(cmp.Or(f.file, d.Getenv("ANABRANCH_CONFIG")))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return conf.ReplicatorNames, cobra.ShellCompDirectiveNoFileComp
	}))
	outputFlag(cmd)
	return cmd
}

// what translates the flags.
func (f *verifyFlags) what(cmd *cobra.Command, pair string) (verify.Options, error) {
	fail := func(format string, args ...any) (verify.Options, error) {
		return verify.Options{}, usageError(cmd, fmt.Errorf(format, args...))
	}
	o := verify.Options{Partitions: f.partitions, Sample: f.sample, Seed: f.seed, Last: f.last, Wait: f.wait, Parallel: f.parallel}
	changed := cmd.Flags().Changed
	switch {
	case f.file == "":
		return fail("--config is missing, and ANABRANCH_CONFIG is not set")
	case (f.replicator == "") == (pair == ""):
		return fail("want a PAIR or --replicator")
	case changed("sample") && (f.sample <= 0 || f.sample > 1):
		return fail("--sample %v: want more than 0 and at most 1", f.sample)
	case changed("last") && f.last <= 0:
		return fail("--last %d: want at least 1", f.last)
	case changed("last") && (changed("sample") || changed("from") || changed("to")) || f.full && (changed("sample") || changed("last")):
		return fail("--full, --sample and --last exclude each other, and --last does not go with --from or --to")
	case f.parallel < 1:
		return fail("--parallel %d: want at least 1", f.parallel)
	case f.wait < 0:
		return fail("--wait %v: want no negative time", f.wait)
	}
	if changed("sample") && !changed("seed") {
		o.Seed = uint64(time.Now().UnixNano())
	}
	if f.topics != "" {
		re, err := regexp.Compile("^(?:" + f.topics + ")$")
		if err != nil {
			return fail("--topics: %w", err)
		}
		o.Topics = re.MatchString
	}
	if f.rate != "" {
		size, err := config.ParseSize(strings.TrimSuffix(f.rate, "/s"))
		if err != nil || size <= 0 {
			return fail("--rate-limit %q: want a size like 10MiB", f.rate)
		}
		o.RateLimit = int64(size)
	}
	var err error
	if o.From, err = place(f.from); err != nil {
		return fail("--from: %w", err)
	}
	if o.To, err = place(f.to); err != nil {
		return fail("--to: %w", err)
	}
	return o, nil
}

// place reads an offset or a time.
func place(s string) (*verify.Place, error) {
	if s == "" {
		return nil, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return &verify.Place{Offset: n}, nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, fmt.Errorf("%q: want an offset or a time like 2026-01-31T12:00:00Z", s)
	}
	return &verify.Place{Time: at}, nil
}

func (f *verifyFlags) run(d Deps, cmd *cobra.Command, args []string) error {
	f.file = cmp.Or(f.file, d.Getenv("ANABRANCH_CONFIG"))
	pair := strings.Join(args, "")
	what, err := f.what(cmd, pair)
	if err != nil {
		return err
	}
	p := printer(d, cmd)
	one := func(replicator string) (dr.VerifyReport, error) {
		line := progressLine{p: p, terminal: isTerminal(d.Stderr)}
		what := what
		what.Progress = line.show
		defer line.end()
		return d.Verify(cmd.Context(), VerifyOptions{ConfigFile: f.file, Replicator: replicator, Build: obs.ReadBuild(d.Version), Stderr: d.Stderr, What: what})
	}
	if pair != "" {
		return f.pair(p, pair, one)
	}
	report, err := one(f.replicator)
	if err != nil {
		return err
	}
	return f.tell(p, report, report.State, func(pg *out.Page) { verifyText(pg, report) })
}

// pair compares both directions of a pair.
func (f *verifyFlags) pair(p *out.Printer, name string, one func(string) (dr.VerifyReport, error)) error {
	conf, err := config.Load(f.file)
	if err != nil {
		return err
	}
	pair, ok := conf.Pairs[name]
	if !ok {
		return &dr.Error{Code: dr.CodeNotFound, Hint: "see `pairs` in the file, or name a --replicator", Err: fmt.Errorf("file %s has no pair %s", f.file, name)}
	}
	all := dr.VerifyPairReport{V: 1, Pair: name}
	for _, cluster := range pair.Clusters {
		report, err := one(config.PairReplicator(name, cluster))
		if err != nil {
			return err
		}
		all.Add(report)
	}
	return f.tell(p, all, all.State, func(pg *out.Page) {
		for i, r := range all.Reports {
			if i > 0 {
				pg.Line("")
			}
			pg.Line("%s to %s:", r.Source.Name, r.Target.Name)
			verifyText(pg, r)
		}
	})
}

// tell writes a report, and makes an exit code of it.
func (f *verifyFlags) tell(p *out.Printer, report any, state dr.VerifyState, text func(*out.Page)) error {
	if f.proof != "" {
		if err := writeProof(f.proof, report); err != nil {
			return err
		}
	}
	if err := p.Data(report, text); err != nil {
		return err
	}
	switch state {
	case dr.VerifyDifferent:
		return &differError{}
	case dr.VerifyNotJudged:
		return &toldError{dr.CodePartial}
	default:
		return nil
	}
}

// writeProof writes a report to a file, whole or not at all.
func writeProof(path string, report any) (err error) {
	raw, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the proof: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".proof-*")
	if err != nil {
		return fmt.Errorf("write the proof: %w", err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the proof: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

// progressLine shows how far a comparison is, on standard error.
type progressLine struct {
	p        *out.Printer
	terminal bool
	shown    time.Time
	dirty    bool
}

// quiet is how often a line is written where it can't be written over.
const quiet = 10 * time.Second

func (l *progressLine) show(p verify.Progress) {
	if !l.terminal && time.Since(l.shown) < quiet {
		if l.shown.IsZero() {
			l.shown = time.Now()
		}
		return
	}
	l.shown = time.Now()
	percent := 100.0
	if p.Offsets > 0 {
		percent = 100 * float64(p.OffsetsDone) / float64(p.Offsets)
	}
	text := fmt.Sprintf("%.1f %%, %d of %d partitions, %s", percent, p.PartitionsDone, p.Partitions, out.Rate(float64(p.Bytes)/max(0.001, p.Elapsed.Seconds())))
	if p.Left >= 0 {
		text += ", about " + p.Left.Round(time.Second).String() + " left"
	}
	if p.Differences > 0 {
		text += ", " + count(p.Differences, "difference") + " so far"
	}
	if !l.terminal {
		l.p.Note("%s", text)
		return
	}
	l.dirty = true
	l.p.Raw("\r\x1b[K" + out.Clean(text))
}

func (l *progressLine) end() {
	if l.dirty {
		l.p.Raw("\r\x1b[K")
	}
}

// verifyText writes what is not equal, and the sum.
func verifyText(pg *out.Page, r dr.VerifyReport) {
	var rows, found, open [][]string
	for _, p := range r.Partitions {
		if p.State != dr.VerifyEqual || p.Reason != "" {
			rows = append(rows, []string{p.Topic, strconv.Itoa(int(p.Partition)), string(p.State), strconv.FormatInt(p.Records, 10), kindCounts(p.Counts), p.Reason})
		}
		for _, d := range p.Differences {
			found = append(found, []string{p.Topic, strconv.Itoa(int(p.Partition)), string(d.Kind), out.Offset(d.SourceOffset), out.Offset(d.TargetOffset), d.Detail})
		}
	}
	pg.Table([]string{"TOPIC", "PARTITION", "STATE", "RECORDS", "DIFFERENCES", "REASON"}, rows)
	if len(found) > 0 {
		pg.Line("")
		pg.Table([]string{"TOPIC", "PARTITION", "DIFFERENCE", "SOURCE OFFSET", "TARGET OFFSET", "DETAIL"}, found)
		pg.Line("")
	}
	for _, u := range r.Unjudged {
		open = append(open, []string{string(u.Reason), u.Side, strconv.FormatInt(u.Count, 10)})
	}
	pg.Table([]string{"NOT COMPARED", "SIDE", "RECORDS"}, open)
	for _, u := range r.Unjudged {
		if u.Reason == dr.UnjudgedKnown {
			pg.Line("%s only on %s, by decision of %s", count(u.Count, "record"), r.Source.Name, strings.Join(r.Decided, ", "))
		}
	}
	took := r.FinishedAt.Sub(r.StartedAt)
	pg.Line("%s: %s of %s compared in %s (%s)", r.State, count(r.Records, "record"), count(int64(len(r.Partitions)), "partition"),
		took.Round(time.Millisecond), out.Rate(float64(r.Bytes)/max(0.001, took.Seconds())))
	if r.Scope == "sample" {
		pg.Line("a sample; --seed %d chooses it again", r.Seed)
	}
}

func kindCounts(counts map[dr.DifferenceKind]int64) string {
	var parts []string
	for _, k := range dr.DifferenceKinds() {
		if slices.Contains(slices.Collect(maps.Keys(counts)), k) {
			parts = append(parts, fmt.Sprintf("%d %s", counts[k], k))
		}
	}
	return strings.Join(parts, ", ")
}
