package offsets

import (
	"testing"

	"pgregory.net/rapid"
)

// TestCuts_NeverBehindACut compares what is kept of many cuts with all of them: who
// knew some, or read up to an epoch, is never sent behind one that came later.
func TestCuts_NeverBehindACut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var all []Cut
		var kept Cuts
		epoch := int32(0)
		for n := range int32(rapid.IntRange(0, 25).Draw(t, "cuts")) {
			epoch += rapid.Int32Range(1, 3).Draw(t, "epochs")
			x := Cut{N: n + 1, At: rapid.Int64Range(0, 1000).Draw(t, "at"), Epoch: epoch}
			before := len(kept)
			next := kept.Add(x.At, x.Epoch)
			if len(kept) != before {
				t.Fatal("what was kept before changed")
			}
			all, kept = append(all, x), next
		}
		if len(kept) > mostCuts || int(kept.Last()) != len(all) {
			t.Fatalf("%d cuts kept up to number %d, of %d", len(kept), kept.Last(), len(all))
		}
		knew, read := rapid.Int32Range(0, 25).Draw(t, "knew"), rapid.Int32Range(0, 75).Draw(t, "read up to")
		for _, x := range all {
			if at, ok := kept.Since(knew); x.N > knew && (!ok || at > x.At) {
				t.Fatalf("who knew %d cuts is sent to %d, %v; cut %+v of %+v", knew, at, ok, x, kept)
			}
			if at, ok := kept.Before(read); x.Epoch > read && (!ok || at > x.At) {
				t.Fatalf("who read up to epoch %d is sent to %d, %v; cut %+v of %+v", read, at, ok, x, kept)
			}
		}
		if at, ok := kept.Since(kept.Last()); ok {
			t.Fatalf("who knows all cuts is sent to %d", at)
		}
		if len(all) <= mostCuts { // nothing was put together: exact
			lowest, some := int64(0), false
			for _, x := range all {
				if x.N > knew && (!some || x.At < lowest) {
					lowest, some = x.At, true
				}
			}
			if at, ok := kept.Since(knew); ok != some || at != lowest {
				t.Fatalf("who knew %d cuts is sent to %d, %v; want %d, %v", knew, at, ok, lowest, some)
			}
		}
	})
}
