package replicate

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestProduceFrame_IsWhatTheLibraryWrites: in every version that is used.
func TestProduceFrame_IsWhatTheLibraryWrites(t *testing.T) {
	t.Parallel()
	batches := []outBatch{
		{topic: "b", topicID: [16]byte{2}, partition: 7, bytes: bytes.Repeat([]byte{7}, 300)},
		{topic: "a", topicID: [16]byte{1}, partition: 0, bytes: []byte("first")},
		{topic: "b", topicID: [16]byte{2}, partition: 1, bytes: nil},
		{topic: "a", topicID: [16]byte{1}, partition: 3, bytes: bytes.Repeat([]byte{9}, 70000)},
	}
	var f produceFrame
	for version := int16(oldestProduce); version <= newestProduce; version++ {
		got := bytes.Join(f.encode(version, "client", 77, batches), nil) // sorts the batches
		req := newProduce(batches)
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				if p := &req.Topics[i].Partitions[j]; p.Records == nil {
					p.Records = []byte{}
				}
			}
		}
		req.SetVersion(version)
		want := kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, req, 77)
		if !bytes.Equal(got, want) {
			t.Errorf("version %d:\n%x\nwant\n%x", version, got[:min(len(got), 200)], want[:min(len(want), 200)])
		}
	}
}
