package app

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/verify"
)

// TestReal_VerifyTenMillion measures a comparison of ten million records of 100
// bytes in 8 partitions, without the worker that copied them. The brokers run on the
// same machine.
func TestReal_VerifyTenMillion(t *testing.T) {
	if os.Getenv("ANABRANCH_VERIFY_LONG") == "" {
		t.Skip("set ANABRANCH_VERIFY_LONG: it takes minutes, and 4 GB of disk")
	}
	const records, parts = 10_000_000, 8
	east, west := ktest.RealCluster(t, ktest.Options{}), ktest.RealCluster(t, ktest.Options{})
	text, file := bothWays(t, east, west)
	cl := kafka(t, east, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(20*time.Millisecond), kgo.MaxBufferedRecords(200_000))
	if r, err := kadm.NewClient(cl).CreateTopic(t.Context(), parts, 1, nil, "many"); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	value := make([]byte, 92)
	for i := range value {
		value[i] = byte(i*7 + i*i)
	}
	began := time.Now()
	for i := range records {
		v := append([]byte(nil), value...)
		copy(v, fmt.Sprintf("%08d", i))
		cl.Produce(t.Context(), &kgo.Record{Topic: "many", Partition: int32(i % parts), Key: v[:8], Value: v}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("written in %v", time.Since(began))
	began = time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	log := &logBuffer{}
	a := build(t, log, text)
	go func() { done <- a.Run(ctx) }()
	for { // the comparison itself waits until all is copied
		st := a.replicators[0].status()
		if st.State == dr.ReplicatorRunning && len(st.Topics) == 1 && st.Topics[0].State == dr.TopicRunning && st.MessageLag == 0 {
			break
		}
		if time.Since(began) > 10*time.Minute {
			t.Fatalf("not copied: %+v", st)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("copied in %v", time.Since(began))
	time.Sleep(2 * time.Second)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	cl.Close()
	debug.FreeOSMemory()
	stop := make(chan struct{})
	var watch sync.WaitGroup
	var heap uint64
	watch.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				heap = max(heap, m.HeapInuse)
			}
		}
	})
	report := compareClusters(t, file, "east-west", verify.Options{})
	close(stop)
	watch.Wait()
	took := report.FinishedAt.Sub(report.StartedAt)
	if report.State != dr.VerifyEqual || report.Records != records {
		t.Fatalf("%s, %d records", report.State, report.Records)
	}
	t.Logf("%d records compared in %v: %.0f a second, %.0f MB/s read, heap at most %d MiB", report.Records, took,
		float64(report.Records)/took.Seconds(), float64(report.Bytes)/took.Seconds()/1e6, heap>>20)
}
