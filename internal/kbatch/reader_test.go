package kbatch

import (
	"bytes"
	"slices"
	"testing"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The outputs must be readable for code that is not ours: the client library's
// own reader, decompressors included.
func TestClientLibraryReadsOutputs(t *testing.T) {
	rs := sample(7, 900, 400, 700)
	rs[1].Key, rs[2].Value, rs[3].Value = nil, nil, []byte{}
	rs[4].Headers = []RecordHeader{{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("a")}, {Key: []byte("")}}
	var in []Input
	for i, r := range rs {
		in = append(in, Input{Entry: Builder{Codec: Codec(i % 5)}.Build(r)})
	}
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		a := Assembler{Codec: codec, TargetBytes: 100_000}
		outs, err := a.Assemble(in)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i, o := range outs {
			if err := Patch(o.Batch, Stamp{ProducerID: 4711, Epoch: 2, BaseSequence: int32(n)}); err != nil {
				t.Fatal(err)
			}
			fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{}, &kmsg.FetchResponseTopicPartition{RecordBatches: o.Batch}, kgo.DefaultDecompressor(), nil)
			if fp.Err != nil || len(fp.Records) != int(o.Count) {
				t.Fatalf("%s: output %d: %d records, want %d: %v", codec, i, len(fp.Records), o.Count, fp.Err)
			}
			var got []Record
			for _, r := range fp.Records {
				rec := Record{Offset: rs[n].Offset + r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
				for _, h := range r.Headers {
					rec.Headers = append(rec.Headers, RecordHeader{Key: []byte(h.Key), Value: h.Value})
				}
				got = append(got, rec)
				if r.ProducerID != 4711 || r.ProducerEpoch != 2 {
					t.Fatalf("%s: producer %d %d", codec, r.ProducerID, r.ProducerEpoch)
				}
			}
			wantRecords(t, codec.String(), got, rs[n:n+len(got)])
			n += len(got)
		}
		if n != len(rs) || len(outs) < 2 {
			t.Errorf("%s: %d records in %d outputs, want %d", codec, n, len(outs), len(rs))
		}
	}
}

// And the other way: what the client library's compressors write is read, with
// snappy both as one block and as chunks.
func TestClientLibraryCodecsAreRead(t *testing.T) {
	rs := sample(8, 50, 100, 3000)
	for codec, c := range map[Codec]kgo.CompressionCodec{
		CodecGzip: kgo.GzipCompression(), CodecSnappy: kgo.SnappyCompression(), CodecLz4: kgo.Lz4Compression(), CodecZstd: kgo.ZstdCompression(),
	} {
		compressor, err := kgo.DefaultCompressor(c)
		if err != nil {
			t.Fatal(err)
		}
		plain := Builder{}.Build(rs...)
		payload, kind := compressor.Compress(new(bytes.Buffer), plain[headerSize:])
		if Codec(kind) != codec {
			t.Fatalf("compressor of %s made %d", codec, kind)
		}
		h, err := ParseHeader(plain)
		if err != nil {
			t.Fatal(err)
		}
		h.Attributes = int16(codec)
		batch := slices.Concat(plain[:headerSize], payload)
		putHeader(batch, h)
		wantRecords(t, codec.String(), records(t, batch), rs)
	}
}

// Kafka's own writer uses none of these options of the frame, other clients do.
func TestLz4Frames(t *testing.T) {
	plain := sample(9, 0, 1, 300_000)[0].Value
	for _, options := range [][]lz4.Option{
		{lz4.BlockSizeOption(lz4.Block64Kb), lz4.BlockChecksumOption(true), lz4.ChecksumOption(true), lz4.SizeOption(300_000)},
		{lz4.BlockSizeOption(lz4.Block256Kb), lz4.ChecksumOption(false)},
		{lz4.BlockSizeOption(lz4.Block4Mb)},
	} {
		var frame bytes.Buffer
		w := lz4.NewWriter(&frame)
		if err := w.Apply(options...); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := unlz4([]byte("kept"), frame.Bytes(), 1<<20)
		if err != nil || !bytes.Equal(got, append([]byte("kept"), plain...)) {
			t.Errorf("%v: %d bytes, %v", options, len(got), err)
		}
	}
	// Two blocks that lean on each other: 30 stored bytes, then a copy of 20 of
	// them from 30 bytes back and 5 more.
	linked := []byte{0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0xc0, 30, 0, 0, 0x80}
	linked = append(linked, plain[:30]...)
	linked = append(linked, 10, 0, 0, 0, 0x0f, 30, 0, 1, 0x50, 'h', 'e', 'l', 'l', 'o', 0, 0, 0, 0)
	got, err := unlz4(nil, linked, 1<<20)
	if want := string(plain[:30]) + string(plain[:20]) + "hello"; err != nil || string(got) != want {
		t.Errorf("linked blocks: %q, %v", got, err)
	}
	for cut := range linked {
		if _, err := unlz4(nil, linked[:cut], 1<<20); err == nil {
			t.Errorf("frame cut at %d is read", cut)
		}
	}
}
