package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// String writes a scenario as a script, which parse reads back.
func (s Scenario) String() string {
	var b strings.Builder
	line := func(words ...string) {
		fmt.Fprintln(&b, strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " "))
	}
	line("scenario", s.Name)
	if s.Seed != 0 {
		line("seed", strconv.FormatUint(s.Seed, 10))
	}
	harness, clusters := []string{"harness"}, []string{"clusters"}
	for _, h := range s.Harnesses {
		harness = append(harness, string(h))
	}
	for _, c := range s.Clusters {
		clusters = append(clusters, c.Name)
	}
	line(harness...)
	line(clusters...)
	for _, c := range s.Clusters {
		if c.Brokers != 0 {
			line("brokers", c.Name, strconv.Itoa(c.Brokers))
		}
		if c.Version != "" {
			line("version", c.Name, c.Version)
		}
		for _, p := range c.Properties {
			line("property", c.Name, p.Name, p.Value)
		}
	}
	for _, t := range s.Topics {
		line("topic", t.Name, fmt.Sprintf("partitions=%d", t.Partitions), "kind="+topicKindName(t.Kind), "on="+strings.Join(t.On, ","))
	}
	for _, r := range s.Replicators {
		forward := ""
		if r.ForwardAll {
			forward = "forward=all"
		}
		line("replicate", r.pair(), fmt.Sprintf("workers=%d", r.Workers), forward)
	}
	line("load", fmt.Sprintf("rate=%d", s.Load.Rate), "for="+s.Load.For.String(), given("records", s.Load.Records, 0), given("age", s.Load.Age, 0))
	if c := s.Chaos; c.DialRefused+c.DialTimeout+c.ReadReset+c.WriteReset > 0 || c.MaxDelay > 0 {
		line("chaos", given("dial-refused", c.DialRefused, 0), given("dial-timeout", c.DialTimeout, 0), given("read-reset", c.ReadReset, 0),
			given("write-reset", c.WriteReset, 0), given("max-delay", c.MaxDelay, 0))
	}
	for _, f := range s.Faults {
		line("at", f.At.String(), f.text(s))
	}
	for _, e := range s.Expect {
		line("expect", e.text(s))
	}
	return b.String()
}

// given is NAME=VALUE, or nothing for the value that is not given.
func given[T int | int32 | float64 | time.Duration](name string, v, without T) string {
	if v == without {
		return ""
	}
	return fmt.Sprintf("%s=%v", name, v)
}

// text is a fault without its time.
func (f Fault) text(s Scenario) string {
	words := []string{string(f.Kind)}
	sp := kinds()[f.Kind]
	for _, arg := range sp.args {
		switch arg {
		case 'r':
			words = append(words, s.Replicators[f.Replicator].pair())
		case 'c':
			words = append(words, f.Side)
		default:
			if f.Topic != "" {
				words = append(words, f.Topic)
			}
		}
	}
	for _, o := range options() {
		v := o.get(f)
		if slices.Contains(sp.must, o.name) || slices.Contains(sp.may, o.name) && v != o.zero {
			words = append(words, o.name+"="+v)
		}
	}
	return strings.Join(words, " ")
}

// text is an expectation without its first word.
func (e Expectation) text(s Scenario) string {
	if e.Kind == Identical {
		return string(e.Kind)
	}
	words := []string{string(e.Kind), s.Replicators[e.Replicator].pair()}
	if e.Kind == Refused {
		return strings.Join(words, " ")
	}
	words = append(words, e.Topic)
	if p := given("partition", e.Partition, -1); p != "" {
		words = append(words, p)
	}
	if e.Code != "" {
		words = append(words, "code="+string(e.Code))
	}
	if e.Range != anyRange() {
		words = append(words, "range="+e.Range.String())
	}
	return strings.Join(words, " ")
}
