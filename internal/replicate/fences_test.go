package replicate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewestFences_OfTwoClusters(t *testing.T) {
	t.Parallel()
	held := func(rev int64) FenceRecord {
		return FenceRecord{ID: "hold-p", Holds: []string{"p-to-a", "p-to-b"}, Revision: rev}
	}
	free := func(rev int64) FenceRecord { return FenceRecord{ID: "hold-p", Revision: rev} }
	one, two := FenceRecord{ID: "one", ClusterID: "a"}, FenceRecord{ID: "two", ClusterID: "b"}
	for name, c := range map[string]struct{ list, want []FenceRecord }{
		"both hold":                        {[]FenceRecord{held(5), held(5)}, []FenceRecord{held(5)}},
		"one was away when it was held":    {[]FenceRecord{free(4), held(5)}, []FenceRecord{held(5)}},
		"one was away when it was freed":   {[]FenceRecord{held(5), free(6)}, []FenceRecord{free(6)}},
		"and in the other order":           {[]FenceRecord{free(6), held(5)}, []FenceRecord{free(6)}},
		"equal ones that say two things":   {[]FenceRecord{held(5), free(5)}, []FenceRecord{free(5)}},
		"one cluster alone":                {[]FenceRecord{held(5)}, []FenceRecord{held(5)}},
		"fences without revisions all are": {[]FenceRecord{one, two, held(1), free(2)}, []FenceRecord{one, two, free(2)}},
	} {
		if d := cmp.Diff(c.want, newestFences(c.list)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
