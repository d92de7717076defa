package out

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/anabranch/anabranch/internal/dr"
)

// awkward are strings that YAML would read as something else, or break at.
var awkward = []string{"", "true", "no", "null", "~", "12", "1e3", "0x1f", "2026-01-02", ": ", "- a", "a: b", "#x", "<a&b>", "two\nlines", "  ", "\u2028", "é", "*a", "&a", "!t", "%x", "@", "`", "'", `"`}

func TestYAMLSaysWhatJSONSays(t *testing.T) {
	type row struct {
		Zebra string   `json:"zebra"`
		Alpha []string `json:"alpha"`
		N     float64  `json:"n"`
		Big   int64    `json:"big"`
		None  []int    `json:"none"`
		B     bool     `json:"b"`
		Nil   *int     `json:"nil"`
	}
	v := struct {
		Rows []row `json:"rows"`
	}{[]row{{Zebra: "last first", Alpha: awkward, N: 0.25, Big: 1 << 60, None: []int{}, B: true}}}
	var buf bytes.Buffer
	p := Printer{Stdout: &buf, Format: YAML}
	if err := p.Data(v, nil); err != nil {
		t.Fatal(err)
	}
	var back any
	if err := yaml.Unmarshal(buf.Bytes(), &back); err != nil {
		t.Fatalf("%v\n%s", err, buf.String())
	}
	viaYAML, err := json.Marshal(back)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(viaYAML, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("JSON and YAML differ:\n%s\n%s", d, buf.String())
	}
	if s := buf.String(); !strings.HasPrefix(s, "rows:\n") || strings.Index(s, "zebra") > strings.Index(s, "alpha") || strings.Contains(s, "{") {
		t.Errorf("not block style in the order of the fields:\n%s", s)
	}
}

func TestTextIsCleanAndInColumns(t *testing.T) {
	var buf bytes.Buffer
	p := Printer{Stdout: &buf}
	err := p.Data(nil, func(pg *Page) {
		pg.Fields([2]string{"Name", "east"}, [2]string{"Reason", ""}, [2]string{"Message lag", "7"})
		pg.Line("red %s", "\x1b[31m\r\nalarm\u202e")
		pg.Table([]string{"TOPIC", "CODE", "LAG"}, [][]string{{"orders", "", "7"}, {"a", "", ""}})
		pg.Table([]string{"NOTHING"}, nil)
		pg.Text("as it is")
	})
	want := "Name:        east\nMessage lag: 7\nred  [31m  alarm \nTOPIC   LAG\norders  7\na       -\nas it is\n"
	if err != nil || buf.String() != want {
		t.Errorf("%v\n%s", err, cmp.Diff(want, buf.String()))
	}
}

func TestEventsAreSeparable(t *testing.T) {
	for format, want := range map[Format]string{
		JSON: `{"a":1}` + "\n" + `{"a":1}` + "\n",
		YAML: "---\na: 1\n---\na: 1\n",
		Text: "[clear]one\n[clear]one\n",
	} {
		var buf bytes.Buffer
		p := Printer{Stdout: &buf, Format: format}
		for range 2 {
			if err := p.Event(map[string]int{"a": 1}, "[clear]", func(pg *Page) { pg.Line("one") }); err != nil {
				t.Fatal(err)
			}
		}
		if buf.String() != want {
			t.Errorf("%s: %q", format, buf.String())
		}
	}
}

func TestErrorsShowTheHintOnce(t *testing.T) {
	e := &dr.Error{Code: dr.CodeRefused, Hint: "add --yes", Err: errors.New("not confirmed")}
	for _, tc := range []struct {
		err    error
		format Format
		want   string
	}{
		{e, Text, "anabranch: not confirmed\nhint: add --yes\n"},
		{fmt.Errorf("resolve: %w", e), Text, "anabranch: resolve: not confirmed\nhint: add --yes\n"},
		{e, JSON, "{\n  \"error\": {\n    \"code\": \"refused\",\n    \"message\": \"not confirmed\",\n    \"hint\": \"add --yes\"\n  }\n}\n"},
		{errors.New("x"), YAML, "error:\n  code: internal\n  message: x\n"},
	} {
		var buf bytes.Buffer
		p := Printer{Stderr: &buf, Format: tc.format}
		p.Error(Describe(tc.err))
		if d := cmp.Diff(tc.want, buf.String()); d != "" {
			t.Errorf("%s:\n%s", tc.format, d)
		}
	}
}

// closedPipe takes nothing.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestOutputThatCannotBeWrittenIsAnError(t *testing.T) {
	p := Printer{Stdout: closedPipe{}, Format: JSON}
	if err := p.Data(1, nil); err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("Data = %v", err)
	}
	if err := p.Event(1, "", nil); err == nil {
		t.Error("Event: no error")
	}
}

func TestNumbersForPeople(t *testing.T) {
	for got, want := range map[string]string{
		Offset(-1): "", Offset(0): "0", Seconds(0.25): "250ms", Seconds(0.00123): "1.2ms", Seconds(0): "0s", Seconds(75.3): "1m15s", Seconds(2.345): "2.35s",
		Rate(0): "0 B/s", Rate(999): "999 B/s", Rate(1234): "1.2 kB/s", Rate(5e6): "5.0 MB/s", Rate(7e12): "7000.0 GB/s",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFormatIsAFlag(t *testing.T) {
	var f Format
	if err := f.Set("yaml"); err != nil || f != YAML || f.String() != "yaml" || f.Type() == "" {
		t.Errorf("Set(yaml): %v, %q", err, f)
	}
	if err := f.Set("xml"); err == nil || f != YAML {
		t.Errorf("Set(xml): %v, %q", err, f)
	}
}
