package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/fault"
)

// The link of the row: 1 Gbit/s each way, 150 ms there and back.
const (
	linkBytesPerSecond = 125_000_000
	linkDelay          = 75 * time.Millisecond // each way
	linkPartitions     = 10
	linkPatience       = 5 * time.Minute
	// linkWindowKiB is what a connection has under way: Linux's default of the largest
	// send buffer (tcp_wmem). Brokers must leave their buffers to Linux for that.
	linkWindowKiB = 4096
	linkCells     = "none-64KiB,lz4-1MiB"
	// longAgo makes records old: a broker's memory of their producer would not be
	// relied on (half of producer.id.expiration.ms).
	longAgo = 48 * time.Hour
)

// wan is a long link to one of the clusters. All connections of anabranch to it go
// through a proxy, those of the tool do not.
type wan struct {
	far   string // name of the cluster
	proxy *fault.Proxy
}

// doors are the addresses that a cluster shows to who comes over the link.
func (w *wan) doors(cluster string) []string {
	if w == nil || w.far != cluster {
		return nil
	}
	return []string{w.proxy.Addr()}
}

func linkRules(windowKiB int64) fault.Rules {
	return fault.Rules{Delay: linkDelay, SharedBytesPerSecond: linkBytesPerSecond, Window: windowKiB << 10}
}

// runLink serves a proxy with the rules of the link while do runs.
func runLink(ctx context.Context, windowKiB int64, do func(*fault.Proxy) error) error {
	// Where the cluster listens is known once it runs, and it has to be told the
	// address of the proxy before.
	proxy, err := fault.ListenProxy(fault.ProxyOptions{Upstream: "127.0.0.1:1", Seed: 1, Rules: linkRules(windowKiB)}) //nolint:contextcheck // it listens at once, and serves until the context of Run ends
	if err != nil {
		return fmt.Errorf("make the link: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- proxy.Run(ctx) }()
	err = do(proxy)
	cancel()
	return errors.Join(err, <-done)
}

// measureLinks copies over the link, with the source and then the target at its far
// end, new records and then old ones.
func measureLinks(ctx context.Context, r *scaleRun) error {
	reached, err := probeLink(ctx, r.windowKiB)
	if err != nil {
		return err
	}
	r.add("plain bytes over 8 connections: share of the link", 100*reached/linkBytesPerSecond, goalOf{Unit: "%"})
	for _, far := range []string{sourceName, targetName} {
		err := runLink(ctx, r.windowKiB, func(p *fault.Proxy) error {
			w := &wan{far: far, proxy: p}
			return r.within(ctx, setup{far: w}, func(ctx context.Context, s *stage) error { return r.overLink(ctx, s, w) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *scaleRun) overLink(ctx context.Context, s *stage, w *wan) error {
	where, end := "source far", s.source
	if w.far == targetName {
		where, end = "target far", s.target
	}
	w.proxy.SetUpstream(end.cluster.DoorServers()[0])
	for _, name := range r.links.names {
		c, _ := cellNamed(name)
		for _, age := range []struct {
			name string
			goal goalOf
			old  time.Duration
		}{{"new records", goalOf{AtLeast: 90, Unit: "%"}, 0}, {"old records", goalOf{AtLeast: 50, Unit: "%"}, longAgo}} {
			share, cpu, err := r.overLinkOnce(ctx, s, c, w, age.old)
			if err != nil {
				return fmt.Errorf("%s, %s, %s: %w", where, name, age.name, err)
			}
			what := fmt.Sprintf("%s, %s, %s: ", where, name, age.name)
			r.add(what+"share of the link", share, age.goal)
			r.add(what+"CPU-seconds per GB", cpu, goalOf{Unit: "s"})
		}
	}
	return nil
}

// overLinkOnce copies one topic and returns the percentage of the link that the
// batches had, and what a GB cost.
func (r *scaleRun) overLinkOnce(ctx context.Context, s *stage, c cell, w *wan, age time.Duration) (share, cpu float64, err error) {
	data := newPool(c, time.Now().Add(-age))
	topic := fmt.Sprintf("link-%d", s.started)
	batches := max(1, r.linkMB*1e6/(data.bytes/int64(len(data.batches)))/linkPartitions)
	if err := s.source.createWide(ctx, topic, linkPartitions); err != nil {
		return 0, 0, err
	}
	parts := [][]int32{{0, 1, 2, 3, 4}, {5, 6, 7, 8, 9}}
	if err := preloadParts(ctx, s.source.addr(), topic, data, parts, batches); err != nil {
		return 0, 0, err
	}
	rep := s.newReplicator(topic)
	if w.far == sourceName {
		rep.source = w.proxy.Addr()
	} else {
		rep.target = w.proxy.Addr()
	}
	p, err := s.startWorker(ctx, rep, 1)
	if err != nil {
		return 0, 0, err
	}
	want := slices.Repeat([]int64{batches * int64(c.Records)}, linkPartitions)
	samples, err := watchFor(ctx, linkPatience, s.target, topic, want, p)
	if err := errors.Join(err, p.Stop()); err != nil {
		return 0, 0, err
	}
	r.curve(rates(fmt.Sprintf("%s far, %v, %v old", w.far, c, age), samples, data.recordWireBytes()))
	f, err := measure(steady(samples), data.recordWireBytes())
	if err != nil {
		return 0, 0, err
	}
	return 100 * f.MBPerS * 1e6 / linkBytesPerSecond, f.CPUPerGB, errors.Join(s.source.remove(ctx, topic), s.target.remove(ctx, topic))
}

// steady leaves out the end, where some partitions are done and the link is not
// full: what comes after 19 of 20 records.
func steady(samples []sample) []sample {
	last := samples[len(samples)-1].sum()
	n := slices.IndexFunc(samples, func(s sample) bool { return s.sum() >= last-last/20 })
	return samples[:n+1]
}

// rates is the rate at which the target grew, twice a second.
func rates(what string, samples []sample, recordBytes float64) curve {
	const every = 500 * time.Millisecond
	out := curve{What: what, Unit: "MB/s", EveryMS: every.Seconds() * 1e3}
	from := samples[0]
	for _, s := range samples {
		if d := s.at - from.at; d >= every {
			out.Values = append(out.Values, round2(float64(s.sum()-from.sum())*recordBytes/1e6/d.Seconds()))
			from = s
		}
	}
	return out
}

// probeLink returns the bytes a second that pass the link if nothing but the link
// holds them up, so that it can be told apart from the proxy.
func probeLink(ctx context.Context, windowKiB int64) (perSecond float64, err error) {
	const conns, warm, counted = 8, time.Second, 3 * time.Second
	var lc net.ListenConfig
	sink, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("probe the link: %w", err)
	}
	var came atomic.Int64
	var sinks sync.WaitGroup
	sinks.Go(func() {
		for {
			c, err := sink.Accept()
			if err != nil {
				return // it was closed
			}
			sinks.Go(func() {
				defer c.Close()
				_, _ = io.Copy(counter{&came}, c) // ends with the connection
			})
		}
	})
	err = runLink(ctx, windowKiB, func(p *fault.Proxy) error {
		p.SetUpstream(sink.Addr().String())
		g, gctx := errgroup.WithContext(ctx)
		over := time.Now().Add(warm + counted + time.Second)
		for range conns {
			g.Go(func() error { return flood(gctx, p.Addr(), over) })
		}
		g.Go(func() error {
			if err := sleep(gctx, warm); err != nil {
				return err
			}
			from, began := came.Load(), time.Now()
			if err := sleep(gctx, counted); err != nil {
				return err
			}
			perSecond = float64(came.Load()-from) / time.Since(began).Seconds()
			return nil
		})
		return g.Wait()
	})
	err = errors.Join(err, sink.Close())
	sinks.Wait()
	return perSecond, err
}

// flood writes until over.
func flood(ctx context.Context, addr string, over time.Time) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("probe the link: %w", err)
	}
	defer c.Close()
	buf := make([]byte, 128<<10)
	for time.Now().Before(over) {
		if err := c.SetWriteDeadline(time.Now().Add(ioTimeout)); err != nil {
			return err
		}
		if _, err := c.Write(buf); err != nil {
			return fmt.Errorf("probe the link: %w", err)
		}
	}
	return nil
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}
