package fault

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// produceAndRead writes n numbered records one after the other through cl and
// checks that each of them is read once, in order. between runs before each record.
func produceAndRead(t *testing.T, cl *kgo.Client, n int, between func(i int)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for i := range n {
		between(i)
		if err := cl.ProduceSync(ctx, kgo.StringRecord(strconv.Itoa(i))).FirstErr(); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	for read := 0; read < n; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("after %d records: %v", read, err)
		}
		for r := range fs.RecordsAll() {
			if got := string(r.Value); got != strconv.Itoa(read) {
				t.Fatalf("record %d is %s", read, got)
			}
			read++
		}
	}
}

func clientOptions(addr string, more ...kgo.Opt) []kgo.Opt {
	return append(more, kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("numbers"), kgo.ConsumeTopics("numbers"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RetryBackoffFn(func(int) time.Duration { return time.Millisecond }), kgo.MetadataMinAge(10*time.Millisecond))
}

// A client decides by the type of an error whether to try again: a fault that a
// real network would not give fails the records at once.
func TestKafkaClientSurvivesInjectedFaults(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "numbers"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	inj := NewInjector(7, Plan{DialRefused: 0.05, ReadReset: 0.04, WriteReset: 0.02})
	cl, err := kgo.NewClient(clientOptions(c.ListenAddrs()[0], kgo.Dialer(inj.Dial(new(net.Dialer).DialContext)))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	produceAndRead(t, cl, 300, func(int) {})
	if s := inj.Stats(); s.ReadResets == 0 || s.WriteResets == 0 {
		t.Errorf("nothing was injected: %+v", s)
	}
}

func TestKafkaClientStaysOnAProxyThatItsBrokerAdvertises(t *testing.T) {
	var proxies []*Proxy
	listen := func(network, addr string) (net.Listener, error) {
		l, err := new(net.ListenConfig).Listen(t.Context(), network, addr)
		if err != nil {
			return nil, err
		}
		p, err := ListenProxy(ProxyOptions{Upstream: l.Addr().String()})
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		proxies = append(proxies, p)
		return Advertise(l, p.Addr()), nil
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "numbers"), kfake.ListenFn(listen))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if len(proxies) != 1 || c.ListenAddrs()[0] != proxies[0].Addr() {
		t.Fatalf("the cluster shows %q, the proxies are %v", c.ListenAddrs(), proxies)
	}
	p := proxies[0]
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	cl, err := kgo.NewClient(clientOptions(p.Addr())...)
	if err != nil {
		t.Fatal(err)
	}
	produceAndRead(t, cl, 100, func(i int) {
		switch i {
		case 20:
			p.Reset()
		case 40:
			p.Cut()
		case 60:
			p.Down()
			time.AfterFunc(50*time.Millisecond, func() {
				if err := p.Up(); err != nil {
					t.Error(err)
				}
			})
		case 80:
			p.HalfOpen()
		}
	})
	cl.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
