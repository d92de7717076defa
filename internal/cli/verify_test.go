package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
)

const verifyFile = `clusters:
  east: {bootstrap_servers: ["127.0.0.1:1"]}
  west: {bootstrap_servers: ["127.0.0.1:2"]}
replicators:
  same: {source: east, target: west, topics: {include: ["a.*"]}}
pairs:
  both: {clusters: [east, west], topics: {include: ["b.*"]}}
`

// verifyReport is what a comparison of a replicator came to in the tests.
func verifyReport(o VerifyOptions) dr.VerifyReport {
	began := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r := dr.VerifyReport{
		V: 1, Replicator: o.Replicator, Source: dr.VerifySide{Name: "east"}, Target: dr.VerifySide{Name: "west"}, StartedAt: began, FinishedAt: began.Add(2 * time.Second), Bytes: 4e6,
		Partitions: []dr.VerifiedPartition{{
			Topic: "a1", TargetTopic: "a1", State: dr.VerifyEqual, Records: 100, Ranges: []dr.VerifiedRange{},
			Unjudged: []dr.Unjudged{{Reason: dr.UnjudgedLag, Side: "source", Count: 5}},
		}},
	}
	switch {
	case o.What.Last == 7 || o.Replicator == "both-to-east":
		r.Partitions = append(r.Partitions, dr.VerifiedPartition{
			Topic: "a2", Partition: 3, State: dr.VerifyDifferent, Records: 10, Counts: map[dr.DifferenceKind]int64{dr.DiffMissing: 2, dr.DiffChanged: 1},
			Differences: []dr.Difference{
				{Kind: dr.DiffMissing, SourceOffset: 4, TargetOffset: -1}, {Kind: dr.DiffChanged, SourceOffset: 5, TargetOffset: 6, Detail: "value: from byte 3 on, of 9 and 9"},
			},
		})
	case o.What.Last == 8:
		r.Partitions = append(r.Partitions, dr.VerifiedPartition{Topic: "a3", State: dr.VerifyNotJudged, Reason: "the partition has no copy yet"})
	}
	r.Sum()
	return r
}

func runVerify(t *testing.T, check func(VerifyOptions), args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(t.Context(), Deps{
		Verify: func(_ context.Context, v VerifyOptions) (dr.VerifyReport, error) {
			if check != nil {
				check(v)
			}
			return verifyReport(v), nil
		},
		Stdin: strings.NewReader(""), Stdout: &o, Stderr: &e, Getenv: func(string) string { return "" },
	}, append([]string{"verify"}, args...))
	return code, o.String(), e.String()
}

func verifyConfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dr.yaml")
	if err := os.WriteFile(path, []byte(verifyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVerify_SaysWhatDiffersAndExitsWithIt(t *testing.T) {
	t.Parallel()
	file := verifyConfig(t)
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"equal", []string{"--replicator", "same"}, 0, `NOT COMPARED        SIDE    RECORDS
not_replicated_yet  source  5
EQUAL: 100 records of 1 partition compared in 2s (2.0 MB/s)
`},
		{"different", []string{"--replicator", "same", "--last", "7"}, 6, `TOPIC  PARTITION  STATE      RECORDS  DIFFERENCES
a2     3          DIFFERENT  10       2 missing, 1 changed

TOPIC  PARTITION  DIFFERENCE  SOURCE OFFSET  TARGET OFFSET  DETAIL
a2     3          missing     4              -              -
a2     3          changed     5              6              value: from byte 3 on, of 9 and 9

NOT COMPARED        SIDE    RECORDS
not_replicated_yet  source  5
DIFFERENT: 110 records of 2 partitions compared in 2s (2.0 MB/s)
`},
		{"not judged", []string{"--replicator", "same", "--last", "8"}, 5, `TOPIC  PARTITION  STATE       RECORDS  REASON
a3     0          NOT_JUDGED  0        the partition has no copy yet
NOT COMPARED        SIDE    RECORDS
not_replicated_yet  source  5
NOT_JUDGED: 100 records of 2 partitions compared in 2s (2.0 MB/s)
`},
	} {
		code, stdout, stderr := runVerify(t, nil, append([]string{"--config", file}, c.args...)...)
		if diff := cmp.Diff(c.want, stdout); diff != "" || code != c.code || stderr != "" {
			t.Errorf("%s: exit code %d, want %d, %s (-want +got):\n%s", c.name, code, c.code, stderr, diff)
		}
	}
}

func TestVerify_APairIsBothDirections(t *testing.T) {
	t.Parallel()
	proof := filepath.Join(t.TempDir(), "proof.json")
	var seen []string
	code, stdout, stderr := runVerify(t, func(o VerifyOptions) { seen = append(seen, o.Replicator) }, "--config", verifyConfig(t), "both", "--proof", proof, "-o", "json")
	if code != 6 || fmt.Sprint(seen) != "[both-to-east both-to-west]" {
		t.Errorf("exit code %d, compared %v: %s", code, seen, stderr)
	}
	raw, err := os.ReadFile(proof)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{stdout, string(raw)} {
		var got dr.VerifyPairReport
		if err := json.Unmarshal([]byte(text), &got); err != nil || got.State != dr.VerifyDifferent || len(got.Reports) != 2 || got.Reports[1].State != dr.VerifyEqual {
			t.Errorf("%v: %s", err, text)
		}
	}
}

func TestVerify_FlagsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	file := verifyConfig(t)
	for _, args := range []string{
		"--replicator same", "-c FILE", "-c FILE both --replicator same", "-c FILE both more", "-c FILE both --sample 2", "-c FILE both --last 0", "-c FILE both --last 5 --from 3",
		"-c FILE both --full --last 5", "-c FILE both --rate-limit fast", "-c FILE both --from yesterday", "-c FILE both --topics (", "-c FILE both --parallel 0", "-c FILE both --wait -1s",
	} {
		code, stdout, stderr := runVerify(t, func(VerifyOptions) { t.Errorf("%s: ran", args) }, strings.Fields(strings.ReplaceAll(args, "FILE", file))...)
		if code != 2 || stdout != "" || stderr == "" {
			t.Errorf("%s: exit code %d, %s%s", args, code, stdout, stderr)
		}
	}
	if code, _, stderr := runVerify(t, nil, "-c", file, "nobody"); code != 1 || !strings.Contains(stderr, "no pair nobody") {
		t.Errorf("an unknown pair: exit code %d, %s", code, stderr)
	}
	code, _, stderr := runVerify(t, func(o VerifyOptions) {
		w := o.What
		if w.RateLimit != 10<<20 || w.Sample != 0.25 || w.Seed != 9 || w.From.Offset != 3 || w.To.Time.Year() != 2026 || !w.Topics("ab") || w.Topics("abc") || fmt.Sprint(w.Partitions) != "[1 2]" || w.Wait != time.Minute {
			t.Errorf("%+v", w)
		}
	}, strings.Fields("-c "+file+" --replicator same --rate-limit 10MiB/s --sample 0.25 --seed 9 --from 3 --to 2026-01-01T00:00:00Z --topics a. --partition 1,2 --wait 1m")...)
	if code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
