package kclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// MaxFrame bounds one answer of a broker, in bytes.
	MaxFrame = 256 << 20
	// trustedFrame is up to which size a buffer is made before the bytes came.
	trustedFrame = 16 << 20
	// progress is how much has to pass within the time that is given: a slow
	// link is not a dead one.
	progress = 1 << 20
	// gather is how much of a large answer the kernel collects before it wakes
	// the reader.
	gather = 128 << 10
)

// Conn is an authenticated connection to one broker whose owner frames the
// requests himself: the data path moves gigabytes over few connections, where
// the hand-overs of a client library cost more than the transport.
//
// The client library still connects, encrypts and authenticates; it hands the
// connection over once that is done. One goroutine may write while another
// reads.
type Conn struct {
	conn     net.Conn
	clientID string
	joined   []byte // of a write of parts where the connection takes one piece only
	versions map[int16][2]int16
	expires  time.Time
	format   *kmsg.RequestFormatter
	ahead    []byte     // read and not returned yet, in head
	head     [1024]byte // small answers come with one read

	mu struct {
		sync.Mutex
		muted time.Time // until then the broker does nothing for the connection
	}
}

// Connect opens a connection to the broker at an address and authenticates. It
// returns the errors of the client library: *DialError where the address can't
// be reached.
func Connect(ctx context.Context, o Options, addr string) (*Conn, error) {
	o.BootstrapServers = []string{addr}
	var taken handedOver
	cl, err := newClient(o, taken.wrap, kgo.RequestRetries(0))
	if err != nil {
		return nil, err
	}
	c, err := take(ctx, o, cl, &taken)
	if err != nil {
		cl.Close()
		return nil, err
	}
	return c, nil
}

func take(ctx context.Context, o Options, cl *kgo.Client, taken *handedOver) (*Conn, error) {
	o = o.withDefaults()
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "anabranch", softwareVersion(o.SoftwareVersion)
	resp, err := cl.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("connect to a broker: %w", err)
	}
	av, ok := resp.(*kmsg.ApiVersionsResponse)
	if !ok {
		return nil, fmt.Errorf("connect to a broker: unexpected answer %T", resp)
	}
	if err := kerr.ErrorForCode(av.ErrorCode); err != nil {
		return nil, fmt.Errorf("ask a broker for its versions: %w", err)
	}
	c := &Conn{clientID: o.ClientID, versions: make(map[int16][2]int16, len(av.ApiKeys)), format: kmsg.NewRequestFormatter(kmsg.FormatterClientID(o.ClientID))}
	for _, k := range av.ApiKeys {
		c.versions[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
	}
	c.conn, c.expires = taken.take()
	if c.conn == nil {
		return nil, errors.New("bug: the client library has no connection after an answer")
	}
	cl.Close()
	return c, nil
}

// SetVersion gives a request the newest version that both sides speak.
func (c *Conn) SetVersion(req kmsg.Request) error {
	r, ok := c.versions[req.Key()]
	v := min(r[1], req.MaxVersion())
	if !ok || v < r[0] {
		return fmt.Errorf("the broker takes no version of %s that is known here", kmsg.NameForKey(req.Key()))
	}
	req.SetVersion(v)
	return nil
}

// Version returns the newest version of a request that the broker and the caller
// speak, whose versions are oldest to newest.
func (c *Conn) Version(key, oldest, newest int16) (int16, error) {
	r, ok := c.versions[key]
	v := min(r[1], newest)
	if !ok || v < max(r[0], oldest) {
		return 0, fmt.Errorf("the broker takes no version of %s from %d to %d", kmsg.NameForKey(key), oldest, newest)
	}
	return v, nil
}

// ClientID is what requests name as their client.
func (c *Conn) ClientID() string { return c.clientID }

// Expires is when the broker ends the session unless it is authenticated anew
// (KIP-368), zero for never. The owner opens another connection before.
func (c *Conn) Expires() time.Time { return c.expires }

// Encode returns the frame of a request whose version is set, in the memory of
// buf if it is large enough.
func (c *Conn) Encode(buf []byte, req kmsg.Request, correlation int32) []byte {
	return c.format.AppendRequest(buf[:0], req, correlation)
}

// Write writes a frame. Every MiB of it has to go within the given time, and
// moves the deadline of reads as far.
func (c *Conn) Write(frame []byte, within time.Duration) error {
	for len(frame) > 0 {
		n := min(len(frame), progress)
		if err := c.bound(c.conn.SetDeadline, within); err != nil {
			return fmt.Errorf("write to a broker: %w", err)
		}
		if _, err := c.conn.Write(frame[:n]); err != nil {
			return fmt.Errorf("write to a broker: %w", err)
		}
		frame = frame[n:]
	}
	return nil
}

// WriteParts writes a frame that is in parts, as Write does. It consumes parts.
func (c *Conn) WriteParts(parts net.Buffers, within time.Duration) error {
	tcp, ok := c.conn.(*net.TCPConn)
	if !ok { // each part would become a record of TLS
		c.joined = c.joined[:0]
		for _, p := range parts {
			c.joined = append(c.joined, p...)
		}
		return c.Write(c.joined, within)
	}
	for len(parts) > 0 {
		n, size := 0, 0
		for n < len(parts) && size < progress {
			size += len(parts[n])
			n++
		}
		if err := c.bound(tcp.SetDeadline, within); err != nil {
			return fmt.Errorf("write to a broker: %w", err)
		}
		piece := parts[:n]
		parts = parts[n:]
		if _, err := piece.WriteTo(tcp); err != nil {
			return fmt.Errorf("write to a broker: %w", err)
		}
	}
	return nil
}

// ReadWithin bounds the reads that follow and the one that is under way.
func (c *Conn) ReadWithin(d time.Duration) error { return c.bound(c.conn.SetReadDeadline, d) }

// Muted says that the broker neither reads from nor writes to the connection for
// some time (KIP-219). Every deadline counts from then on, also that of what is
// under way now, which gets the time within.
func (c *Conn) Muted(d, within time.Duration) error {
	c.mu.Lock()
	c.mu.muted = time.Now().Add(d)
	c.mu.Unlock()
	return c.bound(c.conn.SetDeadline, within)
}

// bound sets a deadline: the given time from now, or from when the broker goes on.
// It is set under the lock, so that Muted moves one that was made just before.
func (c *Conn) bound(set func(time.Time) error, within time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := time.Now()
	if c.mu.muted.After(from) {
		from = c.mu.muted
	}
	return set(from.Add(within))
}

// ReadFrame reads one answer without its length. It waits for the answer as
// long as ReadWithin says; every MiB of it has to come within the given time.
// buffer gives the memory for an answer of n bytes. What a broker says of an
// answer's size is believed up to 16 MiB; memory for more is made as the bytes
// come.
func (c *Conn) ReadFrame(within time.Duration, buffer func(n int) []byte) ([]byte, error) {
	if err := c.readSize(); err != nil {
		return nil, fmt.Errorf("read from a broker: %w", err)
	}
	n := int(int32(binary.BigEndian.Uint32(c.ahead)))
	if n < 4 || n > MaxFrame {
		return nil, fmt.Errorf("read from a broker: an answer of %d bytes", n)
	}
	b := buffer(min(n, trustedFrame))
	at := copy(b, c.ahead[4:])
	c.ahead = c.ahead[4+at:]
	gathers := n >= 2*gather
	if gathers {
		lowWater(c.conn, gather)
		defer lowWater(c.conn, 1)
	}
	for at < n {
		if at == len(b) {
			grown := buffer(min(n, 2*at))
			copy(grown, b)
			b = grown
		}
		piece := b[at:min(len(b), at+progress)]
		if err := c.ReadWithin(within); err != nil {
			return nil, fmt.Errorf("read from a broker: %w", err)
		}
		for len(piece) > 0 {
			if left := n - at; gathers && left < gather { // the kernel must not wait for more
				lowWater(c.conn, left)
			}
			got, err := c.conn.Read(piece)
			if got == 0 && err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return nil, fmt.Errorf("read from a broker: %w", err)
			}
			piece, at = piece[got:], at+got
		}
	}
	return b, nil
}

// readSize reads until ahead holds the size of an answer, and what came with it.
func (c *Conn) readSize() error {
	if len(c.ahead) >= 4 {
		return nil
	}
	have := copy(c.head[:], c.ahead)
	n, err := io.ReadAtLeast(c.conn, c.head[have:], 4-have)
	if err != nil {
		return err
	}
	c.ahead = c.head[:have+n]
	return nil
}

// Close closes the connection. It may be called more than once and from any
// goroutine.
func (c *Conn) Close() { _ = c.conn.Close() } // an error says that it was closed

// Decode reads an answer, as ReadFrame returned it, into its type, whose
// version is that of the request. Byte slices in it point into the answer.
func Decode(frame []byte, correlation int32, resp kmsg.Response) error {
	r := kbin.Reader{Src: frame}
	if got := r.Int32(); got != correlation {
		return fmt.Errorf("read from a broker: the answer is to request %d instead of %d", got, correlation)
	}
	if resp.IsFlexible() {
		for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
			r.Uvarint()
			r.Span(int(min(r.Uvarint(), math.MaxInt32)))
		}
	}
	if !r.Ok() {
		return errors.New("read from a broker: the answer's header is cut off")
	}
	if err := resp.ReadFrom(r.Src); err != nil {
		return fmt.Errorf("read from a broker: decode its answer: %w", err)
	}
	return nil
}

// handedOver catches the one connection that a client makes.
type handedOver struct {
	mu   sync.Mutex
	last *handOver
}

func (h *handedOver) wrap(c net.Conn) net.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = &handOver{Conn: c}
	return h.last
}

// take returns the connection, which the client can't touch any more, and when
// its session ends.
func (h *handedOver) take() (net.Conn, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		return nil, time.Time{}
	}
	return h.last.take()
}

// handOver is a connection that a client has until it is taken. On its way it
// notes how long the session lasts (SaslAuthenticate answers), which the client
// library does not tell.
type handOver struct {
	net.Conn

	mu      sync.Mutex
	taken   bool
	key     int16 // of the last request
	version int16
	answer  []byte // to a SaslAuthenticate request
	expires time.Time
}

func (h *handOver) take() (net.Conn, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noteLifetime()
	if h.taken {
		return nil, time.Time{}
	}
	h.taken = true
	if err := h.Conn.SetDeadline(time.Time{}); err != nil {
		return nil, time.Time{}
	}
	return h.Conn, h.expires
}

const (
	keySASLAuthenticate = 36
	maxSASLAnswer       = 64 << 10
)

func (h *handOver) Write(b []byte) (int, error) {
	h.mu.Lock()
	if h.taken {
		h.mu.Unlock()
		return 0, net.ErrClosed
	}
	h.noteLifetime()
	h.key = -1
	if len(b) >= 8 {
		h.key, h.version = int16(binary.BigEndian.Uint16(b[4:])), int16(binary.BigEndian.Uint16(b[6:]))
	}
	h.mu.Unlock()
	return h.Conn.Write(b)
}

func (h *handOver) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.key == keySASLAuthenticate && len(h.answer)+n <= maxSASLAnswer {
		h.answer = append(h.answer, b[:n]...)
	}
	return n, err
}

// noteLifetime looks into the answer of a SaslAuthenticate request.
func (h *handOver) noteLifetime() {
	frame := h.answer
	h.answer = nil
	if h.key != keySASLAuthenticate || len(frame) < 8 {
		return
	}
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	resp.SetVersion(h.version)
	if Decode(frame[4:], int32(binary.BigEndian.Uint32(frame[4:])), resp) != nil || resp.SessionLifetimeMillis <= 0 {
		return
	}
	h.expires = time.Now().Add(time.Duration(min(resp.SessionLifetimeMillis, int64(365*24*time.Hour/time.Millisecond))) * time.Millisecond * 9 / 10)
}

func (h *handOver) Close() error {
	if h.isTaken() {
		return nil
	}
	return h.Conn.Close()
}

func (h *handOver) SetDeadline(t time.Time) error {
	if h.isTaken() {
		return nil
	}
	return h.Conn.SetDeadline(t)
}

func (h *handOver) SetReadDeadline(t time.Time) error {
	if h.isTaken() {
		return nil
	}
	return h.Conn.SetReadDeadline(t)
}

func (h *handOver) SetWriteDeadline(t time.Time) error {
	if h.isTaken() {
		return nil
	}
	return h.Conn.SetWriteDeadline(t)
}

func (h *handOver) isTaken() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.taken
}
