package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
)

func TestTranslatingOffsets(t *testing.T) {
	s := newSession(t)
	translate := func(stdin string, args ...string) (int, string, string) {
		return s.run(stdin, append([]string{"offsets", "translate", "--replicator", "primary-to-secondary"}, args...)...)
	}
	translate("", "--topic", "orders", "--partition", "3", "--offset", "100")
	translate("", "--topic", "orders", "--partition", "3", "--offset", "90", "--reverse", "-o", "json")
	translate("", "--topic", "orders", "--partition", "3", "--offset", "2000", "-o", "yaml")
	translate("", "--topic", "other", "--partition", "3", "--offset", "2000")
	translate("", "--topic", "other", "--partition", "3", "--offset", "2000", "-o", "json")
	translate(`{"topic":"orders","partition":0,"offset":20}`+"\n\n"+`{"topic":"orders","partition":1,"offset":20,"reverse":true}`+"\n", "--batch")
	translate(`{"topic":"orders","partition":0,"offset":20}`+"\n"+`{"topic":"orders","offset":20}`+"\nnothing\n"+
		`{"topic":"other","partition":0,"offset":20}`+"\n"+`{"topic":"orders","partition":0,"offset":20,"group":"g"}`+"\n"+
		`{"topic":"orders","partition":0,"offset":20} {}`+"\n"+`{"topic":"orders","partition":0,"offset":30}`, "--batch")
	translate(`{"topic":"orders","partition":0,"offset":20}`+"\n", "--batch", "--reverse", "-o", "json")
	s.run(`{"topic":"orders","partition":0,"offset":20}`+"\n", "offsets", "translate", "--replicator", "nobody", "--batch")
	s.run("", "__complete", "offsets", "translate", "--replicator", "")
	s.golden("offsets.txt")
}

// Many lines are asked for in few requests, and answered in their order.
func TestTranslatingManyOffsets(t *testing.T) {
	s := newSession(t)
	const n = 3*dr.MaxOffsetQueries + 1
	var in strings.Builder
	for i := range n {
		topic := "orders"
		if i%1000 == 7 {
			topic = "other"
		}
		fmt.Fprintf(&in, "{\"topic\":%q,\"partition\":%d,\"offset\":%d}\n", topic, i%7, 10+i%900)
	}
	code, stdout, stderr := s.run(in.String(), "offsets", "translate", "--replicator", "primary-to-secondary", "--batch")
	if code != 5 || stderr != "" {
		t.Errorf("exit %d: %s", code, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != n {
		t.Fatalf("%d answers", len(lines))
	}
	for i, line := range lines {
		var a dr.OffsetAnswer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatal(err)
		}
		if want := int64(i % 900); a.Partition != int32(i%7) || i%1000 != 7 && a.Translated != want || i%1000 == 7 && a.Error == nil {
			t.Fatalf("answer %d: %s", i, line)
		}
	}
	if slices.ContainsFunc(s.svc.calls, func(c string) bool { return c == "translate primary-to-secondary 0" }) || len(s.svc.calls) > n/100 {
		t.Errorf("%d requests", len(s.svc.calls))
	}
}

// A line that is too long ends the batch: what it held cannot be told.
func TestTranslatingALineThatIsTooLong(t *testing.T) {
	s := newSession(t)
	code, _, stderr := s.run(strings.Repeat(" ", maxBatchLine+1)+"\n", "offsets", "translate", "--replicator", "primary-to-secondary", "--batch")
	if code != 2 || !strings.Contains(stderr, "line 1 is longer") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// A program that asks and reads in turn gets its answer before it asks again.
func TestTranslatingInTurn(t *testing.T) {
	s := newSession(t)
	in, ask := io.Pipe()
	read, out := io.Pipe()
	d := s.deps
	var stderr bytes.Buffer
	d.Stdin, d.Stdout, d.Stderr = in, out, &stderr
	done := make(chan int, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		done <- Run(ctx, d, []string{"offsets", "translate", "--replicator", "primary-to-secondary", "--batch"})
	}()
	dec := json.NewDecoder(read)
	for i := range int64(3) {
		if _, err := fmt.Fprintf(ask, "{\"topic\":\"orders\",\"partition\":0,\"offset\":%d}\n", 100+i); err != nil {
			t.Fatal(err)
		}
		var a dr.OffsetAnswer
		if err := dec.Decode(&a); err != nil || a.Translated != 90+i {
			t.Fatal(a, err)
		}
	}
	if err := ask.Close(); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 0 {
		t.Errorf("exit %d: %s", code, stderr.String())
	}
}
