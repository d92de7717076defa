package sim

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
)

// The language. A script is one scenario, a line is one statement, what follows
// # is a comment. Words come first, then options as NAME=VALUE. What a line
// names must be declared above it.
//
//	scenario NAME
//	seed N
//	harness kfake model real
//	clusters a b
//	brokers b 3
//	version b 3.9.2
//	property b NAME VALUE
//	topic NAME partitions=3 kind=plain|compacted|transactional on=a,b
//	replicate a->b workers=2 [forward=all]
//	load rate=100 for=9s [records=50] [age=48h]
//	chaos [dial-refused=0.1] [dial-timeout=0.1] [read-reset=0.1] [write-reset=0.1] [max-delay=2ms]
//	at TIME KIND [a->b | CLUSTER] [TOPIC] [OPTION ...]
//	expect identical
//	expect halt|passed a->b TOPIC [partition=0] code=CODE [range=FROM..TO]
//	expect missing a->b TOPIC partition=0 range=FROM..TO
//	expect refused a->b
//
// The kinds of faults and their options are in the table kinds. In a range, *
// is any offset.

const (
	maxPartitions = 1000
	maxDuration   = 30 * 24 * time.Hour
	stateTopic    = "__anabranch_state"
)

var (
	names      = regexp.MustCompile(`^[a-z][a-z0-9]*$`)
	topicNames = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)
	properties = regexp.MustCompile(`^[a-z]+(\.[a-z]+)*$`)
	values     = regexp.MustCompile(`^[a-zA-Z0-9_.,:-]+$`)
)

func checkName(v string) error {
	if !names.MatchString(v) {
		return fmt.Errorf("%q is no name", v)
	}
	return nil
}

func parseNumber(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no number", v)
	}
	return n, nil
}

func parseCount(v string, most int64) (int, error) {
	n, err := parseNumber(v)
	if err == nil && n > most {
		err = fmt.Errorf("%d is more than %d", n, most)
	}
	return int(min(n, most)), err
}

func parseDuration(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > maxDuration {
		return 0, fmt.Errorf("%q is no time from 0s to %v", v, maxDuration)
	}
	return d, nil
}

func parseShare(v string) (float64, error) {
	x, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsNaN(x) || math.Signbit(x) || x > 1 {
		return 0, fmt.Errorf("%q is no share from 0 to 1", v)
	}
	return x, nil
}

func formatShare(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

func parseNames(v string) ([]string, error) {
	list := strings.Split(v, ",")
	for i, n := range list {
		if err := checkName(n); err != nil {
			return nil, err
		}
		if slices.Contains(list[:i], n) {
			return nil, fmt.Errorf("%s is named twice", n)
		}
	}
	return list, nil
}

func parseRange(v string) (Range, error) {
	from, to, ok := strings.Cut(v, "..")
	r, errs := anyRange(), []error(nil)
	for _, end := range []struct {
		text string
		to   *int64
	}{{from, &r.From}, {to, &r.To}} {
		if end.text == "*" {
			continue
		}
		var err error
		*end.to, err = parseNumber(end.text)
		errs = append(errs, err)
	}
	if !ok || errors.Join(errs...) != nil || r.From >= 0 && r.To >= 0 && r.To < r.From {
		return anyRange(), fmt.Errorf("%q is no range FROM..TO", v)
	}
	return r, nil
}

func (r Range) String() string {
	end := func(n int64) string {
		if n < 0 {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return end(r.From) + ".." + end(r.To)
}

// parser reads one script.
type parser struct {
	s     Scenario
	file  string
	line  int
	seen  map[string]int // statements that come once, with their lines
	probs []error
}

// parse reads a script. The error lists every problem with file and line.
func parse(file, script string) (Scenario, error) {
	p := &parser{file: file, seen: map[string]int{}}
	for i, line := range strings.Split(script, "\n") {
		p.line = i + 1
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 0 {
			p.statement(words)
		}
	}
	p.line++
	for _, needed := range []string{"scenario", "harness", "clusters", "replicate", "topic", "load"} {
		if p.seen[needed] == 0 {
			p.failf("there is no %s", needed)
		}
	}
	for _, c := range p.s.Clusters {
		if slices.Contains(p.s.Harnesses, Fake) && (c.Version != "" || len(c.Properties) > 0) {
			p.failf("%s has no version and no properties on %s", c.Name, Fake)
		}
		if slices.Contains(p.s.Harnesses, Real) && !slices.Contains([]int{0, 1, 3}, c.Brokers) {
			p.failf("%s has 1 or 3 brokers on %s", c.Name, Real)
		}
	}
	return p.s, errors.Join(p.probs...)
}

func (p *parser) failf(format string, args ...any) {
	p.probs = append(p.probs, fmt.Errorf("%s:%d: %s", p.file, p.line, fmt.Sprintf(format, args...)))
}

// check reports an error, if it is one.
func (p *parser) check(what string, err error) bool {
	if err != nil {
		p.failf("%s: %v", what, err)
	}
	return err == nil
}

// once says whether a statement comes for the first time.
func (p *parser) once(name string) bool {
	if at := p.seen[name]; at > 0 {
		p.failf("%s was given in line %d", name, at)
		return false
	}
	p.seen[name] = p.line
	return true
}

func (p *parser) statement(words []string) {
	name, words := words[0], words[1:]
	switch name {
	case "scenario", "seed", "harness", "clusters", "load", "chaos":
		if !p.once(name) {
			return
		}
	}
	switch name {
	case "scenario":
		if p.words(words, "NAME") && !topicNames.MatchString(words[0]) {
			p.failf("%q is no name", words[0])
		} else if len(words) == 1 {
			p.s.Name = words[0]
		}
	case "seed":
		if p.words(words, "N") {
			n, err := strconv.ParseUint(words[0], 10, 64)
			p.check("seed", err)
			p.s.Seed = n
		}
	case "harness":
		p.harness(words)
	case "clusters":
		list, err := parseNames(strings.Join(words, ","))
		if p.check("clusters", err) {
			p.s.Clusters = clusters(list...)
		}
	case "brokers", "version", "property":
		p.ofCluster(name, words)
	case "topic":
		p.topic(words)
	case "replicate":
		p.replicate(words)
	case "load":
		p.load(words)
	case "chaos":
		p.chaos(words)
	case "at":
		p.fault(words)
	case "expect":
		p.expect(words)
	default:
		p.failf("%q is no statement", name)
	}
}

// words checks that there are as many words as named.
func (p *parser) words(words []string, named ...string) bool {
	if len(words) != len(named) {
		p.failf("want %s, got %d words", strings.Join(named, " "), len(words))
		return false
	}
	return true
}

func (p *parser) harness(words []string) {
	for _, w := range words {
		if !slices.Contains(everywhere(), Harness(w)) || slices.Contains(p.s.Harnesses, Harness(w)) {
			p.failf("%q is no harness, or twice here", w)
			continue
		}
		p.s.Harnesses = append(p.s.Harnesses, Harness(w))
	}
	if len(words) == 0 {
		p.failf("harness: name one")
	}
}

func (p *parser) ofCluster(what string, words []string) {
	named := []string{"CLUSTER", "VALUE"}
	if what == "property" {
		named = []string{"CLUSTER", "NAME", "VALUE"}
	}
	if !p.words(words, named...) || !p.isCluster(words[0]) {
		return
	}
	i := slices.IndexFunc(p.s.Clusters, func(c Cluster) bool { return c.Name == words[0] })
	c, value := &p.s.Clusters[i], words[len(words)-1]
	switch what {
	case "brokers":
		n, err := parseCount(value, 9)
		if p.check(what, err) && c.Brokers != 0 || n == 0 {
			p.failf("brokers: 0, or given before")
		}
		c.Brokers = n
	case "version":
		if value != ktest.Newest && value != ktest.Oldest || c.Version != "" {
			p.failf("version: not %s or %s, or given before", ktest.Newest, ktest.Oldest)
		}
		c.Version = value
	case "property":
		if !properties.MatchString(words[1]) || !values.MatchString(value) || slices.ContainsFunc(c.Properties, func(x Property) bool { return x.Name == words[1] }) {
			p.failf("property: %s=%s can't be, or is given twice", words[1], value)
		}
		c.Properties = append(c.Properties, Property{words[1], value})
	}
}

func (p *parser) isCluster(name string) bool {
	if p.s.cluster(name).Name != name || name == "" {
		p.failf("cluster %q is not declared", name)
		return false
	}
	return true
}

// options reads NAME=VALUE words with the setters, of which some must be there.
func (p *parser) options(words []string, set map[string]func(string) error, must ...string) bool {
	given, ok := map[string]bool{}, true
	for _, w := range words {
		name, value, isOption := strings.Cut(w, "=")
		fn := set[name]
		switch {
		case !isOption:
			p.failf("%q: want NAME=VALUE here", w)
			ok = false
		case fn == nil:
			p.failf("%s is no option here", name)
			ok = false
		case given[name]:
			p.failf("%s was given twice", name)
			ok = false
		default:
			ok = p.check(name, fn(value)) && ok
		}
		given[name] = true
	}
	for _, name := range must {
		if !given[name] {
			p.failf("%s is missing", name)
			ok = false
		}
	}
	return ok
}

func setCount[N int | int32](to *N, most int64) func(string) error {
	return func(v string) error {
		n, err := parseCount(v, most)
		if err == nil && n == 0 {
			err = errors.New("0 is none")
		}
		*to = N(n)
		return err
	}
}

func set[T any](to *T, parse func(string) (T, error)) func(string) error {
	return func(v string) (err error) {
		*to, err = parse(v)
		return err
	}
}

func (p *parser) topic(words []string) {
	p.seen["topic"] = p.line
	if len(words) == 0 || !topicNames.MatchString(words[0]) {
		p.failf("topic: want a name")
		return
	}
	t := Topic{Name: words[0]}
	if _, ok := p.s.topic(t.Name); ok {
		p.failf("topic %s was declared before", t.Name)
	}
	if p.options(words[1:], map[string]func(string) error{
		"partitions": setCount(&t.Partitions, maxPartitions), "kind": set(&t.Kind, parseTopicKind), "on": set(&t.On, parseNames),
	}, "partitions", "kind", "on") {
		p.areClusters(t.On)
		p.s.Topics = append(p.s.Topics, t)
	}
}

func (p *parser) areClusters(list []string) {
	for _, name := range list {
		p.isCluster(name)
	}
}

func (p *parser) replicate(words []string) {
	p.seen["replicate"] = p.line
	if len(words) == 0 {
		p.failf("replicate: want FROM->TO")
		return
	}
	var r Replicator
	from, to, ok := strings.Cut(words[0], "->")
	if r.From, r.To = from, to; !ok || from == to || !p.isCluster(from) || !p.isCluster(to) {
		p.failf("%q is not FROM->TO", words[0])
		return
	}
	if p.replicator(r.pair()) >= 0 {
		p.failf("%s was declared before", r.pair())
	}
	if p.options(words[1:], map[string]func(string) error{"workers": setCount(&r.Workers, 20), "forward": func(v string) error {
		if r.ForwardAll = v == "all"; !r.ForwardAll && v != "native" {
			return fmt.Errorf("%q is not all or native", v)
		}
		return nil
	}}, "workers") {
		p.s.Replicators = append(p.s.Replicators, r)
	}
}

// replicator returns the index of a replicator, -1 if there is none.
func (p *parser) replicator(pair string) int {
	return slices.IndexFunc(p.s.Replicators, func(r Replicator) bool { return r.pair() == pair })
}

func (p *parser) load(words []string) {
	l := &p.s.Load
	p.options(words, map[string]func(string) error{
		"rate": setCount(&l.Rate, 100_000), "for": set(&l.For, parseDuration), "records": setCount(&l.Records, 1_000_000), "age": set(&l.Age, parseDuration),
	}, "rate", "for")
}

func (p *parser) chaos(words []string) {
	c := &p.s.Chaos
	p.options(words, map[string]func(string) error{
		"dial-refused": set(&c.DialRefused, parseShare), "dial-timeout": set(&c.DialTimeout, parseShare),
		"read-reset": set(&c.ReadReset, parseShare), "write-reset": set(&c.WriteReset, parseShare), "max-delay": set(&c.MaxDelay, parseDuration),
	})
}

func (p *parser) fault(words []string) {
	if len(words) < 2 {
		p.failf("want: at TIME KIND")
		return
	}
	f := newFault(FaultKind(words[1]))
	at, err := parseDuration(words[0])
	p.check("at", err)
	f.At = at
	sp, ok := kinds()[f.Kind]
	if !ok {
		p.failf("%q is no kind of fault", words[1])
		return
	}
	words = words[2:]
	for _, arg := range sp.args {
		if len(words) == 0 || strings.Contains(words[0], "=") {
			if arg != 'o' {
				p.failf("%s lacks what it is about", f.Kind)
				return
			}
			break
		}
		if !p.argument(&f, arg, words[0]) {
			return
		}
		words = words[1:]
	}
	setters := map[string]func(string) error{}
	for _, o := range options() {
		if slices.Contains(sp.must, o.name) || slices.Contains(sp.may, o.name) {
			setters[o.name] = func(v string) error { return o.set(&f, v) }
		}
	}
	if !p.options(words, setters, sp.must...) {
		return
	}
	p.possible(f, sp)
	p.s.Faults = append(p.s.Faults, f)
}

// argument reads a word that names what a fault is about.
func (p *parser) argument(f *Fault, arg rune, word string) bool {
	switch arg {
	case 'r':
		f.Replicator = p.replicator(word)
		if f.Replicator < 0 {
			p.failf("replicator %q is not declared", word)
		}
		return f.Replicator >= 0
	case 'c':
		f.Side = word
		return p.isCluster(word)
	default:
		f.Topic = word
		_, known := p.s.topic(word)
		if f.Kind == Create && (known || !topicNames.MatchString(word)) || f.Kind != Create && !known && word != stateTopic {
			p.failf("topic %q is not declared, or is to be created again", word)
			return false
		}
		return true
	}
}

// possible checks what a fault takes against the rest.
func (p *parser) possible(f Fault, sp spec) {
	for _, h := range p.s.Harnesses {
		if !slices.Contains(sp.where, h) {
			p.failf("%s can't be done on %s", f.Kind, h)
		}
	}
	r, hasR := Replicator{}, strings.Contains(sp.args, "r")
	if hasR {
		r = p.s.Replicators[f.Replicator]
	}
	brokers := max(1, p.s.cluster(f.Side).Brokers)
	switch {
	case slices.Contains(sp.must, "worker") && f.Worker >= r.Workers:
		p.failf("there is no worker %d of %s", f.Worker, r.pair())
	case slices.Contains(sp.must, "side") && f.Side != r.From && f.Side != r.To:
		p.failf("%s does not reach %s", r.pair(), f.Side)
	case slices.Contains(sp.must, "broker") && f.Broker >= brokers:
		p.failf("there is no broker %d of %s", f.Broker, f.Side)
	case slices.Contains(sp.must, "records") && f.Records == 0, slices.Contains(sp.must, "partitions") && f.Partitions == 0:
		p.failf("0 is none")
	case sp.many && brokers < 2:
		p.failf("%s needs several brokers of %s", f.Kind, f.Side)
	case f.Kind == Deny && operations()[f.Operation] == "":
		p.failf("%q is not read, write or describe", f.Operation)
	case f.Kind == Quota && f.Operation != "produce" && f.Operation != "fetch":
		p.failf("%q is not produce or fetch", f.Operation)
	case f.Action == dr.ResolveStartAt && f.Offset < 0 && f.Offset != matched:
		p.failf("start-at needs at-offset")
	case f.Partition >= 0 && f.Topic == "":
		p.failf("a partition of which topic")
	}
	p.areClusters(f.On)
}

func (p *parser) expect(words []string) {
	if len(words) == 0 {
		p.failf("expect what")
		return
	}
	e := Expectation{Kind: ExpectKind(words[0]), Partition: -1, Range: anyRange()}
	if e.Kind == Identical {
		if p.words(words, "identical") && p.once("expect identical") {
			p.s.Expect = append(p.s.Expect, e)
		}
		return
	}
	if e.Kind == Refused {
		if p.words(words, "refused", "FROM->TO") {
			if e.Replicator = p.replicator(words[1]); e.Replicator < 0 {
				p.failf("replicator %q is not declared", words[1])
				return
			}
			p.s.Expect = append(p.s.Expect, e)
		}
		return
	}
	must := map[ExpectKind][]string{Halt: {"code"}, Passed: {"code"}, Missing: {"partition", "range"}}[e.Kind]
	if must == nil {
		p.failf("%q can't be expected", words[0])
		return
	}
	if len(words) < 3 {
		p.failf("want: expect %s FROM->TO TOPIC", e.Kind)
		return
	}
	if e.Replicator = p.replicator(words[1]); e.Replicator < 0 {
		p.failf("replicator %q is not declared", words[1])
	}
	e.Topic = words[2]
	if _, known := p.s.topic(e.Topic); !known {
		p.failf("topic %q is not declared", e.Topic)
	}
	setters := map[string]func(string) error{
		"partition": func(v string) error { return setPartition(&e.Partition, v) }, "range": set(&e.Range, parseRange),
	}
	if e.Kind != Missing {
		setters["code"] = set(&e.Code, parseCode)
	}
	if p.options(words[3:], setters, must...) && e.Replicator >= 0 {
		p.s.Expect = append(p.s.Expect, e)
	}
}

func setPartition(to *int32, v string) error {
	n, err := parseCount(v, maxPartitions)
	*to = int32(n)
	return err
}

func parseCode(v string) (dr.HaltCode, error) {
	all := []dr.HaltCode{
		dr.HaltRetention, dr.HaltSourceRecreated, dr.HaltSourceTruncated, dr.HaltTargetTruncated, dr.HaltTargetRecreated, dr.HaltTargetDeleted,
		dr.HaltTooLarge, dr.HaltCorrupt, dr.HaltUnauthorized, dr.HaltRefused, dr.HaltForeign, dr.HaltExisting, dr.HaltPosition, dr.HaltNames,
	}
	if !slices.Contains(all, dr.HaltCode(v)) {
		return "", fmt.Errorf("%q is no code", v)
	}
	return dr.HaltCode(v), nil
}
