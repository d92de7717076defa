package dr

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every rendering of a Secret shows.
const redacted = "<redacted>"

// Secret is a value that must never be shown: a password, a token, a key.
// Every way to print, log or marshal it gives a fixed text, whatever its
// content and whether it is empty or not. Only Reveal gives the value. The zero
// value is the empty secret.
type Secret struct {
	value string
}

// NewSecret returns a secret that holds value.
func NewSecret(value string) Secret { return Secret{value: value} }

// Reveal returns the value. Callers hand it to a protocol and keep no copy.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == "" }

// String returns a fixed text.
func (s Secret) String() string { return redacted }

// GoString returns a fixed text.
func (s Secret) GoString() string { return redacted }

// Format writes a fixed text for every verb and flag.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns a fixed text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns a fixed text.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML returns a fixed text.
func (s Secret) MarshalYAML() (any, error) { return redacted, nil }

// LogValue returns a fixed text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
