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
// the leader epoch to go on with and how many bytes are whole entries. An entry
// that can't be walked is left to the pipeline, which reports it.
func scan(b []byte, next int64, epoch int32) (int64, int32, int) {
	rest := b
	for len(rest) > 0 {
		entry, r, magic, err := kbatch.Next(rest)
		if errors.Is(err, kbatch.ErrPartial) {
			return next, epoch, len(b) - len(rest)
		}
		if err != nil {
			return next, epoch, len(b)
		}
		last := int64(-1)
		if magic == 2 {
			h, err := kbatch.ParseHeader(entry)
			if err != nil {
				return next, epoch, len(b)
			}
			last, epoch = h.LastOffset(), h.LeaderEpoch
		} else if _, last, err = kbatch.OffsetRange(entry); err != nil {
			return next, epoch, len(b)
		}
		next, rest = max(next, last+1), r
	}
	return next, epoch, len(b)
}
