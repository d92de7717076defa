package ktest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Ports are taken from below the usual ephemeral range, so that no outgoing
// connection occupies the port of a broker that is down for a moment.
const (
	firstPort = 20000
	lastPort  = 31999
)

// FreeAddress returns a loopback address that nobody listens on, and that no
// other test gets before this one has ended.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	var p portSet
	port, err := p.take()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.release)
	return loopback(port)
}

// portSet reserves ports among all processes that use this package: each port
// has a lock file, held until release or the end of the process.
type portSet struct {
	locks []*os.File
}

// take reserves one port that nobody listens on now.
func (p *portSet) take() (int, error) {
	dir := filepath.Join(os.TempDir(), "anabranch-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("make port lock directory: %w", err)
	}
	const attempts = 500
	for range attempts {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		ok, err := p.try(dir, port)
		if err != nil {
			return 0, err
		}
		if ok {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: none after %d attempts", attempts)
}

func (p *portSet) try(dir string, port int) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, fmt.Errorf("open port lock: %w", err)
	}
	if err := tryLock(f); err != nil {
		f.Close()
		if errors.Is(err, errLocked) {
			return false, nil
		}
		return false, fmt.Errorf("lock port: %w", err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		f.Close()
		return false, nil //nolint:nilerr // somebody has the port: an answer, not a failure
	}
	l.Close()
	p.locks = append(p.locks, f)
	return true, nil
}

// release gives all ports back.
func (p *portSet) release() {
	for _, f := range p.locks {
		f.Close()
	}
	p.locks = nil
}
