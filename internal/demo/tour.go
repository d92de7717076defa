package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/api/apiclient"
	"github.com/anabranch/anabranch/internal/app"
	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/obs"
)

const (
	topic      = "customer"
	partitions = 3
	group      = "msk-consumer"

	// patience bounds every wait of the tour.
	patience = 30 * time.Second
	// quiet is how long nothing may move before the last count.
	quiet = 2 * time.Second
)

// TourOptions describe a tour of two running clusters.
type TourOptions struct {
	Options
	Kind               string   // what kind of clusters these are, for the reader
	Primary, Secondary []string // bootstrap addresses, plaintext
	Tools              Tools    // the consumers of the group
}

// Tools play the consumers of the group. The zero value uses a client of our own.
type Tools struct {
	// Consume joins the group, reads what it has not read of the topic, commits
	// and leaves. It returns the values, in any order.
	Consume func(ctx context.Context, bootstrap, group, topic string) (values []string, err error)
	// Describe returns what an operator would be shown of the group; nil: nothing.
	Describe func(ctx context.Context, bootstrap, group string) (string, error)
}

// tour is the state of one walk.
type tour struct {
	o                  TourOptions
	out                io.Writer
	primary, secondary *cluster
	api                *apiclient.Client
	url                string
	steps, checks      int
	written            []message
	wroteAt            time.Time // the newest of them
}

// Tour runs a worker with replicators both ways between the clusters, walks
// through the story and then waits for the end of ctx, unless Exit is set.
func Tour(ctx context.Context, o TourOptions) (err error) {
	t := &tour{o: o, out: o.Stdout}
	if t.primary, err = connect("primary", o.Primary); err != nil {
		return err
	}
	defer t.primary.close()
	if t.secondary, err = connect("secondary", o.Secondary); err != nil {
		return err
	}
	defer t.secondary.close()

	workerCtx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	file, worker, err := t.makeWorker(ctx)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	tourCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		err := worker.Run(workerCtx)
		cancel(fmt.Errorf("the worker ended: %w", err))
		ended <- err
	}()
	err = t.walk(tourCtx, file)
	switch {
	case err == nil && !o.Exit:
		t.invite()
		<-tourCtx.Done()
	case err != nil && tourCtx.Err() != nil:
		err = context.Cause(tourCtx)
	}
	t.say("\nStopping: the replicators drain and write their checkpoints.\n")
	stop(nil)
	return errors.Join(err, <-ended)
}

// makeWorker writes the file that an operator would write, and builds a worker
// from it as serve does. It returns the file's text.
func (t *tour) makeWorker(ctx context.Context) (string, *app.App, error) {
	text := fmt.Sprintf(`clusters:
  primary:   {bootstrap_servers: [%s]}
  secondary: {bootstrap_servers: [%s]}
replicators:
  primary-to-secondary: {source: primary, target: secondary, groups: {sync_interval: 1s}}
  secondary-to-primary: {source: secondary, target: primary, groups: {sync_interval: 1s}}
api: {listen: "127.0.0.1:0"}
log: {level: warn}
`, quoted(t.o.Primary), quoted(t.o.Secondary))
	dir, err := os.MkdirTemp("", "anabranch-demo-")
	if err != nil {
		return "", nil, fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "anabranch.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", nil, fmt.Errorf("write the configuration: %w", err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		return "", nil, err
	}
	log, err := obs.NewLogger(obs.LogOptions{Level: cfg.Log.Level, Writer: t.o.Stderr})
	if err != nil {
		return "", nil, err
	}
	worker, err := app.New(app.Options{Config: cfg, Build: t.o.Build, Logger: log})
	if err != nil {
		return "", nil, err
	}
	addr, err := worker.Listen(ctx)
	if err != nil {
		return "", nil, err
	}
	t.url = "http://" + addr.String()
	t.api, err = apiclient.New(apiclient.Options{Server: t.url})
	return text, worker, err
}

func quoted(addrs []string) string {
	list := make([]string, 0, len(addrs))
	for _, a := range addrs {
		list = append(list, fmt.Sprintf("%q", a))
	}
	return strings.Join(list, ", ")
}

// walk is the story. It ends at the first claim that does not hold.
func (t *tour) walk(ctx context.Context, file string) error {
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return t.start(ctx, file) },
		t.writePrimary, t.listSecondary, t.readPrimary, t.writeSecondary, t.failback, t.readSecondary, t.readBack, t.count,
	} {
		if err := step(ctx); err != nil {
			if ctx.Err() == nil {
				t.say("   NOT SO  %v\n", err)
			}
			return err
		}
	}
	t.say("\nAll %d claims were checked on the clusters and hold.\n", t.checks)
	return nil
}

func (t *tour) start(ctx context.Context, file string) error {
	t.step("Two clusters, and a worker with replicators both ways")
	t.say("   primary    %s\n   secondary  %s\n   These are %s.\n", strings.Join(t.o.Primary, ","), strings.Join(t.o.Secondary, ","), t.o.Kind)
	t.say("   The worker's file:\n\n%s\n", indent(file))
	began := time.Now()
	for _, name := range []string{"primary-to-secondary", "secondary-to-primary"} {
		if err := t.await(ctx, func() error {
			st, err := t.api.Replicator(ctx, name)
			if err == nil && st.State != dr.ReplicatorRunning {
				err = fmt.Errorf("replicator %s is %s: %s", name, st.State, st.Reason)
			}
			return err
		}); err != nil {
			return err
		}
	}
	t.holds("both replicators are RUNNING, %.1f s after the start", time.Since(began).Seconds())
	return nil
}

func (t *tour) writePrimary(ctx context.Context) error {
	t.step("Topic %s with %d partitions on the primary, and two messages", topic, partitions)
	if err := t.primary.create(ctx, topic, partitions); err != nil {
		return err
	}
	return t.write(ctx, t.primary, "one", "two")
}

func (t *tour) listSecondary(ctx context.Context) error {
	t.step("The secondary now has the topic, under the same name")
	if err := t.await(ctx, func() error { return t.secondary.has(ctx, topic, partitions) }); err != nil {
		return err
	}
	t.list(ctx, t.secondary)
	t.holds("topic %s is listed on the secondary with %d partitions: found and created without being asked for", topic, partitions)
	if err := t.awaitSame(ctx, t.secondary); err != nil {
		return err
	}
	t.holds("both messages are there: same partition, key, value, headers and timestamp, byte for byte")
	return nil
}

func (t *tour) writeSecondary(ctx context.Context) error {
	t.step("The producers move to the secondary and write messages three and four there")
	return t.write(ctx, t.secondary, "three", "four")
}

func (t *tour) failback(ctx context.Context) error {
	t.step("What was written on the secondary is written back to the primary")
	if err := t.awaitSame(ctx, t.primary); err != nil {
		return err
	}
	t.holds("messages three and four are on the primary: who reads there misses nothing")
	return nil
}

func (t *tour) count(ctx context.Context) error {
	t.step("Nothing twice, nothing in circles")
	t.say("   Both directions copy the same topic name. Watching for %v that nothing moves.\n", quiet)
	before, err := t.ends(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, quiet); err != nil {
		return err
	}
	after, err := t.ends(ctx)
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("the ends of the logs moved from %s to %s although nobody writes", before, after)
	}
	t.holds("no log grew: what a replicator wrote is known by its producer id and not copied again")
	for _, c := range []*cluster{t.primary, t.secondary} {
		got, err := c.read(ctx, topic)
		if err != nil {
			return err
		}
		if err := same(t.written, got); err != nil {
			return fmt.Errorf("on the %s: %w", c.name, err)
		}
		t.show(c.name, got)
		t.holds("%d messages on the %s, each exactly once", len(got), c.name)
	}
	for _, name := range []string{"primary-to-secondary", "secondary-to-primary"} {
		st, err := t.api.Replicator(ctx, name)
		if err != nil {
			return err
		}
		if st.MessageLag != 0 || st.State != dr.ReplicatorRunning {
			return fmt.Errorf("replicator %s is %s with a lag of %d messages", name, st.State, st.MessageLag)
		}
	}
	t.holds("both replicators say RUNNING, message_lag 0")
	return nil
}

// invite says what can be looked at while the tour stays up.
func (t *tour) invite() {
	t.say(`
It stays up until Ctrl-C. Have a look in another terminal:

   anabranch replicator list --server %[1]s
   anabranch replicator describe primary-to-secondary --server %[1]s
   anabranch group describe %[5]s --server %[1]s
   curl %[1]s/metrics
   kcat -b %[2]s -t %[4]s -P        # write on one side
   kcat -b %[3]s -t %[4]s -C        # read on the other
`, t.url, t.o.Primary[0], t.o.Secondary[0], topic, group)
}
