package dr

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTailReport_Shortened keeps the partitions with the most records, in order,
// and says how many are left out.
func TestTailReport_Shortened(t *testing.T) {
	t.Parallel()
	list := []TailPartition{{Topic: "a", Records: 1}, {Topic: "a", Partition: 1, Records: 5}, {Topic: "b", Records: 9}, {Topic: "c", Records: 1}}
	whole := TailReport{Records: 16, Partitions: 4, List: list}
	if d := cmp.Diff(whole, whole.Shortened(4)); d != "" {
		t.Errorf("a list that is short enough (-want +got):\n%s", d)
	}
	want := TailReport{Records: 16, Partitions: 4, List: []TailPartition{list[1], list[2]}, Unlisted: 2}
	if d := cmp.Diff(want, whole.Shortened(2)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if whole.List[0].Topic != "a" || len(whole.List) != 4 {
		t.Error("the report itself was changed")
	}
}
