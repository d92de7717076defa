package demo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/obs"
)

// buffer keeps what the tour says; onStep may interfere when a text appears.
type buffer struct {
	strings.Builder
	text   string
	onText func()
}

func (b *buffer) Write(p []byte) (int, error) {
	if b.onText != nil && strings.Contains(string(p), b.text) {
		b.onText()
		b.onText = nil
	}
	return b.Builder.Write(p)
}

func TestRun_EveryClaimHolds(t *testing.T) {
	t.Parallel()
	var out buffer
	began := time.Now()
	if err := Run(t.Context(), Options{Exit: true, Build: obs.Build{Version: "test"}, Stdout: &out}); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{
		"primary    127.0.0.1:", "secondary  127.0.0.1:", "5 messages on the primary, each exactly once", "msk-consumer reads nothing", "All 13 claims",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tour does not say %q:\n%s", want, &out)
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestTour_ASpuriousMessageIsFound(t *testing.T) {
	t.Parallel()
	primary, secondary := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	strayed := false
	out := buffer{text: "What was written on the secondary", onText: func() { // a stray copy, as a replicator that loops would make it
		cl, err := kgo.NewClient(kgo.SeedBrokers(primary...))
		if err != nil {
			t.Error(err)
			return
		}
		defer cl.Close()
		if err := cl.ProduceSync(context.Background(), &kgo.Record{Topic: topic, Key: []byte("customer-one"), Value: []byte("stray")}).FirstErr(); err != nil {
			t.Error(err)
		}
		strayed = true
		time.AfterFunc(3*time.Second, cancel) // the tour would wait for longer that it goes away
	}}
	err := Tour(ctx, TourOptions{Options: Options{Exit: true, Stdout: &out}, Primary: primary, Secondary: secondary})
	if err == nil || !strayed || strings.Contains(out.String(), "on the primary: who reads there misses nothing") {
		t.Fatalf("a claim that does not hold was not found: %v\n%s", err, &out)
	}
}

func TestTour_StaysUpUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	primary, secondary := pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	out := buffer{text: "stays up until", onText: func() { cancel(errors.New("enough")) }}
	if err := Tour(ctx, TourOptions{Options: Options{Stdout: &out}, Primary: primary, Secondary: secondary}); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "anabranch replicator list --server http://127.0.0.1:") {
		t.Errorf("the invitation is missing:\n%s", &out)
	}
}

func TestSame_NamesEveryDifference(t *testing.T) {
	t.Parallel()
	one, two := message{key: "one", value: "1", offset: 3}, message{key: "two", value: "2"}
	moved := one
	moved.offset = 9
	if err := same([]message{one, two}, []message{two, moved}); err != nil {
		t.Errorf("only offsets differ: %v", err)
	}
	for want, got := range map[string][]message{
		"two is missing":     {one},
		"one is there twice": {one, one, two},
		"was changed":        {one, {key: "two", value: "3"}},
	} {
		if err := same([]message{one, two}, got); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func pair(t *testing.T) (primary, secondary []string) {
	t.Helper()
	var addrs [2][]string
	for i, id := range []string{"one", "two"} {
		c, err := embedded(id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		addrs[i] = c.ListenAddrs()
	}
	return addrs[0], addrs[1]
}
