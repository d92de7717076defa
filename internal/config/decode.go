package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"go.yaml.in/yaml/v4"
)

// The decoder is our own because a refused file needs every problem with line
// and path, references expanded in values, and the order of the replicators;
// the library gives the nodes.

var (
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
	secretType   = reflect.TypeFor[dr.Secret]()
)

// decode fills the configuration from the root node.
func (l *loader) decode(root *yaml.Node) {
	l.lines[""] = root.Line
	l.value(root, "", reflect.ValueOf(l.cfg).Elem(), "")
	l.cfg.ReplicatorNames = namesOf(root, "replicators", l.cfg.Replicators)
	l.cfg.PairNames = namesOf(root, "pairs", l.cfg.Pairs)
}

// namesOf returns the names below a key of the root that were decoded, in the
// order of the file.
func namesOf[T any](root *yaml.Node, key string, decoded map[string]T) []string {
	var names []string
	if n := child(root, key); n != nil && n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if _, ok := decoded[name]; ok && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// child returns the value of a key of a mapping, nil if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return deref(n.Content[i+1])
		}
	}
	return nil
}

func deref(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// value decodes one node into v. file is the tag of the field: "" if the value
// is not a path.
func (l *loader) value(n *yaml.Node, path string, v reflect.Value, file string) {
	line := n.Line
	n = deref(n)
	if n.ShortTag() == "!!null" {
		l.addAt(line, path, "has no value%s", emptyHint(v.Type()))
		return
	}
	switch {
	case v.Type() == durationType, v.Type() == sizeType, v.Type() == rateType, v.Type() == secretType:
		l.scalar(n, line, path, v, file)
	case v.Type() == rateLimitType:
		l.rateLimit(n, line, path, v)
	case v.Kind() == reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if h, ok := reflect.TypeAssert[*Hook](p); ok {
			*h = DefaultHook()
		}
		l.value(n, path, p.Elem(), file)
		v.Set(p)
	case v.Kind() == reflect.Struct:
		l.structure(n, line, path, v)
	case v.Kind() == reflect.Map:
		l.named(n, line, path, v)
	case v.Kind() == reflect.Slice:
		l.list(n, line, path, v)
	default:
		l.scalar(n, line, path, v, file)
	}
}

// emptyHint tells what to write where a section was left empty: a bare "tls:"
// must not quietly mean no encryption.
func emptyHint(t reflect.Type) string {
	if t.Kind() == reflect.Pointer || (t.Kind() == reflect.Struct && t != secretType) {
		return " (write {} for the defaults, or remove the key)"
	}
	return " (remove the key for the default)"
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fields returns the keys of a struct, with the index of their field.
func fields(t reflect.Type) (keys []string, index map[string]int) {
	index = map[string]int{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "-" || name == "" {
			continue
		}
		keys = append(keys, name)
		index[name] = i
	}
	return keys, index
}

// pairs calls f for each key of a mapping, after it checked that keys are plain
// and unique.
func (l *loader) pairs(n *yaml.Node, line int, path string, f func(key, val *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		l.addAt(line, path, "must be a mapping of keys to values, not %s", kindOf(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			l.addAt(k.Line, path, "a key must be a plain word, not %s", kindOf(k))
			continue
		}
		if first, ok := seen[k.Value]; ok {
			l.addAt(k.Line, join(path, k.Value), "the key was already given in line %d", first)
			continue
		}
		seen[k.Value] = k.Line
		l.lines[join(path, k.Value)] = k.Line
		f(k, val)
	}
}

func (l *loader) structure(n *yaml.Node, line int, path string, v reflect.Value) {
	keys, index := fields(v.Type())
	l.pairs(n, line, path, func(k, val *yaml.Node) {
		i, ok := index[k.Value]
		if !ok {
			l.addAt(k.Line, join(path, k.Value), "unknown key%s", didYouMean(k.Value, keys))
			return
		}
		l.value(val, join(path, k.Value), v.Field(i), v.Type().Field(i).Tag.Get("file"))
	})
}

func (l *loader) named(n *yaml.Node, line int, path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	l.pairs(n, line, path, func(k, val *yaml.Node) {
		elem := reflect.New(v.Type().Elem()).Elem()
		switch p := elem.Addr().Interface().(type) {
		case *Cluster:
			*p = DefaultCluster()
		case *Replicator:
			*p = DefaultReplicator()
		case *Pair:
			*p = DefaultPair()
		}
		l.value(val, join(path, k.Value), elem, "")
		v.SetMapIndex(reflect.ValueOf(k.Value), elem)
	})
}

func (l *loader) list(n *yaml.Node, line int, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		l.addAt(line, path, "must be a list, not %s (write [ ... ])", kindOf(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, e := range n.Content {
		p := fmt.Sprintf("%s[%d]", path, i)
		l.lines[p] = e.Line
		l.value(e, p, out.Index(i), "")
	}
	v.Set(out)
}

func kindOf(n *yaml.Node) string {
	switch deref(n).Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

// scalar decodes a single value. Values of secrets are never quoted in a
// message.
func (l *loader) scalar(n *yaml.Node, line int, path string, v reflect.Value, file string) {
	if n.Kind != yaml.ScalarNode {
		l.addAt(line, path, "must be a single value, not %s", kindOf(n))
		return
	}
	before := len(l.problems.List)
	text, refs := l.expand(line, path, n.Value)
	if len(l.problems.List) > before {
		return
	}
	fail := func(err error) {
		if err != nil {
			l.addAt(line, path, "%s", err)
		}
	}
	switch {
	case v.Type() == secretType:
		if refs == 0 {
			l.addAt(line, path, "a secret must not be in this file (write ${env:NAME} or ${file:path})")
			return
		}
		v.Set(reflect.ValueOf(dr.NewSecret(text)))
	case v.Type() == durationType:
		d, err := parseDuration(text)
		fail(err)
		v.SetInt(int64(d))
	case v.Type() == sizeType:
		s, err := ParseSize(text)
		fail(err)
		v.SetInt(int64(s))
	case v.Type() == rateType:
		r, err := parseRate(text)
		fail(err)
		v.SetInt(int64(r))
	case v.Kind() == reflect.Int:
		i, err := strconv.Atoi(text)
		if err != nil || (n.ShortTag() != "!!int" && refs == 0) {
			fail(fmt.Errorf("%q is not a whole number", text))
			return
		}
		v.SetInt(int64(i))
	case v.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			fail(fmt.Errorf("%q is neither true nor false", text))
		}
		v.SetBool(text == "true")
	case n.ShortTag() == "!!bool":
		l.addAt(line, path, "must be text, not %s (put it in quotes)", n.Value)
	case file != "" && text != "":
		v.SetString(l.resolve(text))
	default:
		v.SetString(text)
	}
}
