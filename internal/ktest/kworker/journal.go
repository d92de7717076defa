package kworker

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strconv"
	"sync"
)

// Phase is what a worker process is doing, as far as its log tells.
type Phase string

// The phases.
const (
	Starting   Phase = "starting"    // no slot was acquired yet
	TakingOver Phase = "taking over" // a tail was read for a slot that is not acquired yet
	Copying    Phase = "copying"
)

// slotLine finds the lines about take-overs in a worker's log.
var slotLine = regexp.MustCompile(`msg="(slot acquired|tail read|slot is taken over again|partition halted)".* slot=(\d+)`)

// Journal follows what a worker process logs at level info, and passes it on. Its
// methods may be called from any goroutine.
type Journal struct {
	out      io.Writer
	acquired func(slot int32) // nil: nobody asks
	tailed   chan struct{}    // has one after a tail was read

	mu struct {
		sync.Mutex
		rest   []byte              // of a line that is not complete
		began  bool                // some slot was acquired, once
		taking map[string]struct{} // slots whose tail was read last
		halted []string            // lines about partitions that halted
		broken []string            // lines that no fault explains
	}
}

// NewJournal returns a Journal that passes all on to out, and calls acquired, if
// it is not nil, for each slot that the worker acquires. acquired must not use
// the Journal.
func NewJournal(out io.Writer, acquired func(slot int32)) *Journal {
	j := &Journal{out: out, acquired: acquired, tailed: make(chan struct{}, 1)}
	j.mu.taking = map[string]struct{}{}
	return j
}

// Write takes what the process logs.
func (j *Journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	j.mu.rest = append(j.mu.rest, b...)
	for {
		line, rest, ok := bytes.Cut(j.mu.rest, []byte("\n"))
		if !ok {
			break
		}
		j.read(line)
		j.mu.rest = rest
	}
	j.mu.Unlock()
	return j.out.Write(b)
}

func (j *Journal) read(line []byte) {
	for _, sign := range []string{"DATA RACE", "panic:", "the answer is to request"} {
		if bytes.Contains(line, []byte(sign)) {
			j.mu.broken = append(j.mu.broken, string(line))
		}
	}
	m := slotLine.FindSubmatch(line)
	if m == nil {
		return
	}
	slot := string(m[2])
	switch string(m[1]) {
	case "slot acquired":
		j.mu.began = true
		delete(j.mu.taking, slot)
		if n, err := strconv.ParseInt(slot, 10, 32); err == nil && j.acquired != nil {
			j.acquired(int32(n))
		}
	case "tail read":
		j.mu.taking[slot] = struct{}{}
		select {
		case j.tailed <- struct{}{}:
		default:
		}
	case "slot is taken over again":
		j.mu.taking[slot] = struct{}{}
	case "partition halted":
		j.mu.halted = append(j.mu.halted, string(line))
	}
}

// Phase says what the process is doing.
func (j *Journal) Phase() Phase {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case len(j.mu.taking) > 0:
		return TakingOver
	case !j.mu.began:
		return Starting
	default:
		return Copying
	}
}

// Tailed has a value after a tail was read.
func (j *Journal) Tailed() <-chan struct{} { return j.tailed }

// ForgetTails makes Tailed wait for a tail that is read from now on.
func (j *Journal) ForgetTails() {
	select {
	case <-j.tailed:
	default:
	}
}

// Halted returns the lines about partitions that halted.
func (j *Journal) Halted() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.mu.halted)
}

// Broken returns the lines that no kill and no fault of networks or brokers can
// be a reason for.
func (j *Journal) Broken() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.mu.broken)
}
