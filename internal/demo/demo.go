package demo

import (
	"context"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/anabranch/anabranch/internal/obs"
)

// Options describe a demonstration.
type Options struct {
	Exit   bool // end after the last step instead of waiting for the context
	Build  obs.Build
	Stdout io.Writer // for the steps
	Stderr io.Writer // for warnings of the worker; nil means discard
}

// Run starts two embedded clusters and tours them. It returns an error when a
// claim does not hold or the context ends before the last step.
func Run(ctx context.Context, o Options) error {
	primary, err := embedded("demo-primary")
	if err != nil {
		return fmt.Errorf("start cluster primary: %w", err)
	}
	defer primary.Close()
	secondary, err := embedded("demo-secondary")
	if err != nil {
		return fmt.Errorf("start cluster secondary: %w", err)
	}
	defer secondary.Close()
	return Tour(ctx, TourOptions{
		Options: o, Kind: "embedded clusters, in memory, inside this process",
		Primary: primary.ListenAddrs(), Secondary: secondary.ListenAddrs(),
	})
}

// embedded starts a cluster of one broker on a free loopback port.
func embedded(id string) (*kfake.Cluster, error) {
	return kfake.NewCluster(kfake.ClusterID(id), kfake.NumBrokers(1))
}
