package preflight

import (
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The names of operations, as kafka-acls.sh writes them.
const (
	opRead            = "Read"
	opWrite           = "Write"
	opCreate          = "Create"
	opDelete          = "Delete"
	opAlter           = "Alter"
	opDescribe        = "Describe"
	opDescribeConfigs = "DescribeConfigs"
	opAlterConfigs    = "AlterConfigs"
)

var opBits = map[string]kmsg.ACLOperation{
	opRead:            kmsg.ACLOperationRead,
	opWrite:           kmsg.ACLOperationWrite,
	opCreate:          kmsg.ACLOperationCreate,
	opDelete:          kmsg.ACLOperationDelete,
	opAlter:           kmsg.ACLOperationAlter,
	opDescribe:        kmsg.ACLOperationDescribe,
	opDescribeConfigs: kmsg.ACLOperationDescribeConfigs,
	opAlterConfigs:    kmsg.ACLOperationAlterConfigs,
}

// allowed reports whether a bit field of authorized operations (KIP-430) has op.
func allowed(bits int32, op string) bool { return bits>>opBits[op]&1 == 1 }

// resource is what kafka-acls.sh grants something on.
type resource struct {
	option   string // "--topic", "--group", "--transactional-id", "--cluster"
	name     string // "" for --cluster
	prefixed bool
}

// command returns the kafka-acls.sh command that grants ops on r.
func (c *cluster) command(r resource, ops []string) string {
	words := []string{r.option}
	if r.name != "" {
		words = append(words, r.name)
	}
	if r.prefixed {
		words = append(words, "--resource-pattern-type", "prefixed")
	}
	return kclient.GrantCommand(c.o, c.report.Principal, ops, words...)
}

// missing reports that ops on r are lacking. why says what will not work.
func (c *cluster) missing(severity dr.Severity, r resource, ops []string, why string) {
	if len(ops) == 0 {
		return
	}
	line := c.command(r, ops)
	if slices.Contains(c.report.MissingGrants, line) {
		return
	}
	c.report.MissingGrants = append(c.report.MissingGrants, line)
	c.found("permission_missing", severity, c.subject(), line, "%s is not allowed: %s on %s", c.report.Principal, strings.Join(ops, ", "), why)
}

// topicResources turns include patterns into the narrowest resources that a
// grant can name: a literal name, a prefix, or all topics. in maps the resource
// as it is named on the cluster.
func topicResources(include []string, naming dr.Naming) []resource {
	if len(include) == 0 {
		include = []string{".*"}
	}
	var out []resource
	for _, p := range include {
		r := patternResource("--topic", p)
		if naming.Mode == dr.NamesPrefixed {
			if r.name == "*" {
				r = resource{option: "--topic", prefixed: true}
			}
			r.name = naming.Target(r.name)
		}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return widest(out)
}

// groupResources does for patterns of consumer groups what topicResources does
// for those of topics.
func groupResources(include []string) []resource {
	if len(include) == 0 {
		include = []string{".*"}
	}
	var out []resource
	for _, p := range include {
		if r := patternResource("--group", p); !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return widest(out)
}

// widest leaves out all others where one resource is everything.
func widest(list []resource) []resource {
	if i := slices.IndexFunc(list, func(r resource) bool { return r.name == "*" && !r.prefixed }); i >= 0 {
		return list[i : i+1]
	}
	return list
}

// patternResource returns the resource that holds every match of one pattern.
func patternResource(option, pattern string) resource {
	all := resource{option: option, name: "*"}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return all
	}
	subs := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		subs = re.Sub
	}
	var literal strings.Builder
	for _, sub := range subs {
		if sub.Op != syntax.OpLiteral || sub.Flags&syntax.FoldCase != 0 {
			break
		}
		literal.WriteString(string(sub.Rune))
	}
	prefix := literal.String()
	if prefix == "" {
		return all
	}
	if len(subs) == 1 && subs[0].Op == syntax.OpLiteral {
		return resource{option: option, name: prefix}
	}
	return resource{option: option, name: prefix, prefixed: true}
}

// covers reports whether a topic belongs to the resource.
func (r resource) covers(topic string) bool {
	switch {
	case r.name == "*":
		return true
	case r.prefixed:
		return strings.HasPrefix(topic, r.name)
	}
	return topic == r.name
}

// probe returns a name inside the resource that no topic or group of anybody
// has: asking for it tells what would be allowed, whether or not topics exist.
func (r resource) probe() string {
	const name = "anabranch-preflight-probe"
	switch {
	case r.name == "*":
		return name
	case r.prefixed:
		return r.name + name
	}
	return r.name
}
