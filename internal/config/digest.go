package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/anabranch/anabranch/internal/dr"
)

// content is what the workers of one replicator must agree on: what is copied
// and how. How a worker reaches the clusters is not part of it, because
// addresses, certificates and credentials may differ between hosts.
type content struct {
	Name             string `json:"name"`
	Replicator       `json:"settings"`
	SourceStateTopic StateTopic `json:"source_state_topic"`
	TargetStateTopic StateTopic `json:"target_state_topic"`
}

// Content returns the effective settings of a replicator as canonical JSON:
// keys in a fixed order, lists of patterns sorted, without secrets and without
// version. It returns nil for an unknown name.
func (c *Config) Content(replicator string) []byte {
	r, ok := c.Replicators[replicator]
	if !ok {
		return nil
	}
	sorted := func(in []string) []string { return slices.Compact(slices.Sorted(slices.Values(in))) }
	r.Topics = Topics{Include: sorted(r.Topics.Include), Exclude: sorted(r.Topics.Exclude)}
	r.Groups.Include, r.Groups.Exclude = sorted(r.Groups.Include), sorted(r.Groups.Exclude)
	if reflect.DeepEqual(r.Groups, DefaultGroups()) {
		r.Groups = Groups{} // left out, for the reason that delivery is
	}
	if t, ok := r.StartTime(); ok {
		// The same moment may be written in several time zones.
		r.StartingPosition = t.UTC().Format("2006-01-02T15:04:05.999999999Z07:00")
	}
	if r.Delivery == dr.DeliveryExactlyOnce {
		r.Delivery = "" // left out: files that do not name it keep the digest that they had before the key existed
	}
	if r.ACLs == DefaultACLs() {
		r.ACLs = ACLs{} // likewise
	}
	if r.Audit == DefaultAudit() {
		r.Audit = Audit{} // likewise
	}
	raw, err := json.Marshal(content{
		Name: replicator, Replicator: r,
		SourceStateTopic: c.Clusters[r.Source].StateTopic,
		TargetStateTopic: c.Clusters[r.Target].StateTopic,
	})
	if err != nil {
		panic("bug: marshal plain data: " + err.Error())
	}
	return raw
}

// Digest returns the SHA-256 of Content in hexadecimal.
func (c *Config) Digest(replicator string) string {
	sum := sha256.Sum256(c.Content(replicator))
	return hex.EncodeToString(sum[:])
}

// Diff compares two results of Content. Each line names a key and its value in
// a and in b. Content that is not JSON gives one line that says so.
func Diff(a, b []byte) []string {
	fa, errA := flatten(a)
	fb, errB := flatten(b)
	if errA != nil || errB != nil {
		return []string{"the contents cannot be compared: not JSON"}
	}
	keys := maps.Clone(fa)
	maps.Copy(keys, fb)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		va, inA := fa[k]
		vb, inB := fb[k]
		if va == vb && inA == inB {
			continue
		}
		show := func(v string, ok bool) string {
			if !ok {
				return "(not set)"
			}
			return v
		}
		out = append(out, fmt.Sprintf("%s: %s -> %s", k, show(va, inA), show(vb, inB)))
	}
	return out
}

// flatten maps the path of every value that is not an object to its JSON.
func flatten(raw []byte) (map[string]string, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	out := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		if m, ok := v.(map[string]any); ok {
			for k, e := range m {
				// The wrapper is no key of the file.
				if path == "" && k == "settings" {
					walk("", e)
					continue
				}
				walk(join(path, k), e)
			}
			return
		}
		text, err := json.Marshal(v)
		if err != nil {
			panic("bug: marshal decoded JSON: " + err.Error())
		}
		out[path] = string(text)
	}
	walk("", v)
	return out, nil
}

// Redacted returns a copy for display. Secrets that are set hold a fixed text
// instead of their value, so that not even reflection finds them.
func (c *Config) Redacted() Config {
	out := *c
	out.Clusters = make(map[string]Cluster, len(c.Clusters))
	for name, cl := range c.Clusters {
		cl.SASL = redactedSASL(cl.SASL)
		out.Clusters[name] = cl
	}
	out.Pairs = make(map[string]Pair, len(c.Pairs))
	for name, p := range c.Pairs {
		p.Canary = maps.Clone(p.Canary)
		for cluster, cl := range p.Canary {
			cl.SASL = redactedSASL(cl.SASL)
			p.Canary[cluster] = cl
		}
		for _, h := range []**Hook{&p.Fence.Hook, &p.Hooks.OnFence, &p.Hooks.OnSwitch, &p.Hooks.OnDone} {
			if *h != nil {
				hook := **h
				hook.Token = hide(hook.Token)
				*h = &hook
			}
		}
		out.Pairs[name] = p
	}
	out.PairNames = slices.Clone(c.PairNames)
	out.API.Token = hide(c.API.Token)
	out.Replicators = maps.Clone(c.Replicators)
	out.ReplicatorNames = slices.Clone(c.ReplicatorNames)
	return out
}

// hide returns a fixed text in place of a secret that is set.
func hide(s dr.Secret) dr.Secret {
	if s.IsZero() {
		return s
	}
	return dr.NewSecret("<redacted>")
}

func redactedSASL(in *SASL) *SASL {
	if in == nil {
		return nil
	}
	s := *in
	s.Password = hide(s.Password)
	if s.OAuth != nil {
		o := *s.OAuth
		o.ClientSecret = hide(o.ClientSecret)
		s.OAuth = &o
	}
	if s.AWS != nil {
		a := *s.AWS
		a.SecretKey, a.SessionToken = hide(a.SecretKey), hide(a.SessionToken)
		s.AWS = &a
	}
	return &s
}
