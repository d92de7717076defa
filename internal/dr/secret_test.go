package dr

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecret_IsNeverShown(t *testing.T) {
	t.Parallel()
	s := NewSecret("hunter2")
	holder := struct {
		Name string
		S    Secret
		P    *Secret
	}{"n", s, &s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s", "%T %v"} {
		args := []any{any(holder)}
		if strings.Count(verb, "%") == 2 {
			args = append(args, s)
		}
		for _, got := range []string{fmt.Sprintf(verb, args...), fmt.Sprintf(verb, s, s), fmt.Sprintf(verb, []Secret{s}, s), fmt.Sprintf(verb, map[string]Secret{"k": s}, s)} {
			if strings.Contains(got, "hunter2") || strings.Contains(got, "68756e74657232") {
				t.Errorf("%s shows the secret: %s", verb, got)
			}
		}
	}
	raw, err := json.Marshal(holder)
	if err != nil || strings.Contains(string(raw), "hunter2") || !strings.Contains(string(raw), "redacted") {
		t.Errorf("json: %s, %v", raw, err)
	}
	if y, _ := s.MarshalYAML(); y != "<redacted>" {
		t.Errorf("yaml: %v", y)
	}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", slog.Any("s", s), slog.Any("holder", holder))
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", slog.Any("s", s), slog.Any("holder", holder))
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("slog shows the secret: %s", b.String())
	}
	if s.Reveal() != "hunter2" || s.IsZero() || !(Secret{}).IsZero() {
		t.Error("Reveal or IsZero is wrong")
	}
}
