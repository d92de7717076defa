package pace

import (
	"slices"
	"time"
)

// Unlimited is the limit of a time without one.
const Unlimited int64 = 0

// Schedule is a limit that changes with the time of the day. The zero value never
// limits.
type Schedule struct {
	Default int64 // bytes a second outside all windows; Unlimited: none
	Windows []Window
}

// Window is a part of the day in which another limit holds. Where several contain
// a moment, the first of them counts.
//
// Times are those that a clock on a wall of Zone shows. So a window that begins in
// the hour that is left out in spring begins when that hour is over, and one that
// lies in the hour that is repeated in autumn holds twice.
type Window struct {
	Days  []time.Weekday // on which it begins; empty: every day
	From  time.Duration  // since midnight
	To    time.Duration  // since midnight, not in the window; at or before From: on the next day
	Zone  *time.Location // nil: UTC
	Limit int64          // bytes a second; Unlimited: none
}

// At returns the limit at a moment.
func (s Schedule) At(t time.Time) int64 {
	for _, w := range s.Windows {
		if w.contains(t) {
			return w.Limit
		}
	}
	return s.Default
}

// Limits reports whether there is a limit at any time.
func (s Schedule) Limits() bool {
	return s.Default != Unlimited || slices.ContainsFunc(s.Windows, func(w Window) bool { return w.Limit != Unlimited })
}

func (w Window) contains(t time.Time) bool {
	zone := w.Zone
	if zone == nil {
		zone = time.UTC
	}
	t = t.In(zone)
	hour, minute, second := t.Clock()
	shown := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	today, yesterday := w.on(t.Weekday()), w.on((t.Weekday()+6)%7)
	if w.From < w.To {
		return today && w.From <= shown && shown < w.To
	}
	return today && w.From <= shown || yesterday && shown < w.To
}

func (w Window) on(day time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, day)
}
