// Command quickstart starts two real Apache Kafka clusters of one broker each
// from the jars of Maven Central, on loopback addresses, and gives the tour of
// package demo on them, with Kafka's own console tools as consumers. It needs Java
// 17 and Maven, and removes everything it started when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
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
		Tools: demo.Tools{
			Consume: func(ctx context.Context, bootstrap, group, topic string) ([]string, error) {
				return consume(ctx, clusters[0], bootstrap, group, topic)
			},
			Describe: func(ctx context.Context, bootstrap, group string) (string, error) {
				return describe(ctx, clusters[0], bootstrap, group)
			},
		},
	})
}

// consume is kafka-console-consumer.sh, until nothing comes for some seconds. It
// returns the lines that are messages of the tour.
func consume(ctx context.Context, c *ktest.Cluster, bootstrap, group, topic string) ([]string, error) {
	out, err := c.Tool(ctx, "org.apache.kafka.tools.consumer.ConsoleConsumer",
		"--bootstrap-server", bootstrap, "--topic", topic, "--group", group, "--from-beginning", "--timeout-ms", "8000")
	if err != nil {
		return nil, err
	}
	var values []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "{") {
			values = append(values, strings.TrimSpace(line))
		}
	}
	return values, nil
}

// describe is kafka-consumer-groups.sh --describe. It returns the table, without
// the lines that the tool logs.
func describe(ctx context.Context, c *ktest.Cluster, bootstrap, group string) (string, error) {
	out, err := c.Tool(ctx, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", bootstrap, "--describe", "--group", group)
	if err != nil {
		return "", err
	}
	var table strings.Builder
	fmt.Fprintf(&table, "kafka-consumer-groups.sh --bootstrap-server %s --describe --group %s\n", bootstrap, group)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "GROUP ") || strings.HasPrefix(line, group+" ") {
			fmt.Fprintln(&table, strings.TrimRight(line, " \n"))
		}
	}
	return table.String(), nil
}
