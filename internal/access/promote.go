package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/twmb/franz-go/pkg/kerr"
)

// TargetLedger is the part of a Ledger that is on the target alone.
type TargetLedger interface {
	// Refresh reads the state of the target to its present end.
	Refresh(ctx context.Context) error
	// Target returns what replicators made on the target.
	Target() ([]Made, error)
	// Record keeps entries of this replicator, as Ledger.Record does.
	Record(ctx context.Context, entries map[string]*Entry) error
}

// Promotion configures Promote.
type Promotion struct {
	Replicator string       // required; that wrote to the target so far
	Target     Cluster      // required; it becomes the active cluster
	Ledger     TargetLedger // required
	Logger     *slog.Logger // nil means discard
	Now        func() time.Time
}

// Promoted is what Promote did.
type Promoted struct {
	Made  []dr.ACL `json:"made,omitempty"`  // rules that grant writing, made on the target
	There []dr.ACL `json:"there,omitempty"` // that it had already
}

// Promote makes the rules that are staged for a target on it, when it becomes the
// active cluster: from then on they are its own. It needs nothing but the target,
// and may be called again after any failure or kill: a rule counts as staged until
// it was made. The replicator must be held or stopped meanwhile. Where the target
// has no authorizer there is nothing to make. The error is of a *dr.Error; some
// rules may have been made then.
func Promote(ctx context.Context, o Promotion) (Promoted, error) {
	if o.Replicator == "" || o.Target.Client == nil || o.Ledger == nil {
		return Promoted{}, errors.New("promote a cluster: replicator, target client and ledger are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Access{o: Options{Replicator: o.Replicator, Target: o.Target, Logger: o.Logger, Now: o.Now}}
	a.mu.ids = map[side]string{onTarget: o.Target.ID}
	if _, _, err := a.checkCluster(ctx, onTarget); err != nil {
		return Promoted{}, err
	}
	mine, err := stagedBy(ctx, o)
	if err != nil || len(mine) == 0 {
		return Promoted{}, err
	}
	have, err := a.rules(ctx, onTarget)
	if errors.Is(err, kerr.SecurityDisabled) {
		return Promoted{}, nil
	}
	if err != nil {
		return Promoted{}, surfaceOf(err)
	}
	var out Promoted
	for _, e := range mine {
		if has(have, *e.ACL) {
			out.There = append(out.There, *e.ACL)
		} else {
			out.Made = append(out.Made, *e.ACL)
		}
	}
	if err := kclient.CreateACLs(ctx, o.Target.Client, out.Made); err != nil {
		return Promoted{}, surfaceOf(a.lacking(onTarget, "change the access rules", []string{opAlter}, err))
	}
	entries := make(map[string]*Entry, len(mine))
	for _, e := range mine {
		e.Phase, e.At = PhaseApplied, o.Now()
		entries[e.Key()] = &e
	}
	if err := o.Ledger.Record(ctx, entries); err != nil {
		return Promoted{}, fmt.Errorf("record %d rules that were made: %w", len(entries), err)
	}
	o.Logger.LogAttrs(ctx, slog.LevelInfo, "staged access rules made on the cluster", slog.String("cluster", o.Target.Reach.Name),
		slog.String("replicator", o.Replicator), slog.Int("made", len(out.Made)), slog.Int("there", len(out.There)))
	return out, nil
}

// stagedBy returns the entries of the replicator that wait, sorted.
func stagedBy(ctx context.Context, o Promotion) ([]Entry, error) {
	err := o.Ledger.Refresh(ctx)
	var all []Made
	if err == nil {
		all, err = o.Ledger.Target()
	}
	if err != nil {
		return nil, fmt.Errorf("read what is staged: %w", err)
	}
	var mine []Entry
	for _, m := range all {
		if m.Replicator == o.Replicator && m.ACL != nil && m.Phase == PhaseStaged {
			mine = append(mine, m.Entry)
		}
	}
	slices.SortFunc(mine, func(x, y Entry) int { return compareACLs(*x.ACL, *y.ACL) })
	return mine, nil
}

// surfaceOf makes an error of the surface from a state of the keeper.
func surfaceOf(err error) error {
	if lacking, ok := errors.AsType[*lackingError](err); ok {
		e := &dr.Error{Code: dr.CodeUnauthorized, Err: err}
		if len(lacking.part.Grants) > 0 {
			e.Hint = lacking.part.Grants[0]
		}
		return e
	}
	return err
}
