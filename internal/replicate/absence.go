package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kclient"
)

// presence is what a cluster says of a topic id that its listing lacks.
type presence = kclient.Presence

const (
	presenceOpen   = kclient.TopicOpen // or not known yet
	presenceGone   = kclient.TopicGone
	presenceDenied = kclient.TopicDenied
)

// absence finds out why topics are missing in the listing of a cluster, see
// kclient.LookUpTopics.
type absence struct {
	cl *kgo.Client
	mu struct {
		sync.Mutex
		ids map[[16]byte]*absent
	}
}

type absent struct {
	is      presence
	askedAt time.Time // somebody wanted to know
}

// Times of absence.
const (
	absenceEvery = 500 * time.Millisecond
	absenceLife  = 30 * time.Second // without anybody who wants to know

	absenceTimeout = 10 * time.Second // of one look at all brokers
)

func newAbsence(cl *kgo.Client) *absence {
	a := &absence{cl: cl}
	a.mu.ids = map[[16]byte]*absent{}
	return a
}

// of returns what is known of a topic id, and has it looked up again and again
// while it is asked for. It never blocks.
func (a *absence) of(id [16]byte) presence {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.mu.ids[id]
	if v == nil {
		v = &absent{}
		a.mu.ids[id] = v
	}
	v.askedAt = time.Now()
	return v.is
}

// run looks up what is asked for until ctx ends.
func (a *absence) run(ctx context.Context) error {
	for sleep(ctx, absenceEvery) == nil {
		if ids := a.due(); len(ids) > 0 {
			a.lookUp(ctx, ids)
		}
	}
	return nil
}

func (a *absence) due() (ids [][16]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, v := range a.mu.ids {
		switch {
		case time.Since(v.askedAt) > absenceLife:
			delete(a.mu.ids, id)
		case v.is != presenceGone: // ids never come back
			ids = append(ids, id)
		}
	}
	return ids
}

// lookUp asks every broker about topic ids.
func (a *absence) lookUp(ctx context.Context, ids [][16]byte) {
	ctx, cancel := context.WithTimeout(ctx, absenceTimeout)
	defer cancel()
	_, brokers, err := kclient.Brokers(ctx, a.cl)
	if err != nil || len(brokers) == 0 {
		return // they stay as they are, and are asked for again
	}
	found := kclient.LookUpTopics(ctx, a.cl, brokers, ids, absenceTimeout)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if v := a.mu.ids[id]; v != nil {
			v.is = found[id]
		}
	}
}

// settle waits until something is known of a topic id, or until limit.
func (a *absence) settle(ctx context.Context, id [16]byte, limit time.Time) presence {
	for a.of(id) == presenceOpen && time.Now().Before(limit) && sleep(ctx, 50*time.Millisecond) == nil {
	}
	return a.of(id)
}
