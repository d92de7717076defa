package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// figures are those of one replicator in one cell.
type figures struct {
	MBPerS   float64 `json:"mb_per_s"`     // 10^6 bytes of compressed batches of the source
	CPUPerGB float64 `json:"cpu_s_per_gb"` // per 10^9 such bytes, of the replicating process
	RSSMiB   float64 `json:"rss_mib"`      // largest resident set of that process, start-up included
}

// throughputRow is one cell of the matrix: medians of the rounds.
type throughputRow struct {
	Codec         string  `json:"codec"`
	BatchBytes    int     `json:"batch_bytes"` // before compression
	RecordBytes   int     `json:"record_bytes"`
	CeilingMBPerS float64 `json:"ceiling_mb_per_s"`
	Anabranch     figures `json:"anabranch"`
	MirrorMaker2  figures `json:"mirrormaker2"`
}

// percentiles of the time from the moment when a record was due to be produced
// to the moment when the consumer had it.
type percentiles struct {
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
}

// latencyRow has the medians of the rounds.
type latencyRow struct {
	RatePerS     int         `json:"rate_per_s"`
	SourceOnly   percentiles `json:"source_only"`
	Anabranch    percentiles `json:"anabranch"`
	MirrorMaker2 percentiles `json:"mirrormaker2"`
}

// results is the content of latest.json.
type results struct {
	Throughput []throughputRow `json:"throughput"`
	Latency    latencyRow      `json:"latency"`
}

// round is what one round of one cell gave, for runs.json.
type round struct {
	Cell          string  `json:"cell"`
	Round         int     `json:"round"`
	WireRatio     float64 `json:"compression_ratio"` // bytes before compression per byte on the wire
	FetchMBPerS   float64 `json:"ceiling_fetch_mb_per_s"`
	ProduceMBPerS float64 `json:"ceiling_produce_mb_per_s"`
	CeilingCPU    float64 `json:"ceiling_cpu_s_per_gb"` // of a process that only moves bytes
	Anabranch     figures `json:"anabranch"`
	MirrorMaker2  figures `json:"mirrormaker2"`
}

// latencyRound is what one round of the latency test gave.
type latencyRound struct {
	Round        int         `json:"round"`
	SourceOnly   percentiles `json:"source_only"`
	Anabranch    percentiles `json:"anabranch"`
	MirrorMaker2 percentiles `json:"mirrormaker2"`
}

// runs is the content of runs.json: everything that was measured, and where.
type runs struct {
	Machine machine        `json:"machine"`
	Rounds  []round        `json:"throughput"`
	Latency []latencyRound `json:"latency"`
}

// median returns the middle of what field gives for the items, 0 for none. Of
// an even number it takes the lower one.
func median[T any, V cmp.Ordered](items []T, field func(T) V) V {
	var zero V
	if len(items) == 0 {
		return zero
	}
	values := make([]V, len(items))
	for i, it := range items {
		values[i] = field(it)
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

func medianFigures(rounds []round, of func(round) figures) figures {
	return figures{
		MBPerS:   median(rounds, func(r round) float64 { return of(r).MBPerS }),
		CPUPerGB: median(rounds, func(r round) float64 { return of(r).CPUPerGB }),
		RSSMiB:   median(rounds, func(r round) float64 { return of(r).RSSMiB }),
	}
}

func medianPercentiles(rounds []latencyRound, of func(latencyRound) percentiles) percentiles {
	return percentiles{
		P50MS: median(rounds, func(r latencyRound) float64 { return of(r).P50MS }),
		P99MS: median(rounds, func(r latencyRound) float64 { return of(r).P99MS }),
	}
}

// summarize reduces the rounds of the cells to their medians.
func summarize(cells []cell, all runs) results {
	var out results
	for _, c := range cells {
		var rounds []round
		for _, r := range all.Rounds {
			if r.Cell == c.String() {
				rounds = append(rounds, r)
			}
		}
		if len(rounds) == 0 {
			continue
		}
		out.Throughput = append(out.Throughput, throughputRow{
			Codec: c.Codec.String(), BatchBytes: c.BatchBytes(), RecordBytes: recordBytes,
			CeilingMBPerS: round2(median(rounds, func(r round) float64 { return min(r.FetchMBPerS, r.ProduceMBPerS) })),
			Anabranch:     rounded(medianFigures(rounds, func(r round) figures { return r.Anabranch })),
			MirrorMaker2:  rounded(medianFigures(rounds, func(r round) figures { return r.MirrorMaker2 })),
		})
	}
	out.Latency = latencyRow{
		RatePerS:     latencyRate,
		SourceOnly:   medianPercentiles(all.Latency, func(r latencyRound) percentiles { return r.SourceOnly }),
		Anabranch:    medianPercentiles(all.Latency, func(r latencyRound) percentiles { return r.Anabranch }),
		MirrorMaker2: medianPercentiles(all.Latency, func(r latencyRound) percentiles { return r.MirrorMaker2 }),
	}
	return out
}

func rounded(f figures) figures {
	return figures{MBPerS: round2(f.MBPerS), CPUPerGB: round2(f.CPUPerGB), RSSMiB: round2(f.RSSMiB)}
}

func round2(v float64) float64 { return float64(int64(v*100+0.5)) / 100 }

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
