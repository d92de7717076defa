package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// question is what somebody has to agree to.
type question struct {
	what  string // an action: "recreate"
	topic string // a topic whose name must be typed, for what cannot be undone; empty: "y" is enough
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
	if q.topic != "" {
		want = q.topic
		p.Raw("Type the name of the topic to go on: ")
	} else {
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

// readLine reads a line of standard input, or returns the context's error. A read
// that the context interrupts is left behind: the process is about to end.
func readLine(ctx context.Context, d Deps, p *out.Printer) (string, error) {
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(d.Stdin).ReadString('\n') // The end of input is an empty answer.
		line <- text
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
