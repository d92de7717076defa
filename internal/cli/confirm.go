package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// question is what somebody has to agree to.
type question struct {
	what  string // an action: "recreate"
	topic string // a topic whose name must be typed, for what cannot be undone; empty: "y" is enough
	pair  string // the same of a pair
}

// confirm asks whether to do what was shown. It returns a refusal for any other
// answer, or when nobody can be asked.
func confirm(ctx context.Context, d Deps, p *out.Printer, q question) error {
	refused := func(format string, args ...any) error {
		return &dr.Error{Code: dr.CodeRefused, Hint: "nothing was changed; --yes does it without asking", Err: fmt.Errorf(format, args...)}
	}
	if !d.Terminal() {
		return refused("%s needs a confirmation and there is no terminal to ask on", q.what)
	}
	want := "y"
	switch {
	case q.topic != "":
		want = q.topic
		p.Raw("Type the name of the topic to go on: ")
	case q.pair != "":
		want = q.pair
		p.Raw("Type the name of the pair to go on: ")
	default:
		p.Raw("Go on? [y/N] ")
	}
	answer, err := readLine(ctx, d, p)
	if err != nil {
		return err
	}
	if answer == want || (want == "y" && strings.EqualFold(answer, "yes")) || (want == "y" && answer == "Y") {
		return nil
	}
	return refused("not confirmed")
}

// oneLine reads to the end of a line and no byte behind it: what follows is the
// answer to the next question. The end of input is an empty answer.
func oneLine(r io.Reader) string {
	var text []byte
	for one := make([]byte, 1); ; {
		if n, err := r.Read(one); n == 1 {
			if text = append(text, one[0]); one[0] == '\n' {
				return string(text)
			}
		} else if err != nil {
			return string(text)
		}
	}
}

// readLine reads a line of standard input, or returns the context's error. A read
// that the context interrupts is left behind: the process is about to end.
func readLine(ctx context.Context, d Deps, p *out.Printer) (string, error) {
	line := make(chan string, 1)
	go func() {
		line <- oneLine(d.Stdin)
	}()
	select {
	case text := <-line:
		if !strings.HasSuffix(text, "\n") {
			p.Raw("\n") // Input that ends instead of answering leaves the cursor behind the question.
		}
		return strings.TrimSpace(text), nil
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
