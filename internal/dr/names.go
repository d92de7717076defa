package dr

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// nameFilter selects names by RE2 patterns that must match the whole name. The
// zero value selects every name that is not internal.
type nameFilter struct {
	include, exclude []*regexp.Regexp
}

// newNameFilter compiles the patterns and reports every bad one.
func newNameFilter(include, exclude []string) (nameFilter, error) {
	var f nameFilter
	var errs []error
	compile := func(kind string, patterns []string) []*regexp.Regexp {
		var out []*regexp.Regexp
		for _, p := range patterns {
			re, err := compileWhole(p)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s pattern %q: %w", kind, p, err))
				continue
			}
			out = append(out, re)
		}
		return out
	}
	f.include, f.exclude = compile("include", include), compile("exclude", exclude)
	return f, errors.Join(errs...)
}

// compileWhole returns an expression that matches what pattern matches as a
// whole. The pattern is parsed alone and put between the anchors as it was
// understood, not as it was written: "a)|(b" would leave the group there, and an
// open "\Q" would take the end of it for text.
func compileWhole(pattern string) (*regexp.Regexp, error) {
	alone, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	return regexp.Compile(`^(?:` + alone.String() + `)$`)
}

// match reports whether the filter selects the name. Names with the prefix
// never are not selected by any pattern.
func (f nameFilter) match(name, never string) bool {
	if strings.HasPrefix(name, never) {
		return false
	}
	for _, re := range f.exclude {
		if re.MatchString(name) {
			return false
		}
	}
	if len(f.include) == 0 {
		return !strings.HasPrefix(name, "__")
	}
	for _, re := range f.include {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}
