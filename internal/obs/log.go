package obs

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// LogFormat is how log lines are written.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text" // key=value pairs
	LogJSON LogFormat = "json" // one JSON object a line
)

// LogOptions describe a logger.
type LogOptions struct {
	Format LogFormat // empty means LogText
	Level  string    // debug, info, warn or error; empty means info
	Writer io.Writer // nil means discard
}

// NewLogger returns the logger that the options describe, or an error that names
// the format or level that is not known.
func NewLogger(o LogOptions) (*slog.Logger, error) {
	level, err := ParseLevel(o.Level)
	if err != nil {
		return nil, err
	}
	if o.Writer == nil {
		return slog.New(slog.DiscardHandler), nil
	}
	ho := &slog.HandlerOptions{Level: level}
	switch o.Format {
	case "", LogText:
		return slog.New(slog.NewTextHandler(o.Writer, ho)), nil
	case LogJSON:
		return slog.New(slog.NewJSONHandler(o.Writer, ho)), nil
	default:
		return nil, fmt.Errorf("log format %q: want text or json", o.Format)
	}
}

// ParseLevel maps the name of a level, in any case, to slog's. Empty means info.
func ParseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	default:
		return 0, fmt.Errorf("log level %q: want debug, info, warn or error", name)
	}
}
