// Command quickstart starts two real Apache Kafka clusters of one broker each
// from the jars of Maven Central, on loopback addresses, and gives the tour of
// package demo on them. It needs Java 17 and Maven, and removes everything it
// started when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/anabranch/anabranch/internal/demo"
	"github.com/anabranch/anabranch/internal/ktest"
	"github.com/anabranch/anabranch/internal/obs"
)

func main() {
	exit := flag.Bool("exit", false, "end after the last step")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Stdout, os.Stderr, *exit); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is a main too
	}
}

func run(ctx context.Context, stdout, stderr io.Writer, exit bool) (err error) {
	fmt.Fprintf(stdout, "Starting two Apache Kafka clusters, %s and %s. The first time, Maven downloads their jars.\n", ktest.Newest, ktest.Oldest)
	versions := [2]string{ktest.Newest, ktest.Oldest}
	var clusters [2]*ktest.Cluster
	g, gctx := errgroup.WithContext(ctx)
	for i, v := range versions {
		g.Go(func() (err error) {
			clusters[i], err = ktest.Start(gctx, ktest.Options{Version: v})
			return err
		})
	}
	err = g.Wait()
	defer func() {
		for _, c := range clusters {
			if c != nil {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	if err != nil {
		return fmt.Errorf("start Kafka: %w", err)
	}
	return demo.Tour(ctx, demo.TourOptions{
		Options: demo.Options{Exit: exit, Build: obs.ReadBuild(""), Stdout: stdout, Stderr: stderr},
		Kind:    fmt.Sprintf("real Apache Kafka, %s and %s, one broker each", versions[0], versions[1]),
		Primary: clusters[0].BootstrapServers(), Secondary: clusters[1].BootstrapServers(),
	})
}
