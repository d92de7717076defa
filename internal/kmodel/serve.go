package kmodel

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxFrame is socket.request.max.bytes.
const maxFrame = 100 << 20

// request is one request on its way through a broker.
type request struct {
	b        *broker
	client   string
	kmsg     kmsg.Request
	down     <-chan struct{} // closed when the broker stops
	throttle time.Duration   // the connection is muted for it after the answer
	latency  time.Duration   // before the answer
}

// api is a request that the model serves.
type api struct {
	key      int16
	min, max int16
	handle   func(*Cluster, *request) kmsg.Response
}

// serve adapts a handler to the type of its request.
func serve[Q kmsg.Request](h func(*Cluster, *request, Q) kmsg.Response) func(*Cluster, *request) kmsg.Response {
	return func(c *Cluster, r *request) kmsg.Response {
		q, ok := r.kmsg.(Q)
		if !ok {
			panic(fmt.Sprintf("bug: request %T", r.kmsg))
		}
		return h(c, r, q)
	}
}

// locked runs a handler that never waits under the mutex.
func locked[Q kmsg.Request](h func(*Cluster, *request, Q) kmsg.Response) func(*Cluster, *request) kmsg.Response {
	return serve(func(c *Cluster, r *request, q Q) kmsg.Response {
		c.mu.Lock()
		defer c.mu.Unlock()
		return h(c, r, q)
	})
}

// apis returns what the version serves, by key.
func (c *Cluster) apis() map[int16]api {
	list := []api{
		{0, 3, 13, serve((*Cluster).produce)},
		{1, 4, 17, serve((*Cluster).fetch)},
		{2, 1, 10, locked((*Cluster).listOffsets)},
		{3, 0, 13, locked((*Cluster).metadata)},
		{8, 2, 9, locked((*Cluster).offsetCommit)},
		{9, 1, 9, locked((*Cluster).offsetFetch)},
		{10, 0, 6, locked((*Cluster).findCoordinator)},
		{11, 2, 9, serve((*Cluster).joinGroup)},
		{12, 0, 4, locked((*Cluster).heartbeat)},
		{13, 0, 5, locked((*Cluster).leaveGroup)},
		{14, 0, 5, serve((*Cluster).syncGroup)},
		{15, 0, 5, locked((*Cluster).describeGroups)},
		{16, 0, 5, locked((*Cluster).listGroups)},
		{18, 0, 4, locked((*Cluster).apiVersions)},
		{19, 2, 7, locked((*Cluster).createTopics)},
		{20, 1, 6, locked((*Cluster).deleteTopics)},
		{21, 0, 2, locked((*Cluster).deleteRecords)},
		{22, 0, 5, locked((*Cluster).initProducerID)},
		{23, 2, 4, locked((*Cluster).offsetForLeaderEpoch)},
		{24, 0, 3, locked((*Cluster).addPartitionsToTxn)},
		{26, 0, 5, locked((*Cluster).endTxn)},
		{27, 1, 2, serve((*Cluster).writeTxnMarkers)},
		{32, 1, 4, locked((*Cluster).describeConfigs)},
		{37, 0, 3, locked((*Cluster).createPartitions)},
		{42, 0, 2, locked((*Cluster).deleteGroups)},
		{44, 0, 1, locked((*Cluster).incrementalAlterConfigs)},
		{60, 0, 2, locked((*Cluster).describeCluster)},
		{61, 0, 0, locked((*Cluster).describeProducers)},
		{65, 0, 0, locked((*Cluster).describeTransactions)},
		{66, 0, 1, locked((*Cluster).listTransactions)},
	}
	oldest := map[int16]int16{0: 11, 2: 9, 3: 12, 26: 4, 27: 1, 60: 1}
	out := map[int16]api{}
	for _, a := range list {
		if most, ok := oldest[a.key]; ok && c.o.Version == Oldest {
			a.max = most
		}
		out[a.key] = a
	}
	return out
}

func (b *broker) accept(l net.Listener) {
	apis := b.c.served
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		b.c.mu.Lock()
		if b.l != l || !b.running {
			b.c.mu.Unlock()
			_ = nc.Close()
			return
		}
		b.conns[nc] = struct{}{}
		down := b.down
		b.c.wait.Go(func() {
			b.converse(nc, apis, down)
			_ = nc.Close()
			b.c.mu.Lock()
			defer b.c.mu.Unlock()
			delete(b.conns, nc)
		})
		b.c.mu.Unlock()
	}
}

// converse answers the requests of a connection, one after the other, as a
// broker does, which mutes a channel until it has answered (SocketServer).
func (b *broker) converse(nc net.Conn, apis map[int16]api, down <-chan struct{}) {
	for {
		frame, err := readFrame(nc)
		if err != nil || !b.passPause(down) {
			return
		}
		r := &request{b: b, down: down}
		out, ok := b.answer(r, frame, apis)
		if !ok || !b.passPause(down) {
			return
		}
		lose, slow := b.c.fate(r)
		if !sleep(slow+r.latency, down) || lose {
			return
		}
		if out != nil {
			if _, err := nc.Write(out); err != nil {
				return
			}
		}
		if !sleep(r.throttle, down) { // KIP-219: answered at once, then muted
			return
		}
	}
}

func readFrame(nc net.Conn) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(nc, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("request of %d bytes: too large", n)
	}
	// The memory grows as the bytes come.
	const piece = 1 << 20
	var frame []byte
	for at := 0; at < int(n); at = len(frame) {
		frame = slices.Grow(frame, min(int(n)-at, piece))
		frame = frame[:at+min(int(n)-at, piece)]
		if _, err := io.ReadFull(nc, frame[at:]); err != nil {
			return nil, err
		}
	}
	return frame, nil
}

// passPause waits while the broker is paused. False: it stopped.
func (b *broker) passPause(down <-chan struct{}) bool {
	b.c.mu.Lock()
	paused := b.paused
	b.c.mu.Unlock()
	if paused != nil {
		<-paused
	}
	select {
	case <-down:
		return false
	default:
		return true
	}
}

// sleep waits. False: the broker stopped.
func sleep(d time.Duration, down <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-down:
		return false
	}
}

// answer decodes a request and serves it. No bytes: it gets no answer. False:
// the connection is closed.
func (b *broker) answer(r *request, frame []byte, apis map[int16]api) ([]byte, bool) {
	in := kbin.Reader{Src: frame}
	key, version, correlation := in.Int16(), in.Int16(), in.Int32()
	client := in.NullableString()
	a, known := apis[key]
	if !in.Ok() || !known {
		return nil, false
	}
	if client != nil {
		r.client = *client
	}
	r.kmsg = kmsg.RequestForKey(key)
	if version < a.min || version > a.max {
		if key != kmsg.ApiVersions.Int16() {
			return nil, false
		}
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: key, MinVersion: a.min, MaxVersion: a.max}}
		return seal(correlation, resp), true
	}
	r.kmsg.SetVersion(version)
	if r.kmsg.IsFlexible() {
		kmsg.SkipTags(&in)
	}
	if err := r.kmsg.ReadFrom(in.Src); err != nil {
		return nil, false
	}
	resp := a.handle(b.c, r)
	if resp == nil {
		return nil, true
	}
	if r.throttle > 0 {
		if t, ok := resp.(kmsg.SetThrottleResponse); ok {
			t.SetThrottle(int32(r.throttle / time.Millisecond))
		}
	}
	return seal(correlation, resp), true
}

// seal frames a response. The header of ApiVersions never has tags.
func seal(correlation int32, resp kmsg.Response) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 4, 256), uint32(correlation))
	if resp.IsFlexible() && resp.Key() != kmsg.ApiVersions.Int16() {
		out = append(out, 0)
	}
	out = resp.AppendTo(out)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out
}

func (c *Cluster) apiVersions(_ *request, req *kmsg.ApiVersionsRequest) kmsg.Response {
	resp := answerTo[kmsg.ApiVersionsResponse](req)
	for _, a := range c.served {
		resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: a.key, MinVersion: a.min, MaxVersion: a.max})
	}
	slices.SortFunc(resp.ApiKeys, func(x, y kmsg.ApiVersionsResponseApiKey) int { return int(x.ApiKey) - int(y.ApiKey) })
	supported := kmsg.NewApiVersionsResponseSupportedFeature()
	supported.Name, supported.MaxVersion = transactionVersion, 2
	resp.SupportedFeatures = append(resp.SupportedFeatures, supported)
	if level := int16(c.o.Features[transactionVersion]); level > 0 {
		f := kmsg.NewApiVersionsResponseFinalizedFeature()
		f.Name, f.MinVersionLevel, f.MaxVersionLevel = transactionVersion, level, level
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, f)
	}
	resp.FinalizedFeaturesEpoch = 1
	return resp
}

// answerTo makes the empty answer to a request.
func answerTo[R any, Q kmsg.Request, P interface {
	*R
	kmsg.Response
}](req Q) P {
	resp, ok := req.ResponseKind().(P)
	if !ok {
		panic(fmt.Sprintf("bug: the answer to %T", req))
	}
	return resp
}
