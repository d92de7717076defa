package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

const (
	clientID    = "anabranch-bench"
	maxResponse = 64 << 20
	// ioTimeout bounds every answer of a broker of the bench.
	ioTimeout = 30 * time.Second
)

// conn is a plaintext connection to a broker that moves bytes with as little
// work of its own as possible. One goroutine may write while another reads.
type conn struct {
	c      net.Conn
	r      *bufio.Reader
	buf    []byte
	format *kmsg.RequestFormatter
}

func dial(ctx context.Context, addr string) (*conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial broker: %w", err)
	}
	return &conn{c: c, r: bufio.NewReaderSize(c, 64<<10), format: kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID))}, nil
}

func (c *conn) Close() error { return c.c.Close() }

func (c *conn) write(req []byte) error {
	if err := c.c.SetWriteDeadline(time.Now().Add(ioTimeout)); err != nil {
		return err
	}
	_, err := c.c.Write(req)
	return err
}

// read returns the next response without its length. It is valid until the
// next call.
func (c *conn) read() ([]byte, error) {
	if err := c.c.SetReadDeadline(time.Now().Add(ioTimeout)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c.r, size[:]); err != nil {
		return nil, err
	}
	n := int(int32(binary.BigEndian.Uint32(size[:])))
	if n < 4 || n > maxResponse {
		return nil, fmt.Errorf("response of %d bytes", n)
	}
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	c.buf = c.buf[:n]
	if _, err := io.ReadFull(c.r, c.buf); err != nil {
		return nil, err
	}
	return c.buf, nil
}

// decode reads a response into its type. The flexible versions have a tag
// section after the correlation id, which brokers leave empty.
func decode(body []byte, resp kmsg.Response) error {
	skip := 4
	if resp.IsFlexible() {
		skip = 5
	}
	if len(body) < skip {
		return fmt.Errorf("decode response of %d bytes", len(body))
	}
	return resp.ReadFrom(body[skip:])
}

// roundTrip sends a request and reads its response, whose byte slices are valid
// until the next read.
func (c *conn) roundTrip(req kmsg.Request, resp kmsg.Response) error {
	resp.SetVersion(req.GetVersion())
	if err := c.write(c.format.AppendRequest(nil, req, 0)); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	body, err := c.read()
	if err != nil {
		return fmt.Errorf("read response: %w", err)
	}
	return decode(body, resp)
}

// inFlight is how many produce requests wait for an answer on a connection.
const inFlight = 5

// produceRaw writes requests as fast as the broker takes them until next says
// no more, and calls acked, which may be nil, for each answer without error.
// Both are called from one goroutine each.
func (c *conn) produceRaw(next func() ([]byte, bool), acked func()) error {
	slots := make(chan struct{}, inFlight)
	sent := make(chan struct{}, inFlight)
	failed := make(chan struct{})
	var g errgroup.Group
	g.Go(func() error {
		defer close(sent)
		for {
			req, ok := next()
			if !ok {
				return nil
			}
			select {
			case slots <- struct{}{}:
			case <-failed:
				return nil // the reader has the reason
			}
			if err := c.write(req); err != nil {
				return fmt.Errorf("write produce request: %w", err)
			}
			sent <- struct{}{}
		}
	})
	g.Go(func() error {
		defer close(failed)
		for range sent {
			body, err := c.read()
			if err != nil {
				return fmt.Errorf("read produce response: %w", err)
			}
			if err := checkProduced(body); err != nil {
				return err
			}
			if acked != nil {
				acked()
			}
			<-slots
		}
		return nil
	})
	return g.Wait()
}

func checkProduced(body []byte) error {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(produceVersion)
	if err := decode(body, resp); err != nil {
		return fmt.Errorf("decode produce response: %w", err)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("produce to %s[%d]: %w", t.Topic, p.Partition, err)
			}
		}
	}
	return nil
}

// preload puts n batches of the pool into every partition of a topic.
func preload(ctx context.Context, addr, topic string, p pool, n int64) error {
	return preloadParts(ctx, addr, topic, p, split(2), n)
}

// preloadParts does so for some partitions, over a connection for each part of
// them.
func preloadParts(ctx context.Context, addr, topic string, p pool, over [][]int32, n int64) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, parts := range over {
		g.Go(func() error {
			c, err := dial(gctx, addr)
			if err != nil {
				return err
			}
			defer c.Close()
			requests := p.requests(topic, parts)
			var i int64
			return c.produceRaw(func() ([]byte, bool) {
				if i == n || gctx.Err() != nil {
					return nil, false
				}
				i++
				return requests[(i-1)%int64(len(requests))], true
			}, nil)
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("preload %s: %w", topic, err)
	}
	return ctx.Err()
}

// endOffsets returns the high watermarks of the topic's partitions, zeros if
// the topic does not exist yet.
func (c *conn) endOffsets(topic string) ([]int64, error) { return c.endsOf(topic, partitions) }

func (c *conn) endsOf(topic string, parts int32) ([]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.SetVersion(listOffsetsVersion)
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for p := range parts {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.CurrentLeaderEpoch, rp.Timestamp = p, -1, -1
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = append(req.Topics, t)
	resp := kmsg.NewPtrListOffsetsResponse()
	if err := c.roundTrip(req, resp); err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	ends := make([]int64, parts)
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode == 0 && p.Partition >= 0 && p.Partition < parts {
				ends[p.Partition] = max(0, p.Offset)
			}
		}
	}
	return ends, nil
}
