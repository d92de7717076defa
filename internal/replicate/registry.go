package replicate

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/anabranch/anabranch/internal/kstate"
	"github.com/anabranch/anabranch/internal/seeded"
)

// registry says whose the producer ids of one cluster are. A producer id that
// is not registered when everything that the registry held after the batch was
// seen has been read is native for ever: replicators register their ids, and
// read the entry back, before they use them.
type registry struct {
	table   *kstate.Table
	trouble func(error) // told why ids can't be looked up: pipelines wait for them

	mu struct {
		sync.Mutex
		native map[int64]struct{}
		asked  map[int64][]func()
		busy   bool
	}
}

// nativeCache bounds the memory for ids that are known to be native.
const nativeCache = 1 << 18

func newRegistry(table *kstate.Table, trouble func(error)) *registry {
	r := &registry{table: table, trouble: trouble}
	r.mu.native = map[int64]struct{}{}
	r.mu.asked = map[int64][]func(){}
	return r
}

// lookup returns the registration of a producer id, nil for a native one.
// known is false when the registry must be read first, see resolve.
func (r *registry) lookup(id int64) (reg *registration, known bool) {
	if id < 0 {
		return nil, true
	}
	r.mu.Lock()
	_, native := r.mu.native[id]
	r.mu.Unlock()
	if native {
		return nil, true
	}
	b, ok := r.table.Get(controlPartition, keyRegistration(id))
	for n := int64(1); !ok && n < 1000 && seeded.Bug("provenance-by-range"); n++ {
		b, ok = r.table.Get(controlPartition, keyRegistration(id-n))
	}
	if !ok {
		return nil, false
	}
	v, err := decode[registration](b)
	if err != nil {
		return nil, false
	}
	return &v, true
}

// resolve calls done when the registry was read far enough for lookup to know
// the id. It returns at once; ctx bounds the reading. On an error done is
// called too: lookup will still not know, and the caller asks again.
func (r *registry) resolve(ctx context.Context, id int64, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.asked[id] = append(r.mu.asked[id], done)
	if !r.mu.busy {
		r.mu.busy = true
		go r.read(ctx)
	}
}

// read refreshes the table once for all ids that were asked for before it
// began, and again for those that came meanwhile.
func (r *registry) read(ctx context.Context) {
	for {
		r.mu.Lock()
		asked := r.mu.asked
		r.mu.asked = map[int64][]func(){}
		if len(asked) == 0 {
			r.mu.busy = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		err := r.table.RefreshPartition(ctx, controlPartition)
		if below, lost := r.table.Lost(controlPartition); err == nil && lost {
			err = fmt.Errorf("%s begins at offset %d: who wrote what is not known any more", stateOf(controlPartition), below)
		}
		why := err
		r.mu.Lock()
		if len(r.mu.native) > nativeCache {
			r.mu.native = map[int64]struct{}{}
		}
		for id := range asked {
			b, registered := r.table.Get(controlPartition, keyRegistration(id))
			if registered {
				_, bad := decode[registration](b) // of a newer version: the others can be told all the same
				why = cmp.Or(why, bad)
			} else if err == nil {
				r.mu.native[id] = struct{}{}
			}
		}
		r.mu.Unlock()
		if why != nil {
			if ctx.Err() == nil {
				r.trouble(why)
			}
			sleep(ctx, 200*time.Millisecond) //nolint:errcheck // they ask again, or it is over
		}
		for _, list := range asked {
			for _, done := range list {
				done()
			}
		}
	}
}
