package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// presence is what a cluster says of a topic id that its listing lacks.
type presence int

const (
	presenceOpen   presence = iota // not known yet, or the brokers do not agree
	presenceGone                   // every broker answered that it does not know the id
	presenceDenied                 // the principal may not describe the topic, so it exists
)

// absence finds out why topics are missing in the listing of a cluster. A
// listing leaves out what the principal may not describe, and one broker may
// lag behind the others, so a topic counts as deleted only when every broker
// says that its id is unknown (KafkaApis.handleTopicMetadataRequest tells the
// two apart for look-ups by id).
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

// lookUp asks every broker about topic ids, 500 at a time.
func (a *absence) lookUp(ctx context.Context, ids [][16]byte) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m := kmsg.NewPtrMetadataRequest()
	m.Topics = []kmsg.MetadataRequestTopic{} // brokers only
	resp, err := m.RequestWith(ctx, a.cl)
	if err != nil || len(resp.Brokers) == 0 {
		return
	}
	for len(ids) > 0 {
		n := min(500, len(ids))
		unknown, found := map[[16]byte]int{}, map[[16]byte]presence{}
		for _, b := range resp.Brokers {
			for id, code := range a.askBroker(ctx, b.NodeID, ids[:n]) {
				switch code {
				case kerr.UnknownTopicID.Code:
					unknown[id]++
				case kerr.TopicAuthorizationFailed.Code:
					found[id] = presenceDenied
				}
			}
		}
		a.mu.Lock()
		for _, id := range ids[:n] {
			v := a.mu.ids[id]
			switch {
			case v == nil:
			case unknown[id] == len(resp.Brokers):
				v.is = presenceGone
			default:
				v.is = found[id]
			}
		}
		a.mu.Unlock()
		ids = ids[n:]
	}
}

// askBroker returns the error code of each topic id as one broker sees it,
// nothing when it does not answer.
func (a *absence) askBroker(ctx context.Context, node int32, ids [][16]byte) map[[16]byte]int16 {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, id := range ids {
		t := kmsg.NewMetadataRequestTopic()
		t.TopicID = id
		req.Topics = append(req.Topics, t)
	}
	kresp, err := a.cl.Broker(int(node)).Request(ctx, req)
	if err != nil {
		return nil
	}
	resp, ok := kresp.(*kmsg.MetadataResponse)
	if !ok || resp.Version < 12 { // before, topics can't be asked for by id
		return nil
	}
	out := make(map[[16]byte]int16, len(resp.Topics))
	for _, t := range resp.Topics {
		out[t.TopicID] = t.ErrorCode
	}
	return out
}

// settle waits until something is known of a topic id, or until limit.
func (a *absence) settle(ctx context.Context, id [16]byte, limit time.Time) presence {
	for a.of(id) == presenceOpen && time.Now().Before(limit) && sleep(ctx, 50*time.Millisecond) == nil {
	}
	return a.of(id)
}
