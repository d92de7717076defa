package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"

	"github.com/anabranch/anabranch/internal/ktest"
)

// configFile is all that Anabranch is told: the defaults are measured.
var configFile = template.Must(template.New("config").Parse(`worker_id: {{.Worker}}
clusters:
  primary: {bootstrap_servers: ["{{.Source}}"]}
  secondary: {bootstrap_servers: ["{{.Target}}"]}
replicators:
  {{.Name}}: {source: primary, target: secondary, topics: {include: ["{{.Topic}}"]}}
api: {listen: "{{.Listen}}"}
`))

// startAnabranch starts serve with one replicator of one topic from its first
// record. Each call is a new replicator without any state.
func (s *stage) startAnabranch(ctx context.Context, topic string) (*ktest.Process, error) {
	return s.startWorker(ctx, s.newReplicator(topic), 1)
}

// replicator is one of anabranch, which any number of workers may work for.
type replicator struct {
	name           string
	topics         string // pattern
	source, target string // addresses
}

// newReplicator returns one without any state.
func (s *stage) newReplicator(topics string) replicator {
	s.started++
	return replicator{name: fmt.Sprintf("bench-%d", s.started), topics: topics, source: s.source.addr(), target: s.target.addr()}
}

// startWorker starts serve for a replicator; number tells its workers apart.
func (s *stage) startWorker(ctx context.Context, r replicator, number int) (*ktest.Process, error) {
	listen, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	worker := fmt.Sprintf("%s-%d", r.name, number)
	var text bytes.Buffer
	err = configFile.Execute(&text, map[string]string{
		"Source": r.source, "Target": r.target, "Name": r.name, "Topic": r.topics, "Listen": listen, "Worker": worker,
	})
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	path := filepath.Join(s.dir, worker+".yaml")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	args := []string{"serve", "--config", path}
	if s.profiles != "" {
		args = append(args, "--cpuprofile", filepath.Join(s.profiles, worker+".prof"))
	}
	return ktest.StartProcess(s.dir, filepath.Join(s.dir, worker+".log"), s.binary, args...)
}

// freeAddress returns a loopback address that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find free port: %w", err)
	}
	addr := l.Addr().String()
	return addr, l.Close()
}
