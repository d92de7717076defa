package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
)

// pairings checks the replicators against each other and decides the defaults
// of topic_settings.
func (l *loader) pairings() {
	var names []string
	for _, n := range l.cfg.ReplicatorNames {
		path := l.home(n)
		if !slices.ContainsFunc([]string{"", ".source", ".target", ".topics.include", ".topics.exclude", ".topic_names", ".topic_settings"},
			func(k string) bool { return l.blamed(path + k) }) {
			names = append(names, n)
		}
	}
	for i, n := range names {
		for _, m := range names[:i] {
			l.pair(m, n)
		}
	}
	l.settingsOwners(names)
}

// home returns the path at which a replicator is defined: its own, or that of
// the pair that makes it.
func (l *loader) home(replicator string) string {
	if pair := l.cfg.Replicators[replicator].Pair; pair != "" {
		return "pairs." + pair
	}
	return "replicators." + replicator
}

// called returns how messages name a replicator.
func (l *loader) called(replicator string) string {
	if pair := l.cfg.Replicators[replicator].Pair; pair != "" {
		return fmt.Sprintf("pair %q", pair)
	}
	return fmt.Sprintf("replicator %q", replicator)
}

// pair checks two replicators, the second of which is listed later.
func (l *loader) pair(first, second string) {
	a, b := l.cfg.Replicators[first], l.cfg.Replicators[second]
	switch {
	case a.Source == b.Source && a.Target == b.Target:
		if w := common(targetNames(a), targetNames(b)); w != "" {
			l.add(l.home(second), "writes the same topics as %s, for example %q: every record would arrive twice", l.called(first), w)
		}
	case a.Source == b.Target && a.Target == b.Source && a.TopicNames == dr.NamesPrefixed && b.TopicNames == dr.NamesPrefixed:
		// A topic t comes back as "b.a.t" when the way back selects "a.t",
		// and then goes round for ever under longer and longer names.
		back, round := selected(b.Topics), selected(a.Topics)
		there := targetNames(a)
		if common(there.prefixed(b.Source+"."), back.prefixed(b.Source+"."), round) != "" {
			l.add(l.home(second), "together with replicator %q topics would go round under longer and longer names (%s.%s.<topic>, and so on); add %q to topics.exclude",
				first, b.Source, a.Source, quotePrefix(a.Source))
		}
	}
}

func quotePrefix(cluster string) string {
	return strings.ReplaceAll(cluster+".", ".", `\.`) + ".*"
}

// settingsOwners decides who follows. A topic's settings must have one home: no
// circle of followers, and no target that follows two sources. What the file
// says goes first; the others follow in the order of the file where that is
// still possible.
func (l *loader) settingsOwners(names []string) {
	var followers []string
	for _, n := range names {
		if l.cfg.Replicators[n].TopicSettings != dr.SettingsFollow {
			continue
		}
		if other := l.settingsConflict(followers, n); other != "" {
			l.add(l.home(n)+".topic_settings", "both this %s and %s follow: only one may decide the settings of a topic (write own in one of them)", kindOfHome(l.cfg.Replicators[n]), l.called(other))
			continue
		}
		followers = append(followers, n)
	}
	for _, n := range l.cfg.ReplicatorNames {
		r := l.cfg.Replicators[n]
		if r.TopicSettings != "" {
			continue
		}
		r.TopicSettings = dr.SettingsFollow
		if slices.Contains(names, n) && l.settingsConflict(followers, n) != "" {
			r.TopicSettings = dr.SettingsOwn
		} else {
			followers = append(followers, n)
		}
		l.cfg.Replicators[n] = r
	}
}

func kindOfHome(r Replicator) string {
	if r.Pair != "" {
		return "pair"
	}
	return "replicator"
}

// settingsConflict returns a follower that decides for a topic of the replicator
// as well, or that closes a circle with it; "" if there is none. The two of a
// pair make no circle: only the one that leaves the active cluster decides.
func (l *loader) settingsConflict(followers []string, name string) string {
	r := l.cfg.Replicators[name]
	for _, f := range followers {
		o := l.cfg.Replicators[f]
		if o.Target == r.Target && o.Source != r.Source && common(targetNames(o), targetNames(r)) != "" {
			return f
		}
	}
	if r.TopicNames != dr.NamesIdentical {
		return ""
	}
	// Walk from the target along followers; reaching the source is a circle.
	var walk func(at string, path []string, sets []nameSet) string
	walk = func(at string, path []string, sets []nameSet) string {
		for _, f := range followers {
			o := l.cfg.Replicators[f]
			if o.Pair != "" && o.Pair == r.Pair {
				continue
			}
			if o.Source != at || o.TopicNames != dr.NamesIdentical || slices.Contains(path, f) {
				continue
			}
			next := append(slices.Clone(sets), selected(o.Topics))
			if common(next...) == "" {
				continue
			}
			if o.Target == r.Source {
				return f
			}
			if found := walk(o.Target, append(slices.Clone(path), f), next); found != "" {
				return found
			}
		}
		return ""
	}
	return walk(r.Target, nil, []nameSet{selected(r.Topics)})
}
