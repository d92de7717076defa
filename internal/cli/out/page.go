package out

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// Page is text under construction. The zero value is empty.
type Page struct{ buf bytes.Buffer }

func (p *Page) bytes() []byte { return p.buf.Bytes() }

// Line writes a line. What the arguments bring is cleaned, each as a whole line.
func (p *Page) Line(format string, args ...any) {
	p.buf.WriteString(Clean(fmt.Sprintf(format, args...)))
	p.buf.WriteByte('\n')
}

// Text writes lines as they are, without cleaning: for what the program itself
// wrote over several lines.
func (p *Page) Text(s string) {
	p.buf.WriteString(s)
	if !strings.HasSuffix(s, "\n") {
		p.buf.WriteByte('\n')
	}
}

// Table writes rows under a header, in columns. No cell is cut. A cell that is
// empty becomes a dash; a column without any value is left out, and a table
// without rows too.
func (p *Page) Table(header []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	used := make([]bool, len(header))
	for _, row := range rows {
		for i, cell := range row {
			used[i] = used[i] || cell != ""
		}
	}
	w := tabwriter.NewWriter(&p.buf, 0, 0, 2, ' ', 0)
	line := func(cells []string) {
		var kept []string
		for i, cell := range cells {
			if !used[i] {
				continue
			}
			if cell == "" {
				cell = "-"
			}
			kept = append(kept, Clean(cell))
		}
		_, _ = fmt.Fprintln(w, strings.Join(kept, "\t")) // A bytes.Buffer takes everything.
	}
	line(header)
	for _, row := range rows {
		line(row)
	}
	_ = w.Flush() // A bytes.Buffer takes everything.
}

// Fields writes "name: value" lines with the values in one column. Pairs without
// a value are left out.
func (p *Page) Fields(pairs ...[2]string) {
	width := 0
	for _, pair := range pairs {
		if pair[1] != "" {
			width = max(width, len(pair[0]))
		}
	}
	for _, pair := range pairs {
		if pair[1] != "" {
			p.Line("%-*s %s", width+1, pair[0]+":", pair[1])
		}
	}
}

// Clean replaces what could control a terminal or break a line by a space.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, s)
}

// Offset is an offset, or "" for one that is not known.
func Offset(n int64) string {
	if n < 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// Seconds is a duration in seconds for people, with three digits.
func Seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= time.Minute:
		d = d.Round(time.Second)
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	default:
		d = d.Round(100 * time.Microsecond)
	}
	return d.String()
}

// Rate is a number of bytes per second for people, in decimal units.
func Rate(perSecond float64) string {
	units := []string{"B/s", "kB/s", "MB/s", "GB/s"}
	i := 0
	for ; perSecond >= 1000 && i < len(units)-1; i++ {
		perSecond /= 1000
	}
	if i == 0 {
		return fmt.Sprintf("%.0f %s", perSecond, units[i])
	}
	return fmt.Sprintf("%.1f %s", perSecond, units[i])
}

// String returns the text.
func (p *Page) String() string { return p.buf.String() }

// Lines returns the text by lines.
func (p *Page) Lines() []string {
	return strings.Split(strings.TrimSuffix(p.buf.String(), "\n"), "\n")
}
