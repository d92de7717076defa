package pace

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestSchedule_ByTheClockOnTheWall(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	work := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	office := Window{Days: work, From: 8 * time.Hour, To: 18 * time.Hour, Zone: berlin, Limit: 10}
	night := Window{Days: []time.Weekday{time.Friday}, From: 22 * time.Hour, To: 6 * time.Hour, Zone: berlin, Limit: 20}
	small := Window{From: 2*time.Hour + 30*time.Minute, To: 3*time.Hour + 30*time.Minute, Zone: berlin, Limit: 30}
	all := Window{Days: []time.Weekday{time.Sunday}, Limit: 40} // midnight to midnight, of UTC
	for name, c := range map[string]struct {
		w    Window
		at   string
		want int64
	}{
		"before it begins":            {office, "2026-03-02T06:59:59Z", 1},
		"as it begins":                {office, "2026-03-02T07:00:00Z", 10},
		"its last second":             {office, "2026-03-02T16:59:59Z", 10},
		"as it ends":                  {office, "2026-03-02T17:00:00Z", 1},
		"in summer":                   {office, "2026-07-06T06:00:00Z", 10},
		"another day":                 {office, "2026-03-01T09:00:00Z", 1},
		"over midnight":               {night, "2026-03-06T23:30:00Z", 20},
		"its morning":                 {night, "2026-03-07T04:59:59Z", 20},
		"its end":                     {night, "2026-03-07T05:00:00Z", 1},
		"the evening after":           {night, "2026-03-07T22:00:00Z", 1},
		"the morning of its day":      {night, "2026-03-06T04:00:00Z", 1},
		"before the hour left out":    {small, "2026-03-29T00:59:59Z", 1},
		"begins behind the left out":  {small, "2026-03-29T01:00:00Z", 30}, // 3:00 in summer time
		"ends by the wall":            {small, "2026-03-29T01:30:00Z", 1},
		"the repeated hour":           {small, "2026-10-25T00:30:00Z", 30}, // 2:30 the first time
		"between, the wall goes back": {small, "2026-10-25T01:10:00Z", 1},  // 2:10 the second time
		"the repeated hour again":     {small, "2026-10-25T01:30:00Z", 30}, // 2:30 the second time
		"its end in autumn":           {small, "2026-10-25T02:30:00Z", 1},
		"the whole day":               {all, "2026-03-01T00:00:00Z", 40},
		"the whole day's end":         {all, "2026-03-01T23:59:59Z", 40},
		"the day after":               {all, "2026-03-02T00:00:00Z", 1},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := (Schedule{Default: 1, Windows: []Window{c.w}}).At(at); got != c.want {
			t.Errorf("%s: %d at %s, want %d", name, got, c.at, c.want)
		}
	}
	if got := (Schedule{Windows: []Window{{Limit: 1}, {Limit: 2}}}).At(time.Now()); got != 1 {
		t.Errorf("the first window gives way to the second: %d", got)
	}
}

// TestBucket_HoldsTheLimit: who moves only while there is room, and always has
// something to move, moves what the limit allows: no more than what can be saved
// up and the last batch above it, and no less but for what is saved up.
func TestBucket_HoldsTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Int64Range(1<<10, 1<<32).Draw(rt, "limit")
		batch := rapid.Int64Range(1, 4<<20).Draw(rt, "batch")
		share := rapid.SampledFrom([]float64{1, 0.5, 1.0 / 16}).Draw(rt, "share")
		b := NewBucket(Schedule{Default: limit})
		rng := rand.New(rand.NewPCG(1, uint64(limit)))
		begin := time.Unix(1e9, 0)
		b.Share(begin, share)
		b.Room(begin)
		now, total := begin, int64(0)
		for range 3000 {
			room := b.Room(now)
			if least := room.In(50 * time.Millisecond); room.Bytes < least {
				now = now.Add(room.Until(least) + time.Duration(rng.Int64N(int64(time.Millisecond))))
				continue
			}
			n := 1 + rng.Int64N(room.Bytes+batch)
			b.Take(n + 100)
			b.Take(-100)
			total += n
		}
		rate, span := float64(limit)*share, now.Sub(begin).Seconds()
		if most := rate*(span+burst.Seconds()) + float64(batch); float64(total) > most {
			rt.Fatalf("%d bytes in %v s, at most %v are allowed", total, span, most)
		}
		if least := rate*(span-burst.Seconds()) - 1; float64(total) < least {
			rt.Fatalf("only %d bytes in %v s, %v are allowed", total, span, least)
		}
	})
}

func TestBucket_FollowsTheSchedule(t *testing.T) {
	t.Parallel()
	b := NewBucket(Schedule{Windows: []Window{{From: 8 * time.Hour, To: 9 * time.Hour, Limit: 1000}, {From: 9 * time.Hour, To: 10 * time.Hour, Limit: 4000}}})
	at := func(clock time.Duration) time.Time {
		return time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC).Add(clock)
	}
	if r := b.Room(at(7 * time.Hour)); r.Limited || r.Bytes < 1<<40 {
		t.Errorf("a limit outside all windows: %+v", r)
	}
	b.Take(1 << 40) // is no debt of the window that follows
	if r := b.Room(at(8 * time.Hour)); r != (Room{Limited: true, Rate: 1000}) {
		t.Errorf("as the window begins: %+v", r)
	}
	b.Take(3000)
	if r := b.Room(at(8*time.Hour + time.Second)); r.Bytes != -2000 || r.Until(0) != time.Second {
		t.Errorf("in debt: %+v, wait %v", r, r.Until(0))
	}
	if r := b.Room(at(8*time.Hour + 10*time.Second)); r.Bytes != 400 || r.In(time.Second) != 1000 || r.Until(500) != 100*time.Millisecond {
		t.Errorf("what is saved up: %+v", r)
	}
	b.Share(at(8*time.Hour+10*time.Second), 0.5)
	if r := b.Room(at(8*time.Hour + 10*time.Second)); r.Bytes != 200 || r.Rate != 500 {
		t.Errorf("with half of it: %+v", r)
	}
	b.Share(at(8*time.Hour+10*time.Second), 0)
	if r := b.Room(at(8*time.Hour + 20*time.Second)); r.Bytes > 0 || r.Until(1) != time.Second {
		t.Errorf("without any of it: %+v", r)
	}
	b.Share(at(8*time.Hour+20*time.Second), 1)
	if r := b.Room(at(9*time.Hour + time.Minute)); r.Rate != 4000 || r.Bytes != 1600 || b.Limit(at(9*time.Hour)) != 4000 {
		t.Errorf("in the next window: %+v", r)
	}
	if b := NewBucket(Schedule{Windows: []Window{{Limit: Unlimited}}}); b != nil {
		t.Errorf("a bucket for no limit: %v", b)
	}
}
