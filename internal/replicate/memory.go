package replicate

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Sizes of pooled memory, in bytes.
const (
	smallestPooled = 64 << 10 // below it the garbage collector does as well
	largestPooled  = 16 << 20
	mostPooled     = 16 << 20 // unused and kept
	poolStep       = 256 << 10
)

// memoryPool keeps the memory of fetch answers for the next ones: memory that
// was just used is still in the processor's caches. What was used last is given
// out first.
type memoryPool struct {
	mu struct {
		sync.Mutex
		free  [][]byte
		bytes int
	}
}

// get returns a buffer of n bytes with any content.
func (p *memoryPool) get(n int) []byte {
	if n < smallestPooled || n > largestPooled {
		return make([]byte, n)
	}
	size := (n + poolStep - 1) / poolStep * poolStep
	p.mu.Lock()
	for i, b := range slices.Backward(p.mu.free) {
		if cap(b) >= n && cap(b) <= 2*size {
			p.mu.free = append(p.mu.free[:i], p.mu.free[i+1:]...)
			p.mu.bytes -= cap(b)
			p.mu.Unlock()
			return b[:n]
		}
	}
	p.mu.Unlock()
	return make([]byte, n, size)
}

// put takes back what get returned and nobody uses any more.
func (p *memoryPool) put(b []byte) {
	size := cap(b)
	if size < smallestPooled || size > largestPooled+poolStep {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mu.bytes+size > mostPooled && len(p.mu.free) > 0 { // the longest unused goes
		p.mu.bytes -= cap(p.mu.free[0])
		p.mu.free = p.mu.free[1:]
	}
	p.mu.free = append(p.mu.free, b[:0])
	p.mu.bytes += size
}

// memory is that of one fetch answer, shared by all that hold a part of it. The
// last to drop it gives it back. A holder that goes away without a word, as the
// pipelines of a slot do that is taken over again, leaves it to the garbage
// collector: only who knows that nobody reads the bytes any more may drop it.
type memory struct {
	pool  *memoryPool
	bytes []byte
	users atomic.Int32
}

func newMemory(pool *memoryPool, bytes []byte) *memory {
	m := &memory{pool: pool, bytes: bytes}
	m.users.Store(1)
	return m
}

// hold adds a holder. The nil memory is nobody's.
func (m *memory) hold() *memory {
	if m != nil {
		m.users.Add(1)
	}
	return m
}

func (m *memory) drop() {
	if m == nil {
		return
	}
	switch n := m.users.Add(-1); {
	case n == 0:
		m.pool.put(m.bytes)
	case n < 0:
		panic("bug: the memory of a fetch answer was dropped twice")
	}
}
