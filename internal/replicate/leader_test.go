package replicate

import (
	"testing"
	"time"
)

// TestClusterMeta_NeverGoesBackToAnOlderLeaderEpoch: a broker that was cut off
// still names itself as the leader. Only a topic that was made anew, or a cluster
// that was restored, has older epochs.
func TestClusterMeta_NeverGoesBackToAnOlderLeaderEpoch(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	one, other := [16]byte{1}, [16]byte{2}
	with := func(id [16]byte, leader, epoch int32) *clusterMeta {
		t := &topicMeta{name: "t", id: id, partitions: []partMeta{{leader: leader, leaderEpoch: epoch}}}
		return &clusterMeta{byName: map[string]*topicMeta{"t": t}, byID: map[[16]byte]*topicMeta{id: t}}
	}
	for name, c := range map[string]struct {
		old, now *clusterMeta
		after    time.Duration
		want     int32 // leader
	}{
		"the first snapshot":        {nil, with(one, 1, 5), 0, 1},
		"a newer epoch":             {with(one, 1, 5), with(one, 2, 6), time.Second, 2},
		"the same epoch":            {with(one, 1, 5), with(one, 1, 5), time.Second, 1},
		"the leader is gone":        {with(one, 1, 5), with(one, -1, 6), time.Second, -1},
		"an older epoch":            {with(one, 2, 6), with(one, 1, 5), time.Second, 2},
		"an older epoch for long":   {with(one, 2, 6), with(one, 1, 5), epochPatience, 1},
		"another topic of the name": {with(one, 2, 6), with(other, 1, 0), time.Second, 1},
		"epochs are not told":       {with(one, 2, 6), with(one, 1, -1), time.Second, 1},
	} {
		if c.old != nil {
			c.old.keepNewest(nil, now)
		}
		c.now.keepNewest(c.old, now.Add(c.after))
		p := c.now.byName["t"].partitions[0]
		if p.leader != c.want {
			t.Errorf("%s: leader %d, want %d", name, p.leader, c.want)
		}
	}
	// An older epoch does not count as seen again: patience ends.
	m := with(one, 2, 6)
	m.keepNewest(nil, now)
	for i := range 6 {
		next := with(one, 1, 5)
		next.keepNewest(m, now.Add(time.Duration(i)*time.Minute))
		m = next
	}
	if p := m.byName["t"].partitions[0]; p.leader != 1 {
		t.Errorf("after 5 minutes of older epochs the leader is %d", p.leader)
	}
}

// TestFetcher_AsksNobodyWhoIsOlderThanWhatWasRead: a broker that names itself as
// the leader of an epoch before the one of the last batch is cut off. For ever
// it is not distrusted: a restored cluster begins with an older epoch.
func TestFetcher_AsksNobodyWhoIsOlderThanWhatWasRead(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := &fetchPart{epoch: 5}
	for i, c := range []struct {
		after time.Duration
		epoch int32 // of the metadata
		want  bool
	}{
		{0, 5, false},
		{time.Second, 4, true},
		{time.Minute, 4, true},
		{2 * time.Minute, 6, false},
		{3 * time.Minute, 4, true},
		{3*time.Minute + epochPatience - 1, 4, true},
		{3*time.Minute + epochPatience, 4, false},
		{4*time.Minute + epochPatience, -1, false},
	} {
		if got := p.outdated(partMeta{leaderEpoch: c.epoch}, now.Add(c.after)); got != c.want {
			t.Errorf("step %d: leader epoch %d after %v: outdated is %v", i, c.epoch, c.after, got)
		}
	}
	if p := (&fetchPart{epoch: -1, known: 5}); !p.outdated(partMeta{leaderEpoch: 4}, now) || p.outdated(partMeta{leaderEpoch: 5}, now) {
		t.Error("what an owner before has read does not count")
	}
}
