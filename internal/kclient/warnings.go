package kclient

import (
	"sync"
	"time"
)

// repeatAfter is how often one failure that lasts is told.
const repeatAfter = 30 * time.Second

// Warnings keeps the log readable while brokers cannot be reached: clients make
// several attempts a second, and a worker has many clients. Those that share a
// Warnings warn once of an address and a cause, and again at most every 30
// seconds while it lasts.
//
// All methods may be called from any goroutine.
type Warnings struct {
	mu struct {
		sync.Mutex
		told map[warning]*told
	}
}

// warning is what is told once.
type warning struct {
	cluster, address, message string
	cause                     Cause
}

type told struct {
	at   time.Time
	held int // since then
}

// NewWarnings returns Warnings that have told nothing yet.
func NewWarnings() *Warnings {
	w := &Warnings{}
	w.mu.told = map[warning]*told{}
	return w
}

// due reports whether the warning is to be told now, and how many like it were
// held back since it was told last.
func (w *Warnings) due(x warning) (held int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if t := w.mu.told[x]; t != nil {
		if now.Sub(t.at) < repeatAfter {
			t.held++
			return 0, false
		}
		held = t.held
	} else {
		w.forget(now)
	}
	w.mu.told[x] = &told{at: now}
	return held, true
}

// forget drops what is over, so that addresses that brokers no longer have do
// not stay for ever.
func (w *Warnings) forget(now time.Time) {
	for x, t := range w.mu.told {
		if now.Sub(t.at) > 10*repeatAfter {
			delete(w.mu.told, x)
		}
	}
}
