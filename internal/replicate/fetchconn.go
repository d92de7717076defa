package replicate

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/anabranch/anabranch/internal/kbatch"
	"github.com/anabranch/anabranch/internal/kclient"
)

// fetchConn is the connection of one fetch loop, opened when it is needed.
type fetchConn struct {
	f           *fetcher
	node        int32
	conn        *kclient.Conn
	correlation int32
	frame       []byte // of the request
}

// fetch sends one request and reads its answer, whose byte slices are in the
// memory that is returned; the caller holds it.
func (c *fetchConn) fetch(ctx context.Context, req *kmsg.FetchRequest) (*kmsg.FetchResponse, *memory, error) {
	if c.conn != nil && !c.conn.Expires().IsZero() && time.Now().After(c.conn.Expires()) {
		c.close()
	}
	if c.conn == nil {
		dialCtx, cancel := context.WithTimeout(ctx, dialWithin)
		defer cancel()
		conn, err := c.f.connect(dialCtx, c.node)
		if err != nil {
			return nil, nil, err
		}
		c.conn = conn
	}
	resp, mem, err := c.roundTrip(ctx, req)
	if err != nil {
		c.close()
		return nil, nil, err
	}
	return resp, mem, nil
}

func (c *fetchConn) roundTrip(ctx context.Context, req *kmsg.FetchRequest) (*kmsg.FetchResponse, *memory, error) {
	defer context.AfterFunc(ctx, c.conn.Close)()
	if err := c.conn.SetVersion(req); err != nil {
		return nil, nil, err
	}
	c.correlation = (c.correlation + 1) & (1<<31 - 1)
	c.frame = c.conn.Encode(c.frame, req, c.correlation)
	if err := c.conn.Write(c.frame, answerWithin); err != nil {
		return nil, nil, err
	}
	frame, err := c.conn.ReadFrame(answerWithin, c.f.pool.get)
	if err != nil {
		return nil, nil, err
	}
	mem := newMemory(&c.f.pool, frame)
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(req.Version)
	if err := kclient.Decode(frame, c.correlation, resp); err != nil {
		return nil, nil, err
	}
	return resp, mem, nil
}

func (c *fetchConn) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// scan walks the whole entries of a fetch answer and returns the offset and
// the leader epoch to go on with, how many bytes are whole entries, and the size
// of the last. An entry that can't be walked is left to the pipeline, which
// reports it.
func scan(b []byte, next int64, epoch int32) (to int64, toEpoch int32, whole, size int) {
	rest := b
	for len(rest) > 0 {
		entry, r, magic, err := kbatch.Next(rest)
		if errors.Is(err, kbatch.ErrPartial) {
			return next, epoch, len(b) - len(rest), size
		}
		last := int64(-1)
		if err == nil && magic == 2 {
			var h kbatch.Header
			h, err = kbatch.ParseHeader(entry)
			last = h.LastOffset()
			if err == nil {
				epoch = h.LeaderEpoch
			}
		} else if err == nil {
			_, last, err = kbatch.OffsetRange(entry)
		}
		if err != nil {
			break
		}
		next, rest, size = max(next, last+1), r, len(entry)
	}
	return next, epoch, len(b), size
}
