package groups

import (
	"bytes"
	"context"
	"maps"
	"slices"
)

// View is the records of this package in one cluster's state topic. It may be
// used from any goroutine.
type View interface {
	// Refresh returns nil when Range shows all that was written before the call.
	Refresh(ctx context.Context) error
	// Range calls fn for all records whose keys begin with KeyPrefix, in any
	// order. The values must not be changed. fn does not call the View.
	Range(fn func(key string, value []byte))
}

// Records is the durable memory: the records in the target's state topic.
type Records interface {
	View
	// Write is durable, and Range shows it, when it returns nil. A nil value
	// deletes its key. What was written before it failed stays.
	Write(ctx context.Context, values map[string][]byte) error
}

// book is what the records of one state topic say, decoded. It has one owner at
// a time.
type book struct {
	pages  map[string]*bound
	index  map[place][]*page // of each replicator and source topic what its records say together
	broken map[string]error  // groups with a record that can't be read
}

// bound is a page and the bytes that it was made of.
type bound struct {
	raw  []byte
	page *page // nil: it can't be read
	seen bool
}

// place is what a page speaks of on the cluster that it lies on.
type place struct {
	topicID [16]byte
	chunk   int32
	group   string
}

// refresh reads what changed. It returns how many records can't be read, and why
// the first of those that changed can't; what can is there all the same.
func (b *book) refresh(v View) (bad int, err error) {
	if b.pages == nil {
		b.pages, b.index = map[string]*bound{}, map[place][]*page{}
	}
	for _, x := range b.pages {
		x.seen = false
	}
	changed, dropped := map[string][]byte{}, false
	v.Range(func(key string, value []byte) {
		if x := b.pages[key]; x != nil && same(x.raw, value) {
			x.seen = true
			return
		}
		changed[key] = value
	})
	for key, x := range b.pages {
		if !x.seen {
			delete(b.pages, key)
			dropped = true
		}
	}
	for key, value := range changed {
		p, wrong := decodePage(key, value)
		if err == nil {
			err = wrong
		}
		b.pages[key] = &bound{raw: value, page: p}
	}
	if len(changed) > 0 || dropped {
		b.reindex()
	}
	return len(b.broken), err
}

// same reports whether two values are one: mostly the very same bytes.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || bytes.Equal(a, b))
}

func (b *book) reindex() {
	b.index, b.broken = make(map[place][]*page, len(b.pages)), map[string]error{}
	for _, key := range slices.Sorted(maps.Keys(b.pages)) {
		x := b.pages[key]
		if x.page == nil {
			k, err := parsePageKey(key)
			if err == nil {
				_, err = decodePage(key, x.raw)
			}
			b.broken[k.group] = err
			continue
		}
		at := place{x.page.targetID, x.page.key.chunk, x.page.key.group}
		list := b.index[at]
		if i := slices.IndexFunc(list, func(p *page) bool { return p.key == x.page.key }); i >= 0 {
			list[i] = list[i].join(x.page)
			continue
		}
		b.index[at] = append(list, x.page)
	}
}

// of returns what a replicator remembers, by group.
func (b *book) of(replicator string) map[string][]*page {
	out := map[string][]*page{}
	for _, list := range b.index {
		for _, p := range list {
			if p.key.replicator == replicator {
				out[p.key.group] = append(out[p.key.group], p)
			}
		}
	}
	return out
}

// about returns the pages that speak of a partition of a topic of the cluster
// that the book lies on.
func (b *book) about(topicID [16]byte, partition int32, group string) []*page {
	return b.index[place{topicID, partition / pagePartitions, group}]
}
