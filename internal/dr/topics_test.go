package dr

import (
	"strconv"
	"strings"
	"testing"
)

// TestTopicFilter_PatternsCannotLeaveTheirAnchors has patterns that are right
// only together with what is written around them, and one that is right alone
// but swallows what comes after it.
func TestTopicFilter_PatternsCannotLeaveTheirAnchors(t *testing.T) {
	t.Parallel()
	for _, p := range []string{`a)|(b`, `a)|(?:b`, `a)$|^(b`, `(`, `a\`} {
		_, err := NewTopicFilter([]string{"fine"}, []string{p})
		if err == nil || !strings.HasPrefix(err.Error(), "exclude pattern "+strconv.Quote(p)+": ") {
			t.Errorf("exclude %q: %v, want an error that names it", p, err)
		}
		if _, err := NewTopicFilter([]string{p, "*"}, nil); err == nil || !strings.Contains(err.Error(), "include pattern "+strconv.Quote(p)+": ") ||
			!strings.Contains(err.Error(), `include pattern "*": `) {
			t.Errorf("include %q and %q: %v, want an error that names both", p, "*", err)
		}
	}
	for _, tt := range []struct {
		pattern  string
		yes, not []string
	}{
		{`a|b`, []string{"a", "b"}, []string{"ax", "xb", "xa"}},
		{`\Qa.b`, []string{"a.b"}, []string{"axb", "a.b)$", "xa.b"}},
		{`(?i)a|b`, []string{"A", "B"}, []string{"AB"}},
		{`(?m)^a$`, []string{"a"}, []string{"ab"}},
		{`(?U)a+`, []string{"aaa"}, []string{"aab"}},
		{`a{2,3}?`, []string{"aaa"}, []string{"a", "aaaa"}},
	} {
		f, err := NewTopicFilter([]string{tt.pattern}, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for _, topic := range tt.yes {
			if !f.Match(topic) {
				t.Errorf("%s does not select %s", tt.pattern, topic)
			}
		}
		for _, topic := range tt.not {
			if f.Match(topic) {
				t.Errorf("%s selects %s", tt.pattern, topic)
			}
		}
	}
}
