package kclient

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// levelTrace is for what kgo calls debug: several lines a request.
const levelTrace = slog.LevelDebug - 4

// logger hands what kgo logs to slog. One level lower than kgo means it: a
// broker that goes away is news for a client library, but every day's business
// for a replicator, which tells it in its own words.
type logger struct {
	log      *slog.Logger
	cluster  string
	warnings *Warnings
}

func newLogger(l *slog.Logger, cluster string, w *Warnings) kgo.Logger {
	return logger{l.With(slog.String("component", "kafka_client"), slog.String("cluster", cluster)), cluster, w}
}

func slogLevel(l kgo.LogLevel) slog.Level {
	switch l {
	case kgo.LogLevelError, kgo.LogLevelWarn:
		return slog.LevelWarn
	case kgo.LogLevelInfo:
		return slog.LevelDebug
	default:
		return levelTrace
	}
}

// Level returns the most verbose level that is wanted.
func (l logger) Level() kgo.LogLevel {
	for _, k := range []kgo.LogLevel{kgo.LogLevelDebug, kgo.LogLevelInfo, kgo.LogLevelWarn} {
		if l.log.Enabled(context.Background(), slogLevel(k)) {
			return k
		}
	}
	return kgo.LogLevelNone
}

// Log writes one record. Keys become snake_case. A warning that an address
// fails goes to the debug level while its like was told a short time ago.
func (l logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	lv := slogLevel(level)
	if !l.log.Enabled(context.Background(), lv) {
		return
	}
	attrs := make([]slog.Attr, 0, len(keyvals)/2+1)
	same := warning{cluster: l.cluster, message: msg}
	for i := 0; i+1 < len(keyvals); i += 2 {
		key := strings.ReplaceAll(fmt.Sprint(keyvals[i]), " ", "_")
		switch key {
		case "addr":
			same.address = fmt.Sprint(keyvals[i+1])
		case "broker":
			// Some messages name the broker only.
			same.address = cmp.Or(same.address, fmt.Sprint(keyvals[i+1]))
		case "err":
			key = "error"
			if err, ok := keyvals[i+1].(error); ok {
				same.cause = CauseOf(err)
			}
		}
		attrs = append(attrs, slog.Any(key, keyvals[i+1]))
	}
	if lv == slog.LevelWarn && same.address != "" && same.cause != "" {
		held, due := l.warnings.due(same)
		if !due {
			lv = slog.LevelDebug
		}
		if held > 0 {
			attrs = append(attrs, slog.Int("held_back", held))
		}
	}
	l.log.LogAttrs(context.Background(), lv, msg, attrs...)
}
