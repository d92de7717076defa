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

// scanned is what a fetch brought for a partition.
type scanned struct {
	next   int64 // offset to go on with
	epoch  int32 // leader epoch of the last batch
	bytes  int   // of whole entries
	batch  int   // of the last one
	packed bool  // that one is compressed
}

// wide reports whether it goes to the target in large batches: as it is, or put
// together, see pipeline.step.
func (s scanned) wide() bool {
	most := mergePlain
	if s.packed {
		most = mergePacked
	}
	return s.batch >= fetchLargeBatch || s.batch <= most && s.bytes >= fetchLeastBytes
}

// scan walks the whole entries of a fetch answer. An entry that can't be walked
// is left to the pipeline, which reports it.
func scan(b []byte, next int64, epoch int32) scanned {
	s := scanned{next: next, epoch: epoch}
	var last []byte
	var magic int8
	rest := b
	for {
		entry, r, m, err := kbatch.Next(rest)
		if err != nil {
			if s.bytes = len(b); errors.Is(err, kbatch.ErrPartial) {
				s.bytes -= len(rest)
			}
			break
		}
		last, magic, rest = entry, m, r
	}
	if s.batch = len(last); s.batch == 0 {
		return s
	}
	if magic < 2 {
		if _, offset, err := kbatch.OffsetRange(last); err == nil {
			s.next = max(s.next, offset+1)
		}
	} else if h, err := kbatch.ParseHeader(last); err == nil {
		s.next, s.epoch, s.packed = max(s.next, h.LastOffset()+1), h.LeaderEpoch, h.Codec() != kbatch.CodecNone
	}
	return s
}
