package app

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/api"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/obs"
)

// clientOptions returns how a replicator reaches a cluster. An empty replicator
// stands for the shared table.
func (a *App) clientOptions(build obs.Build, replicator, cluster string) kclient.Options {
	o, ok := a.cfg.ClientOptions(cluster)
	if !ok {
		panic(fmt.Sprintf("bug: a file that was loaded lacks cluster %q", cluster))
	}
	o.Logger, o.Warnings, o.SoftwareVersion = a.log, a.warnings, build.Version
	o.Hooks = append(o.Hooks, authHook{a.auth, authKey{replicator, cluster}})
	return o
}

// authErrors counts refused credentials.
type authErrors struct {
	mu struct {
		sync.Mutex
		counts map[authKey]uint64
	}
}

type authKey struct{ replicator, cluster string }

func newAuthErrors() *authErrors {
	e := &authErrors{}
	e.mu.counts = map[authKey]uint64{}
	return e
}

func (e *authErrors) add(k authKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.counts[k]++
}

// snapshot returns a copy of the counts.
func (e *authErrors) snapshot() map[authKey]uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.mu.counts)
}

// authHook counts for one replicator and cluster. kgo calls it after the SASL
// exchange of a new connection too, with that exchange's error.
type authHook struct {
	errors *authErrors
	key    authKey
}

var _ kgo.HookBrokerConnect = authHook{}

// OnBrokerConnect counts a connection on which the credentials were refused.
func (h authHook) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil && kclient.CauseOf(err) == kclient.CauseSASL {
		h.errors.add(h.key)
	}
}

func apiOptions(o Options, s *service, metrics http.Handler, log *slog.Logger) api.Options {
	out := api.Options{
		Service: s, Groups: s, Diffs: s, Pairs: s.pairs, Listen: o.Config.API.Listen, Token: o.Config.API.Token.Reveal(),
		Metrics: metrics, Build: o.Build, Logger: log,
	}
	if t := o.Config.API.TLS; t != nil {
		out.CertFile, out.KeyFile = t.CertFile, t.KeyFile
	}
	return out
}
