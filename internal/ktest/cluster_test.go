package ktest

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

func TestOptionsValidateListsEveryProblem(t *testing.T) {
	err := Options{Version: "1.0", Brokers: 2, HeapMB: 1, Security: 9, Ports: []int{1}, Doors: []string{"127.0.0.1:1"}}.Validate()
	for _, want := range []string{"1.0", "brokers 2", "heap of 1", "security 9", "1 ports", "1 doors"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not mention %q", err, want)
		}
	}
	if err := (Options{}).Validate(); err != nil {
		t.Errorf("zero options: %v", err)
	}
}

func TestPortsAreReservedOnce(t *testing.T) {
	var a, b portSet
	defer b.release()
	port, err := a.take()
	if err != nil {
		t.Fatal(err)
	}
	dir := os.TempDir() + "/anabranch-ports-test"
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.try(dir, port); err != nil || !ok {
		t.Fatalf("take port %d with another directory: %v, %v", port, ok, err)
	}
	var c portSet
	if ok, err := c.try(dir, port); err != nil || ok {
		t.Fatalf("port %d was taken twice: %v", port, err)
	}
	a.release()
}

// newAdmin returns an admin client that is closed with the test.
func newAdmin(t *testing.T, opts ...kgo.Opt) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

func produceOne(t *testing.T, c *Cluster, topic, value string) {
	t.Helper()
	cl, err := kgo.NewClient(append(c.ClientOptions(), kgo.DefaultProduceTopic(topic))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := cl.ProduceSync(ctx, kgo.StringRecord(value)).FirstErr(); err != nil {
		t.Fatalf("produce %q: %v", value, err)
	}
}

func TestBrokerKeepsPortsAndDataOverKillStopAndPause(t *testing.T) {
	for _, version := range []string{Newest, Oldest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := RealCluster(t, Options{Version: version})
			adm := newAdmin(t, c.ClientOptions()...)
			if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, "kept"); err != nil {
				t.Fatal(err)
			}
			produceOne(t, c, "kept", "first")
			if err := c.KillBroker(0); err != nil {
				t.Fatal(err)
			}
			if conn, err := net.Dial("tcp", c.BootstrapServers()[0]); err == nil {
				conn.Close()
				t.Fatal("a killed broker accepts connections")
			}
			if err := c.StartBroker(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			produceOne(t, c, "kept", "second")
			if err := c.StopBroker(0); err != nil {
				t.Fatal(err)
			}
			if err := c.StartBroker(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if err := c.PauseBroker(0); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if _, err := adm.ListTopics(ctx); err == nil {
				t.Error("a paused broker answers")
			}
			cancel()
			if err := c.ResumeBroker(0); err != nil {
				t.Fatal(err)
			}
			ends, err := adm.ListEndOffsets(t.Context(), "kept")
			if err != nil {
				t.Fatal(err)
			}
			if end, _ := ends.Lookup("kept", 0); end.Offset != 2 {
				t.Errorf("end offset is %d after the restarts, want 2", end.Offset)
			}
			if cpu, err := c.Process(0).CPUTime(); err != nil || cpu <= 0 {
				t.Errorf("processor time %v, %v", cpu, err)
			}
			if rss, err := c.Process(0).RSS(); err != nil || rss < 50<<20 {
				t.Errorf("resident set %d, %v", rss, err)
			}
		})
	}
}

func TestThreeBrokersSurviveOne(t *testing.T) {
	Long(t) // the scenario "brokers" of tests/sim does the same
	t.Parallel()
	c := RealCluster(t, Options{Brokers: 3})
	adm := newAdmin(t, c.ClientOptions()...)
	if _, err := adm.CreateTopic(t.Context(), 3, 3, nil, "wide"); err != nil {
		t.Fatal(err)
	}
	produceOne(t, c, "wide", "before")
	if err := c.KillBroker(1); err != nil {
		t.Fatal(err)
	}
	produceOne(t, c, "wide", "during")
	if err := c.StartBroker(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	produceOne(t, c, "wide", "after")
}

func TestSecureListeners(t *testing.T) {
	for _, version := range []string{Newest, Oldest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := RealCluster(t, Options{Version: version, Security: SASLSSL})
			a := c.Auth()
			conf, err := a.TLSConfig()
			if err != nil {
				t.Fatal(err)
			}
			withCert := func(certFile, keyFile string) kgo.Opt {
				cert, err := tls.LoadX509KeyPair(certFile, keyFile)
				if err != nil {
					t.Fatal(err)
				}
				conf := conf.Clone()
				conf.Certificates = []tls.Certificate{cert}
				return kgo.DialTLSConfig(conf)
			}
			login := func(m sasl.Mechanism) []kgo.Opt {
				return []kgo.Opt{kgo.SeedBrokers(c.BootstrapServers()...), kgo.DialTLSConfig(conf), kgo.SASL(m)}
			}
			for name, tc := range map[string]struct {
				opts    []kgo.Opt
				allowed bool
			}{
				"default":      {c.ClientOptions(), true},
				"scram-256":    {login(scram.Auth{User: a.AdminUser, Pass: a.AdminPassword}.AsSha256Mechanism()), true},
				"scram-512":    {login(scram.Auth{User: a.AdminUser, Pass: a.AdminPassword}.AsSha512Mechanism()), true},
				"plain client": {login(plain.Auth{User: a.ClientUser, Pass: a.ClientPassword}.AsMechanism()), false},
				"scram client": {login(scram.Auth{User: a.ClientUser, Pass: a.ClientPassword}.AsSha512Mechanism()), false},
				"mtls admin":   {[]kgo.Opt{kgo.SeedBrokers(c.MTLSServers()...), withCert(a.AdminCertFile, a.AdminKeyFile)}, true},
				"mtls client":  {[]kgo.Opt{kgo.SeedBrokers(c.MTLSServers()...), withCert(a.ClientCertFile, a.ClientKeyFile)}, false},
			} {
				adm := newAdmin(t, append(tc.opts, kgo.RetryTimeout(5*time.Second))...)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				_, err := adm.CreateTopic(ctx, 1, 1, nil, strings.ReplaceAll(name, " ", "-"))
				cancel()
				if tc.allowed && err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if !tc.allowed && !errors.Is(err, kerr.TopicAuthorizationFailed) {
					t.Errorf("%s: %v, want an authorization failure", name, err)
				}
			}
		})
	}
}

func TestToolRunsConsoleTools(t *testing.T) {
	t.Parallel()
	c := RealCluster(t, Options{Version: Oldest, Security: SASLSSL})
	config, err := c.AdminConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Tool(t.Context(), "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", c.BootstrapServers()[0],
		"--command-config", config, "--create", "--topic", "by-tool", "--partitions", "2")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "Created topic by-tool") {
		t.Errorf("output %q", out)
	}
}

// TestBrokersDieWithTheirParent runs this test binary a second time, kills it
// and looks for the broker that it had started.
func TestBrokersDieWithTheirParent(t *testing.T) {
	t.Parallel()
	const roleEnv = "KTEST_PARENT_TO_BE_KILLED"
	if os.Getenv(roleEnv) == "1" {
		c := RealCluster(t, Options{Dir: os.Getenv("KTEST_DIR")})
		if err := os.WriteFile(os.Getenv("KTEST_READY"), []byte(c.BootstrapServers()[0]), 0o600); err != nil {
			t.Fatal(err)
		}
		<-t.Context().Done()
		return
	}
	if _, err := javaPath(); err != nil && os.Getenv(RequireEnv) != "1" {
		t.Skip(err)
	}
	ready := t.TempDir() + "/ready"
	cmd := exec.Command(os.Args[0], "-test.run=^TestBrokersDieWithTheirParent$", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), roleEnv+"=1", "KTEST_READY="+ready, "KTEST_DIR="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	var addr string
	err := poll(ctx, func() error {
		raw, err := os.ReadFile(ready)
		addr = string(raw)
		return err
	})
	killErr := cmd.Process.Kill()
	_ = cmd.Wait() // says only that it was killed
	if (err != nil || killErr != nil) && os.Getenv(RequireEnv) == "1" {
		t.Fatalf("the other process did not come up: %v, %v", err, killErr)
	}
	if err != nil || killErr != nil { // it may lack the jars, as this machine may
		t.Skipf("the other process did not come up: %v, %v", err, killErr)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := poll(ctx, func() error {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return errors.New("the broker still listens")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestFakeClusterAnswers(t *testing.T) {
	f := FakeCluster(t, FakeOptions{ID: "fake-id", Topics: map[string]int32{"a": 3}})
	var b Broker = f
	adm := newAdmin(t, b.ClientOptions()...)
	meta, err := adm.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if meta.Cluster != "fake-id" || len(meta.Topics["a"].Partitions) != 3 {
		t.Errorf("cluster %q with %d partitions", meta.Cluster, len(meta.Topics["a"].Partitions))
	}
}
