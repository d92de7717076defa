// Package out writes what commands have to say. It owns the formats (text, JSON,
// YAML) and which stream takes what: data goes to standard output, notes for
// people and errors go to standard error.
//
// It promises that JSON and YAML have the same keys in the same order, because
// both come from the JSON form of one value, and that text from elsewhere cannot
// send control sequences to a terminal.
//
// It never decides what is said. A Printer belongs to one goroutine.
package out

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/anabranch/anabranch/internal/dr"
)

// Format is how data is written.
type Format string

// The formats.
const (
	Text Format = "text"
	JSON Format = "json"
	YAML Format = "yaml"
)

// String, Set and Type make a Format the value of a flag.
func (f *Format) String() string { return string(*f) }

// Set takes the name of a format.
func (f *Format) Set(name string) error {
	switch Format(name) {
	case Text, JSON, YAML:
		*f = Format(name)
		return nil
	default:
		return errors.New("want text, json or yaml")
	}
}

// Type is shown in the help.
func (f *Format) Type() string { return "format" }

// Printer writes in one format.
type Printer struct {
	Stdout, Stderr io.Writer
	Format         Format // empty means Text

	said bool
}

// Said reports whether data was written.
func (p *Printer) Said() bool { return p.said }

// Data writes v: as JSON or YAML, or by text in the text format. It returns the
// error of standard output, which may be a closed pipe.
func (p *Printer) Data(v any, text func(*Page)) error {
	body, err := p.render(v, text)
	if err != nil {
		return err
	}
	return p.write(body)
}

// Event writes v as one of a series: JSON on one line, YAML as one document. A
// text is preceded by wipe, which may wipe a terminal.
func (p *Printer) Event(v any, wipe string, text func(*Page)) error {
	var body []byte
	var err error
	switch p.Format {
	case JSON:
		if body, err = json.Marshal(v); err == nil {
			body = append(body, '\n')
		}
	case YAML:
		body, err = p.render(v, text)
		body = append([]byte("---\n"), body...)
	default:
		body, err = p.render(v, text)
		body = append([]byte(wipe), body...)
	}
	if err != nil {
		return err
	}
	return p.write(body)
}

func (p *Printer) write(body []byte) error {
	p.said = true
	if _, err := p.Stdout.Write(body); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

func (p *Printer) render(v any, text func(*Page)) ([]byte, error) {
	switch p.Format {
	case JSON:
		return marshalJSON(v)
	case YAML:
		return marshalYAML(v)
	default:
		var page Page
		text(&page)
		return page.bytes(), nil
	}
}

// Note writes a line for people to standard error.
func (p *Printer) Note(format string, args ...any) {
	_, _ = fmt.Fprintln(p.Stderr, Clean(fmt.Sprintf(format, args...))) // Nobody is left to tell.
}

// Raw writes text for people to standard error as it is, as for a question.
func (p *Printer) Raw(text string) {
	_, _ = io.WriteString(p.Stderr, text) // Nobody is left to tell.
}

// Failure is the machine-readable form of an error.
type Failure struct {
	Error FailureDetail `json:"error"`
}

// FailureDetail says what went wrong, and of moves where.
type FailureDetail struct {
	Code    dr.Code `json:"code"`
	Message string  `json:"message"`
	Hint    string  `json:"hint,omitempty"`

	Pair     string      `json:"pair,omitempty"`      // that was to be moved
	Run      string      `json:"run,omitempty"`       // the run that it is about, or that stands in the way
	RunState dr.RunState `json:"run_state,omitempty"` // of that run, where it is known
	Holder   *dr.Holder  `json:"holder,omitempty"`    // the process that stands in the way
}

// Describe returns the parts of err. The hint of a dr.Error that is wrapped ends
// the message: it is taken from there, to be shown once.
func Describe(err error) FailureDetail {
	d := FailureDetail{Code: dr.CodeOf(err), Message: err.Error()}
	if e, ok := errors.AsType[*dr.Error](err); ok && e.Hint != "" {
		if rest, found := strings.CutSuffix(d.Message, " ("+e.Hint+")"); found {
			d.Message, d.Hint = rest, e.Hint
		}
	}
	return d
}

// Error writes an error to standard error, in the printer's format.
func (p *Printer) Error(d FailureDetail) {
	var body []byte
	var err error
	switch p.Format {
	case JSON:
		body, err = marshalJSON(Failure{Error: d})
	case YAML:
		body, err = marshalYAML(Failure{Error: d})
	default:
		body = []byte("anabranch: " + Clean(d.Message) + "\n")
		if d.Hint != "" {
			body = append(body, "hint: "+Clean(d.Hint)+"\n"...)
		}
	}
	if err == nil {
		_, _ = p.Stderr.Write(body) // Nobody is left to tell.
	}
}

func marshalJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return buf.Bytes(), nil
}

// marshalYAML goes by way of JSON, which YAML contains: the keys stay as the JSON
// tags name them, in the same order.
func marshalYAML(v any) ([]byte, error) {
	raw, err := marshalJSON(v)
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return nil, fmt.Errorf("convert JSON to YAML: %w", err)
	}
	block(&node)
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	return buf.Bytes(), nil
}

// block drops JSON's style. Empty lists and maps keep it: block style has none.
func block(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode || len(n.Content) > 0 {
		n.Style = 0
	}
	for _, c := range n.Content {
		block(c)
	}
}
