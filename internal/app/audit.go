package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/replicate"
	"github.com/anabranch/anabranch/internal/verify"
)

// audit is what is kept of the last comparison that the lead made.
type audit struct {
	StartedAt  time.Time                   `json:"started_at"`
	FinishedAt time.Time                   `json:"finished_at"`
	State      dr.VerifyState              `json:"state"`
	Records    int64                       `json:"records"`
	Counts     map[dr.DifferenceKind]int64 `json:"difference_counts,omitempty"`
	Topics     []string                    `json:"topics,omitempty"` // the first that differ
	First      string                      `json:"first,omitempty"`  // of the differences, in words
}

// auditStats are the numbers of the metrics.
type auditStats struct {
	records, failures uint64 // of this worker
	last              *audit // of any worker; nil: there was none
}

// auditTopics bounds the topics that are named in a finding.
const auditTopics = 10

// auditRetry is the pause behind an audit that could not be done.
const auditRetry = 10 * time.Minute

// auditLook is how often it is looked whether an audit is due: another worker may
// have made one.
const auditLook = 10 * time.Second

// keepAudit compares both clusters again and again while this worker leads. An audit
// that fails is told, and is no reason to stop what else the lead does.
func (r *replicator) keepAudit(ctx context.Context, source, target *kgo.Client) error {
	every := r.settings.Audit.Interval.Std()
	if every == 0 {
		return nil
	}
	engine, err := r.working()
	if err != nil {
		return err
	}
	var notBefore time.Time
	for ctx.Err() == nil {
		pause(ctx, min(auditLook, every))
		last := lastAudit(engine)
		if ctx.Err() != nil || time.Now().Before(notBefore) || last != nil && time.Since(last.FinishedAt) < every {
			continue
		}
		if err := r.auditOnce(ctx, engine, source, target); err != nil && ctx.Err() == nil {
			notBefore = time.Now().Add(min(auditRetry, every))
			r.mu.Lock()
			r.mu.auditFailures++
			r.mu.Unlock()
			r.log.LogAttrs(ctx, slog.LevelWarn, "audit failed", slog.Any("error", err))
		}
	}
	return nil
}

// auditOnce makes one pass, and keeps what it came to.
func (r *replicator) auditOnce(ctx context.Context, engine *replicate.Engine, source, target *kgo.Client) error {
	sourceID, targetID := engine.ClusterIDs()
	s := r.settings.Audit
	o, err := verifyOptions(r.settings, r.name,
		followed{name: r.settings.Source, id: sourceID, client: source, table: r.source.current().table},
		followed{name: r.settings.Target, id: targetID, client: target, table: r.target.current().table},
		verify.Options{RateLimit: int64(s.RateLimit), Seed: rand.Uint64(), Parallel: 1, Logger: r.log}) //nolint:gosec // a sample, no secret
	if err != nil {
		return err
	}
	if s.SamplePercent < 100 {
		o.Sample = float64(s.SamplePercent) / 100
	}
	v, err := verify.New(o)
	if err != nil {
		return err
	}
	report, err := v.Run(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.mu.audited += uint64(max(0, report.Records))
	r.mu.Unlock()
	a := auditOf(report)
	raw, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode the audit: %w", err)
	}
	level := slog.LevelInfo
	if a.State == dr.VerifyDifferent {
		level = slog.LevelError
	}
	r.log.LogAttrs(ctx, level, "clusters compared", slog.String("state", string(a.State)), slog.Int64("records", a.Records), slog.Any("differences", a.Counts),
		slog.Duration("took", a.FinishedAt.Sub(a.StartedAt)), slog.String("first", a.First))
	return engine.RecordAudit(ctx, raw)
}

// auditOf says in short what a report says.
func auditOf(report dr.VerifyReport) audit {
	a := audit{StartedAt: report.StartedAt, FinishedAt: report.FinishedAt, State: report.State, Records: report.Records, Counts: report.Counts}
	for _, p := range report.Partitions {
		if p.State != dr.VerifyDifferent {
			continue
		}
		if a.First == "" && len(p.Differences) > 0 {
			d := p.Differences[0]
			a.First = fmt.Sprintf("topic %s partition %d: %s, source offset %d, target offset %d", p.Topic, p.Partition, d.Kind, d.SourceOffset, d.TargetOffset)
		}
		if n := len(a.Topics); n < auditTopics && (n == 0 || a.Topics[n-1] != p.Topic) { // partitions are in order
			a.Topics = append(a.Topics, p.Topic)
		}
	}
	return a
}

// lastAudit returns the last audit of any worker, nil where there is none that can be
// read.
func lastAudit(engine *replicate.Engine) *audit {
	raw := engine.LastAudit()
	if raw == nil {
		return nil
	}
	a := &audit{}
	if err := json.Unmarshal(raw, a); err != nil {
		return nil // the next one takes its place
	}
	return a
}

// auditFinding returns the finding about what differed, false where nothing did.
func auditFinding(replicator string, a *audit) (dr.Finding, bool) {
	if a == nil || a.State != dr.VerifyDifferent {
		return dr.Finding{}, false
	}
	var counts []string
	for _, k := range dr.DifferenceKinds() {
		if n := a.Counts[k]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return dr.Finding{
		Code: "audit_differences", Severity: dr.SeverityError, Subject: "replicator " + replicator,
		Message: fmt.Sprintf("the audit of %s found records that differ: %s; topics %s; first %s",
			a.FinishedAt.UTC().Format(time.RFC3339), strings.Join(counts, ", "), strings.Join(a.Topics, ", "), a.First),
		Fix: "anabranch verify --config FILE --replicator " + replicator + " --topics '" + strings.Join(a.Topics, "|") + "'",
	}, true
}

// auditStats returns the numbers of the metrics.
func (r *replicator) auditStats() auditStats {
	r.mu.Lock()
	st := auditStats{records: r.mu.audited, failures: r.mu.auditFailures}
	engine := r.mu.engine
	r.mu.Unlock()
	if engine != nil {
		st.last = lastAudit(engine)
	}
	return st
}
