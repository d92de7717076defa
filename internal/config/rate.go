package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"
	_ "time/tzdata" // the zones of schedules, where the system has no files of them

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v4"

	"github.com/anabranch/anabranch/internal/pace"
)

// leastRate is the lowest limit, in bytes a second: below it not even one batch a
// day would go.
const leastRate = 1 << 10

// Rate is a number of bytes a second, written like a size; 0 is unlimited.
type Rate int64

const unlimited = "unlimited"

// String returns the form of the file.
func (r Rate) String() string {
	if r == 0 {
		return unlimited
	}
	return Size(r).String()
}

// MarshalText returns the form of the file.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// JSONSchema describes the form of the file.
func (Rate) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^(unlimited|[0-9]+ ?(B|kB|MB|GB|KiB|MiB|GiB)?)$`}
}

func parseRate(s string) (Rate, error) {
	if s == unlimited {
		return 0, nil
	}
	n, err := ParseSize(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a rate (write for example 50MiB, for bytes a second, or unlimited)", s)
	case n < leastRate:
		return 0, errors.New("must be at least 1KiB (a second) or unlimited")
	}
	return Rate(n), nil
}

// RateLimit is how much a replicator may write. In the file it is a rate, or a
// mapping with a schedule.
type RateLimit struct {
	Default  Rate         `json:"default,omitzero" jsonschema:"default=unlimited" jsonschema_description:"Bytes a second outside the windows of schedule."`
	Schedule []RateWindow `json:"schedule,omitempty" jsonschema_description:"Times of the day with another limit; the first that fits counts."`
}

// RateWindow is a time of the day with another limit.
type RateWindow struct {
	Days  []string `json:"days,omitempty" jsonschema_description:"Days on which it begins: mon, tue, wed, thu, fri, sat, sun. Default: every day."`
	From  string   `json:"from,omitempty" jsonschema:"default=00:00" jsonschema_description:"When it begins, hh:mm."`
	To    string   `json:"to,omitempty" jsonschema:"default=24:00" jsonschema_description:"When it ends, hh:mm; before from: on the next day."`
	Zone  string   `json:"zone,omitempty" jsonschema:"default=UTC" jsonschema_description:"Time zone, for example Europe/Berlin."`
	Limit *Rate    `json:"limit,omitempty" jsonschema_description:"Bytes a second, or unlimited."`
}

// JSONSchemaExtend adds the short form.
func (RateLimit) JSONSchemaExtend(s *jsonschema.Schema) {
	long := *s
	*s = jsonschema.Schema{OneOf: []*jsonschema.Schema{Rate(0).JSONSchema(), &long}}
}

var (
	rateType      = reflect.TypeFor[Rate]()
	rateLimitType = reflect.TypeFor[RateLimit]()
)

// rateLimit decodes either form.
func (l *loader) rateLimit(n *yaml.Node, line int, path string, v reflect.Value) {
	if n.Kind == yaml.ScalarNode {
		l.scalar(n, line, path, v.FieldByName("Default"), "")
		return
	}
	l.structure(n, line, path, v)
}

// weekdays are the names of days, in the order of time.Weekday.
func weekdays() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// rates checks a limit with its windows.
func (l *loader) rates(path string, r RateLimit) {
	for i, w := range r.Schedule {
		at := fmt.Sprintf("%s.schedule[%d]", path, i)
		l.required(at+".limit", w.Limit == nil && !l.blamed(at), ": bytes a second, or unlimited")
		for j, d := range w.Days {
			l.oneOf(fmt.Sprintf("%s.days[%d]", at, j), d, weekdays()...)
		}
		from, okFrom := l.clock(at+".from", w.From, 0)
		to, okTo := l.clock(at+".to", w.To, 24*time.Hour)
		if okFrom && okTo && (from == to || from == 24*time.Hour) {
			l.add(at, "begins at %02d:%02d, and ends as it begins", int(from.Hours()), int(from.Minutes())%60)
		}
		if _, err := time.LoadLocation(w.Zone); (err != nil || w.Zone == "Local") && !l.blamed(at+".zone") {
			l.add(at+".zone", "%q is no time zone (write for example Europe/Berlin or UTC)", w.Zone)
		}
	}
}

func (l *loader) clock(path, text string, otherwise time.Duration) (time.Duration, bool) {
	if l.blamed(path) {
		return 0, false
	}
	d, ok := clockOf(text, otherwise)
	if !ok {
		l.add(path, "%q is no time of the day (write hh:mm, 00:00 to 24:00)", text)
	}
	return d, ok
}

// clockOf returns the time since midnight that a clock shows.
func clockOf(text string, otherwise time.Duration) (time.Duration, bool) {
	switch text {
	case "":
		return otherwise, true
	case "24:00":
		return 24 * time.Hour, true
	}
	t, err := time.Parse("15:04", text)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err == nil && len(text) == len("15:04")
}

// Pace returns the limit as a schedule. The file was validated when it was loaded;
// what is wrong all the same is an error.
func (r RateLimit) Pace() (pace.Schedule, error) {
	s := pace.Schedule{Default: int64(r.Default)}
	for _, w := range r.Schedule {
		from, okFrom := clockOf(w.From, 0)
		to, okTo := clockOf(w.To, 24*time.Hour)
		zone, err := time.LoadLocation(w.Zone)
		if err != nil || !okFrom || !okTo || w.Limit == nil {
			return pace.Schedule{}, fmt.Errorf("rate_limit: the window from %q to %q in zone %q is not valid", w.From, w.To, w.Zone)
		}
		p := pace.Window{From: from, To: to, Zone: zone, Limit: int64(*w.Limit)}
		for _, d := range w.Days {
			day := slices.Index(weekdays(), d)
			if day < 0 {
				return pace.Schedule{}, fmt.Errorf("rate_limit: %q is no day of the week", d)
			}
			p.Days = append(p.Days, time.Weekday(day))
		}
		s.Windows = append(s.Windows, p)
	}
	return s, nil
}
