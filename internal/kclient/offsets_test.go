package kclient

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestListOffsets(t *testing.T) {
	t.Parallel()
	_, cl := threeBrokers(t)
	for range 3 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[int64]int64{LogEnd: 3, LogStart: 0} {
		got, err := ListOffsets(t.Context(), cl, map[string][]int32{"orders": {0}}, at)
		if d := cmp.Diff(map[string]map[int32]int64{"orders": {0: want}}, got); d != "" || err != nil {
			t.Errorf("at %d: %v (-want +got):\n%s", at, err, d)
		}
		if one, err := ListOffset(t.Context(), cl, "orders", 0, at); one != want || err != nil {
			t.Errorf("at %d: %d, %v; want %d", at, one, err, want)
		}
	}
	// What can be told is told, with why the rest cannot.
	got, err := ListOffsets(t.Context(), cl, map[string][]int32{"orders": {0}, "nothing": {0}}, LogEnd)
	if d := cmp.Diff(map[string]map[int32]int64{"orders": {0: 3}}, got); d != "" || !errors.Is(err, kerr.UnknownTopicOrPartition) || !strings.HasPrefix(err.Error(), "list offsets") {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if _, err := ListOffset(t.Context(), cl, "nothing", 0, LogEnd); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("error %v", err)
	}
}

func TestBrokers(t *testing.T) {
	t.Parallel()
	_, cl := threeBrokers(t)
	id, brokers, err := Brokers(t.Context(), cl)
	if d := cmp.Diff([]int32{0, 1, 2}, brokers); d != "" || id == "" || err != nil {
		t.Errorf("cluster %q, %v (-want +got):\n%s", id, err, d)
	}
}
