package kbatch

import (
	"fmt"
	"testing"
)

func BenchmarkPatch(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		batch := Builder{Attributes: AttrTransactional}.Build(sample(1, 5, 1, size-80)...)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := Patch(batch, Stamp{ProducerID: int64(i), Epoch: 3, BaseSequence: int32(i)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAssemble merges batches to one of about 1 MiB and counts the bytes
// of the inputs; for compressed ones also those of the records.
func BenchmarkAssemble(b *testing.B) {
	for _, c := range []struct {
		name       string
		in, out    Codec
		per, count int
	}{
		{"none/1x1KB", CodecNone, CodecSource, 1, 1000},
		{"none/100x100B", CodecNone, CodecSource, 100, 100},
		{"lz4/1x1KB", CodecLz4, CodecSource, 1, 1000},
		{"lz4/16x1KB", CodecLz4, CodecSource, 16, 1000 / 16},
		{"zstd/1x1KB", CodecZstd, CodecSource, 1, 1000},
		{"zstd/16x1KB", CodecZstd, CodecSource, 16, 1000 / 16},
		{"snappy/16x1KB", CodecSnappy, CodecSource, 16, 1000 / 16},
		{"gzip/16x1KB", CodecGzip, CodecSource, 16, 1000 / 16},
		{"zstd-to-none/16x1KB", CodecZstd, CodecNone, 16, 1000 / 16},
	} {
		b.Run(c.name, func(b *testing.B) {
			value := 1024
			if c.per == 100 {
				value = 100
			}
			rs := sample(1, 0, c.per*c.count, value)
			var in []Input
			wire, raw := 0, 0
			for i := 0; i < len(rs); i += c.per {
				in = append(in, Input{Entry: Builder{Codec: c.in}.Build(rs[i : i+c.per]...)})
				wire += len(in[len(in)-1].Entry)
				raw += c.per * (value + 20)
			}
			a := Assembler{Codec: c.out}
			b.ReportAllocs()
			b.SetBytes(int64(raw))
			for b.Loop() {
				outs, err := a.Assemble(in)
				if err != nil {
					b.Fatal(err)
				}
				for _, o := range outs {
					Recycle(o.Batch)
				}
			}
			b.ReportMetric(float64(wire)*float64(b.N)/1e6/b.Elapsed().Seconds(), "wire-MB/s")
		})
	}
}

func BenchmarkVerifyCRC(b *testing.B) {
	batch := Builder{}.Build(sample(1, 5, 60, 1000)...)
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		if err := VerifyCRC(batch); err != nil {
			b.Fatal(err)
		}
	}
}
