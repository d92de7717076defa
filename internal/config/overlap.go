package config

import (
	"encoding/binary"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/anabranch/anabranch/internal/dr"
)

// topicAlphabet is what Kafka allows in a topic name. The order makes the
// witness that is found look like a name that people would choose.
const topicAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789-_.ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// maxOverlapStates bounds the search; patterns that people write need some
// hundred states.
const maxOverlapStates = 20000

// nameSet is a set of topic names: those that match one of include and none of
// exclude.
type nameSet struct {
	include, exclude []string
}

// selected returns the names that the filter of a replicator selects, with the
// rules of dr.TopicFilter.
func selected(t Topics) nameSet {
	s := nameSet{include: t.Include, exclude: slices.Concat(t.Exclude, []string{regexp.QuoteMeta(dr.InternalPrefix) + ".*"})}
	if len(s.include) == 0 {
		s.include = []string{".*"}
		s.exclude = append(s.exclude, "__.*")
	}
	return s
}

// prefixed returns the names of s with a text in front.
func (s nameSet) prefixed(text string) nameSet {
	add := func(patterns []string) []string {
		out := make([]string, len(patterns))
		for i, p := range patterns {
			out[i] = regexp.QuoteMeta(text) + "(?:" + closed(p) + ")"
		}
		return out
	}
	return nameSet{include: add(s.include), exclude: add(s.exclude)}
}

// closed returns the pattern as one that keeps its meaning when other text
// follows: an open "\Q" would take that text for its own. A bad pattern is
// replaced by one that stays bad wherever it is put.
func closed(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return `\C`
	}
	return re.String()
}

// targetNames returns the names that a replicator writes on its target.
func targetNames(r Replicator) nameSet {
	s := selected(r.Topics)
	if r.TopicNames == dr.NamesPrefixed {
		return s.prefixed(r.Source + ".")
	}
	return s
}

// SelectsPrefix reports whether the filter of the replicator may select a topic
// of the source whose name starts with prefix.
func (r Replicator) SelectsPrefix(prefix string) bool {
	within := nameSet{include: []string{regexp.QuoteMeta(prefix) + ".*"}}
	return common(selected(r.Topics), within) != ""
}

// common returns a name that is in every set, "" if there is none. When the
// patterns are too large to tell, it returns "?": callers treat them as
// overlapping, which is the safe side.
func common(sets ...nameSet) string {
	var ms []matcher
	for _, s := range sets {
		in, ex := newMatcher(s.include), newMatcher(s.exclude)
		ex.negate = true
		if in.prog == nil || ex.prog == nil {
			return "" // a bad pattern, which has a problem of its own
		}
		ms = append(ms, in, ex)
	}
	return search(ms)
}

// matcher runs the program of one set of alternatives, all states at once.
type matcher struct {
	prog   *syntax.Prog
	negate bool
}

func newMatcher(patterns []string) matcher {
	text := `[^\x00-\x{10FFFF}]` // matches nothing
	if len(patterns) > 0 {
		alternatives := make([]string, len(patterns))
		for i, p := range patterns {
			alternatives[i] = "^(?:" + closed(p) + ")$"
		}
		text = strings.Join(alternatives, "|")
	}
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return matcher{}
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return matcher{}
	}
	return matcher{prog: prog}
}

// closure follows the instructions that take no character, between the
// characters prev and next (-1: the border of the name).
func (m matcher) closure(pcs []uint32, prev, next rune) []uint32 {
	flags := syntax.EmptyOpContext(prev, next)
	seen := make([]bool, len(m.prog.Inst))
	var out []uint32
	stack := slices.Clone(pcs)
	for len(stack) > 0 {
		pc := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		switch in := m.prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			stack = append(stack, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			stack = append(stack, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^flags == 0 {
				stack = append(stack, in.Out)
			}
		case syntax.InstFail:
		default:
			out = append(out, pc)
		}
	}
	return out
}

func (m matcher) step(pcs []uint32, prev, c rune) []uint32 {
	var out []uint32
	for _, pc := range m.closure(pcs, prev, c) {
		if in := &m.prog.Inst[pc]; in.Op != syntax.InstMatch && in.MatchRune(c) {
			out = append(out, in.Out)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (m matcher) accepts(pcs []uint32, prev rune) bool {
	ok := slices.ContainsFunc(m.closure(pcs, prev, -1), func(pc uint32) bool { return m.prog.Inst[pc].Op == syntax.InstMatch })
	return ok != m.negate
}

// search walks the product of the matchers breadth first, so that the shortest
// common name is found.
func search(ms []matcher) string {
	type state struct {
		pcs  [][]uint32
		name string
	}
	start := state{pcs: make([][]uint32, len(ms))}
	for i, m := range ms {
		start.pcs[i] = []uint32{uint32(m.prog.Start)}
	}
	seen := map[string]bool{}
	for queue := []state{start}; len(queue) > 0; queue = queue[1:] {
		cur := queue[0]
		prev := rune(-1)
		if cur.name != "" {
			prev, _ = utf8.DecodeLastRuneInString(cur.name)
			if all(ms, func(i int, m matcher) bool { return m.accepts(cur.pcs[i], prev) }) {
				return cur.name
			}
		}
		for _, c := range topicAlphabet {
			next := state{pcs: make([][]uint32, len(ms)), name: cur.name + string(c)}
			alive := all(ms, func(i int, m matcher) bool {
				next.pcs[i] = m.step(cur.pcs[i], prev, c)
				return len(next.pcs[i]) > 0 || m.negate
			})
			key := stateKey(next.pcs, c)
			if !alive || seen[key] {
				continue
			}
			if len(seen) >= maxOverlapStates {
				return "?"
			}
			seen[key] = true
			queue = append(queue, next)
		}
	}
	return ""
}

func all(ms []matcher, f func(int, matcher) bool) bool {
	for i, m := range ms {
		if !f(i, m) {
			return false
		}
	}
	return true
}

// stateKey identifies a state of the search: the program counters, and whether
// the last character belongs to a word (which \b asks for).
func stateKey(pcs [][]uint32, last rune) string {
	var b []byte
	for _, list := range pcs {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, pc := range list {
			b = binary.AppendUvarint(b, uint64(pc))
		}
	}
	if syntax.IsWordChar(last) {
		b = append(b, 1)
	}
	return string(b)
}
