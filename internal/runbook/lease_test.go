package runbook

import (
	"context"
	"errors"
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
)

// A holder that was silent for long finds its lock gone: another had it, did its
// work and gave it back. It writes nothing more.
func TestLease_AReturnedLockIsNotOurs(t *testing.T) {
	t.Parallel()
	home := Side{Cluster: dr.ClusterRef{ID: "id-e", Name: "e"}, Store: &MemoryStore{}}
	j := NewJournal(JournalOptions{Pair: "p", Sides: [2]Side{home, {}}})
	silent := &Lease{j: j, home: home, token: "silent", locked: true}
	var err error
	if silent.writer, err = home.Store.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Hold(t.Context(), home.Cluster, dr.Holder{Who: "bob@host"}, func(ctx context.Context, l *Lease) error {
		return l.write(ctx, Record{"c/run/p/r/000001", []byte("bob")})
	}); err != nil {
		t.Fatal(err)
	}
	if err := silent.put(t.Context(), Record{"c/run/p/r/000001", []byte("silent")}); !errors.Is(err, ErrOvertaken) {
		t.Errorf("written under a lock that was given back: %v", err)
	}
}
