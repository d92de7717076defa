package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/anabranch/anabranch/internal/api/apiclient"
	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

func newOffsets(d Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "offsets",
		Short: "Translate positions between the two sides of a replicator",
		Long: help(`Translates positions between the two sides of a replicator, for applications that
keep offsets themselves.`, 0, 2),
		Example: `  anabranch offsets translate --replicator primary-to-secondary --topic orders --partition 3 --offset 4711`,
		Args:    noCommand, RunE: showHelp,
	}
	cmd.AddCommand(newOffsetsTranslate(d))
	return cmd
}

type translateFlags struct {
	serverFlags

	replicator string
	query      dr.OffsetQuery
	batch      bool
}

func newOffsetsTranslate(d Deps) *cobra.Command {
	var f translateFlags
	cmd := &cobra.Command{
		Use:   "translate --replicator NAME --topic T --partition P --offset N",
		Short: "Say where a position lies on the other side",
		Long: help(`Says where a position lies on the other side of a replicator: from the source to the
target, with --reverse from the target back to the source. A position is the offset of
the next record to be read. The answer fits in one of three ways:

  exact    the next record there is the next record here
  ahead    the position lies behind what is replicated: it is the end of the copy, from
           where on the rest will be read
  earlier  records are read again, none is skipped: so far back the map is no longer
           exact, or both sides were written

Where nothing is known of the position, that is an error, never a guess.

--batch reads one JSON object a line from standard input, with topic, partition, offset
and perhaps reverse, and writes one a line to standard output, in the same order. A line
that has no answer says why in its error, and the others go on; the exit code is 5
then. It answers when its input pauses, too, so a program can ask and read in turn.

For Flink: translate the offsets of the savepoint (next record to be read), and start
from them with OffsetsInitializer.offsets. For Spark: the offsets of the checkpoint,
given as startingOffsets. Others: whatever is stored as "next to be read"; where the
last record read is stored, translate the offset behind it.`, 0, 1, 2, 3, 4, 5),
		Example: `  anabranch offsets translate --replicator primary-to-secondary --topic orders --partition 3 --offset 4711
  anabranch offsets translate --replicator primary-to-secondary --topic orders --partition 3 --offset 4690 --reverse
  anabranch offsets translate --replicator primary-to-secondary --batch < positions.jsonl > translated.jsonl`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(d, cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.replicator, "replicator", "", "name of the replicator (required)")
	flags.StringVar(&f.query.Topic, "topic", "", "topic, by its name at the source (required without --batch)")
	flags.Int32Var(&f.query.Partition, "partition", 0, "partition (required without --batch)")
	flags.Int64Var(&f.query.Offset, "offset", 0, "position to translate (required without --batch)")
	flags.BoolVar(&f.query.Reverse, "reverse", false, "from the target to the source")
	flags.BoolVar(&f.batch, "batch", false, "read JSON lines from standard input")
	must(cmd.RegisterFlagCompletionFunc("replicator", f.completeReplicator(d)))
	f.add(cmd)
	outputFlag(cmd)
	return cmd
}

// completeReplicator completes the value of --replicator.
func (f *translateFlags) completeReplicator(d Deps) cobra.CompletionFunc {
	names := f.completeNames(d)
	return func(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return names(cmd, nil, typed)
	}
}

// check returns what is wrong with the flags.
func (f *translateFlags) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	if f.replicator == "" {
		return usageError(cmd, errors.New("--replicator is missing"))
	}
	for _, name := range []string{"topic", "partition", "offset"} {
		switch {
		case f.batch && changed(name):
			return usageError(cmd, fmt.Errorf("--%s does not go with --batch: the lines have it", name))
		case !f.batch && !changed(name):
			return usageError(cmd, fmt.Errorf("--%s is missing", name))
		}
	}
	if f.batch && changed("output") && cmd.Flags().Lookup("output").Value.String() != string(out.JSON) {
		return usageError(cmd, errors.New("--batch writes JSON lines"))
	}
	return nil
}

func (f *translateFlags) run(d Deps, cmd *cobra.Command) error {
	if err := f.check(cmd); err != nil {
		return err
	}
	c, err := f.client(d)
	if err != nil {
		return err
	}
	if f.batch {
		return f.runBatch(cmd.Context(), c, d)
	}
	answers, err := c.TranslateOffsets(cmd.Context(), f.replicator, []dr.OffsetQuery{f.query})
	if err != nil {
		return err
	}
	a := answers[0]
	if a.Error != nil {
		return &dr.Error{Code: a.Error.Code, Hint: a.Error.Hint, Err: errors.New(a.Error.Message)}
	}
	return printer(d, cmd).Data(a, func(pg *out.Page) { answerText(pg, a) })
}

func answerText(pg *out.Page, a dr.OffsetAnswer) {
	from, to := "SOURCE OFFSET", "TARGET OFFSET"
	if a.Reverse {
		from, to = to, from
	}
	pg.Table([]string{"TOPIC", "PARTITION", from, to, "FIT", "REASON"}, [][]string{
		{a.Topic, strconv.Itoa(int(a.Partition)), out.Offset(a.Offset), out.Offset(a.Translated), string(a.Fit), a.Reason},
	})
}

// maxBatchLine bounds a line of a batch, in bytes.
const maxBatchLine = 64 << 10

// batchQuery is one line of a batch. bad is why it is none.
type batchQuery struct {
	query dr.OffsetQuery
	bad   error
}

// runBatch answers the lines of standard input, or returns the context's error. A
// read that the context interrupts is left behind: the process is about to end.
func (f *translateFlags) runBatch(ctx context.Context, c *apiclient.Client, d Deps) error {
	done := make(chan error, 1)
	go func() { done <- f.answerLines(ctx, c, d.Stdin, d.Stdout) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), context.Cause(ctx))
	}
}

// answerLines answers as many lines at a time as there are without waiting.
func (f *translateFlags) answerLines(ctx context.Context, c *apiclient.Client, stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReaderSize(stdin, maxBatchLine)
	failed := false
	var pending []batchQuery
	for line := 1; ; line++ {
		text, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return &dr.Error{Code: dr.CodeUsage, Hint: "one JSON object a line", Err: fmt.Errorf("line %d is longer than %d bytes", line, maxBatchLine)}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read standard input: %w", err)
		}
		end := err != nil
		if len(bytes.TrimSpace(text)) > 0 {
			pending = append(pending, f.parse(line, text))
		}
		if len(pending) > 0 && (end || len(pending) >= dr.MaxOffsetQueries || in.Buffered() == 0) {
			bad, err := f.answer(ctx, c, pending, stdout)
			if err != nil {
				return err
			}
			failed = failed || bad
			pending = pending[:0]
		}
		if end {
			break
		}
	}
	if failed {
		return &toldError{dr.CodePartial}
	}
	return nil
}

// parse reads one line of a batch.
func (f *translateFlags) parse(line int, text []byte) batchQuery {
	var b batchQuery
	var fields struct {
		Topic     *string `json:"topic"`
		Partition *int32  `json:"partition"`
		Offset    *int64  `json:"offset"`
		Reverse   bool    `json:"reverse"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err := dec.Decode(&fields)
	if err == nil && dec.InputOffset() < int64(len(bytes.TrimRight(text, " \t\r\n"))) {
		err = errors.New("something follows the JSON object")
	}
	if err == nil && (fields.Topic == nil || fields.Partition == nil || fields.Offset == nil) {
		err = errors.New("topic, partition or offset is missing")
	}
	if fields.Topic != nil {
		b.query.Topic = *fields.Topic
	}
	if fields.Partition != nil {
		b.query.Partition = *fields.Partition
	}
	if fields.Offset != nil {
		b.query.Offset = *fields.Offset
	}
	b.query.Reverse = fields.Reverse || f.query.Reverse
	if err != nil {
		b.bad = fmt.Errorf("line %d: %w", line, err)
	}
	return b
}

// answer writes the answers of lines, and reports whether some have none.
func (f *translateFlags) answer(ctx context.Context, c *apiclient.Client, lines []batchQuery, stdout io.Writer) (failed bool, err error) {
	var good []dr.OffsetQuery
	for _, b := range lines {
		if b.bad == nil {
			good = append(good, b.query)
		}
	}
	answers, err := c.TranslateOffsets(ctx, f.replicator, good)
	if err != nil {
		return false, err
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	for _, b := range lines {
		a := b.query.Answer()
		if b.bad != nil {
			a.Error = &dr.OffsetProblem{Code: dr.CodeUsage, Message: b.bad.Error(), Hint: `a line is like {"topic":"orders","partition":3,"offset":4711}`}
		} else {
			a, answers = answers[0], answers[1:]
		}
		failed = failed || a.Error != nil
		if err := enc.Encode(a); err != nil {
			return failed, fmt.Errorf("encode an answer: %w", err)
		}
	}
	if _, err := stdout.Write(body.Bytes()); err != nil {
		return failed, fmt.Errorf("write the output: %w", err)
	}
	return failed, nil
}
