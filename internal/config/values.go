package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
)

// Duration is a time span, written like "5s" or "1m30s" in the file.
type Duration time.Duration

// Std returns the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns the form of the file.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns the form of the file.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// JSONSchema describes the form of the file.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$`}
}

func parseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration (write for example 500ms, 5s or 2m)", s)
	}
	return Duration(d), nil
}

// Size is a number of bytes, written like "64MiB" in the file.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
	{"", 1},
}

// String returns the form of the file, in the largest unit without remainder.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText returns the form of the file.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// JSONSchema describes the form of the file.
func (Size) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^[0-9]+ ?(B|kB|MB|GB|KiB|MiB|GiB)?$`}
}

// ParseSize reads the form of the file: a number of bytes with a unit.
func ParseSize(s string) (Size, error) {
	bad := fmt.Errorf("%q is not a size (write for example 64MiB or 512KiB)", s)
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		switch {
		case errors.Is(err, strconv.ErrSyntax) || n < 0:
			return 0, bad
		case err != nil || n > math.MaxInt64/u.bytes:
			return 0, fmt.Errorf("%q is too large", s)
		}
		return Size(n * u.bytes), nil
	}
	return 0, bad
}
