package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/ktest"
)

// TestReal_GroupsReadTheNextUnreadRecord is a small form of the program: from the
// newest Kafka to the oldest, with a worker that is killed while groups move.
func TestReal_GroupsReadTheNextUnreadRecord(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped, because real Kafka takes seconds to start")
	}
	o, err := parse([]string{"-samples", "40", "-records", "20000", "-kills", "1", "-tools", "1", "-target", ktest.Oldest, "-out", ""}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, err := prove(t.Context(), o, &out)
	if errors.Is(err, ktest.ErrUnavailable) && os.Getenv(ktest.RequireEnv) != "1" {
		t.Skipf("skipped, because real Kafka cannot be run here: %v", err)
	}
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Samples) < o.samples || r.Kills != o.kills || r.count(exact) != len(r.Samples) {
		t.Errorf("%d samples, %d exact, %d kills: want %d, all of them, %d", len(r.Samples), r.count(exact), r.Kills, o.samples, o.kills)
	}
}

func TestJudge_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	record := func(change func(*kgo.Record)) *kgo.Record {
		r := &kgo.Record{Key: []byte("k"), Value: []byte("dense/0/100"), Timestamp: time.UnixMilli(5), Headers: []kgo.RecordHeader{{Key: "n", Value: []byte("100")}}}
		change(r)
		return r
	}
	for _, c := range []struct {
		name   string
		change func(*kgo.Record)
		want   verdict
	}{
		{"the same at another offset", func(r *kgo.Record) { r.Offset = 7 }, exact},
		{"the one before", func(r *kgo.Record) { r.Value = []byte("dense/0/99") }, again},
		{"the one behind", func(r *kgo.Record) { r.Value = []byte("dense/0/101") }, skipped},
		{"another key", func(r *kgo.Record) { r.Key = []byte("l") }, changed},
		{"no key", func(r *kgo.Record) { r.Key = nil }, changed},
		{"another header", func(r *kgo.Record) { r.Headers[0].Value = nil }, changed},
		{"a header more", func(r *kgo.Record) { r.Headers = append(r.Headers, r.Headers...) }, changed},
		{"another timestamp", func(r *kgo.Record) { r.Timestamp = time.UnixMilli(6) }, changed},
		{"another partition", func(r *kgo.Record) { r.Value = []byte("dense/1/100") }, changed},
		{"no number", func(r *kgo.Record) { r.Value = nil }, changed},
	} {
		if got := judge(record(func(*kgo.Record) {}), record(c.change)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestReport_OneWrongSampleIsAnError(t *testing.T) {
	t.Parallel()
	var r report
	r.add(sample{Topic: "groups.dense", Way: classic, Verdict: exact})
	if err := r.verdict(); err != nil {
		t.Errorf("all are exact: %v", err)
	}
	r.add(sample{Topic: "groups.dense", Way: kcat, Verdict: skipped})
	if err := r.verdict(); err == nil || !strings.Contains(err.Error(), "1 of 2 samples are wrong: 0 read again, 1 skipped, 0 changed") {
		t.Errorf("one skips: %v", err)
	}
}

func TestParseConsole(t *testing.T) {
	t.Parallel()
	got, err := parseConsole("CreateTime:1700000000000\tPartition:1\tOffset:42\tn:7\tk3\tdense/1/7")
	want := &kgo.Record{Partition: 1, Offset: 42, Timestamp: time.UnixMilli(1700000000000), Key: []byte("k3"), Value: []byte("dense/1/7"), Headers: []kgo.RecordHeader{{Key: "n", Value: []byte("7")}}}
	if err != nil || show(got) != show(want) || got.Partition != 1 {
		t.Errorf("read %s, %v (-want +got):\n%s", show(got), err, cmp.Diff(show(want), show(got)))
	}
	for _, line := range []string{"CreateTime:1\tPartition:1", "CreateTime:x\tPartition:1\tOffset:42\tn:7\tk3\tv", "CreateTime:1\tPartition:2\tOffset:42\tn:7\tk3\tv"} {
		if r, err := parseConsole(line); err == nil {
			t.Errorf("%q is read as %s", line, show(r))
		}
	}
}
