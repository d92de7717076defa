package dr

import "testing"

func TestGroupFilter_LeavesInternalGroupsOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		include, exclude []string
		yes, not         []string
	}{
		{nil, nil, []string{"msk-consumer", "", "a/b c", "connect-sink"}, []string{"__internal", "anabranch-east-west"}},
		{nil, []string{"connect-.*"}, []string{"msk-consumer"}, []string{"connect-sink", "__internal"}},
		{[]string{".*"}, nil, []string{"msk-consumer", "__internal"}, []string{"anabranch-east-west"}},
		{[]string{"anabranch-.*", "msk-.*"}, []string{"msk-x"}, []string{"msk-consumer"}, []string{"anabranch-east-west", "msk-x", "my-msk-y"}},
	} {
		f, err := NewGroupFilter(tt.include, tt.exclude)
		if err != nil {
			t.Errorf("%v %v: %v", tt.include, tt.exclude, err)
			continue
		}
		for _, g := range tt.yes {
			if !f.Match(g) {
				t.Errorf("%v without %v does not select %q", tt.include, tt.exclude, g)
			}
		}
		for _, g := range tt.not {
			if f.Match(g) {
				t.Errorf("%v without %v selects %q", tt.include, tt.exclude, g)
			}
		}
	}
	if _, err := NewGroupFilter([]string{"a)|(b"}, nil); err == nil {
		t.Error("a pattern that leaves its anchors is accepted")
	}
	if !(GroupFilter{}).Match("msk-consumer") || (GroupFilter{}).Match("__x") {
		t.Error("the zero value is not the default")
	}
}
