package ktest

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

func TestMirrorMakerCopiesUnderTheSameName(t *testing.T) {
	Long(t) // the bench starts it, too
	t.Parallel()
	source := RealCluster(t, Options{})
	target := RealCluster(t, Options{Version: Oldest})
	adm := newAdmin(t, source.ClientOptions()...)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, "copied"); err != nil {
		t.Fatal(err)
	}
	produceOne(t, source, "copied", "ktest-id:1;one")
	p, err := MirrorMaker(t.Context(), MirrorMakerOptions{Dir: t.TempDir(), HeapMB: 256, Properties: map[string]string{
		"clusters":                              "a, b",
		"a.bootstrap.servers":                   source.BootstrapServers()[0],
		"b.bootstrap.servers":                   target.BootstrapServers()[0],
		"a->b.enabled":                          "true",
		"b->a.enabled":                          "false",
		"a->b.topics":                           "copied",
		"replication.policy.class":              "org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
		"replication.factor":                    "1",
		"checkpoints.topic.replication.factor":  "1",
		"heartbeats.topic.replication.factor":   "1",
		"offset-syncs.topic.replication.factor": "1",
		"offset.storage.replication.factor":     "1",
		"status.storage.replication.factor":     "1",
		"config.storage.replication.factor":     "1",
		"a->b.consumer.auto.offset.reset":       "earliest",
		"a->b.emit.heartbeats.enabled":          "false",
		"dedicated.mode.enable.internal.rest":   "false",
	}})
	if errors.Is(err, ErrUnavailable) && os.Getenv(RequireEnv) != "1" {
		t.Skipf("skipped, because MirrorMaker cannot be run here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	err = poll(ctx, func() error {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		log, err := Read(attempt, target, "copied", ReadUncommitted)
		if err != nil {
			return err
		}
		if len(log.Records()) == 0 {
			return errors.New("nothing was copied")
		}
		return nil
	})
	if err != nil {
		t.Errorf("%v\n%s", err, logTail(p.LogPath()))
	}
	cpu, cpuErr := p.CPUTime()
	rss, rssErr := p.PeakRSS()
	if err := errors.Join(cpuErr, rssErr); err != nil || cpu < time.Second || rss < 100<<20 {
		t.Errorf("processor time %v, peak resident set %d, %v", cpu, rss, err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
