package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/move"
)

// maxHookOutput bounds what is kept of what a hook says.
const maxHookOutput = 4 << 10

// hooksPort is move.Hooks by commands and web hooks of the file.
type hooksPort struct{ m *moves }

// hookCall is what a hook is told.
type hookCall struct {
	Hook move.HookName `json:"hook"`
	Run  dr.Run        `json:"run"`
}

// Call implements move.Hooks.
func (p hooksPort) Call(ctx context.Context, hook move.HookName, run dr.Run) (string, error) {
	h := map[move.HookName]*config.Hook{
		move.OnFence: p.m.pair.Hooks.OnFence, move.OnSwitch: p.m.pair.Hooks.OnSwitch, move.OnDone: p.m.pair.Hooks.OnDone,
	}[hook]
	if h == nil {
		return "", nil
	}
	output, err := callHook(ctx, *h, hookCall{hook, run})
	if err != nil {
		return output, fmt.Errorf("call hook %s: %w", hook, err)
	}
	return output, nil
}

// callHook hands what to a hook as JSON, and returns what it says.
func callHook(ctx context.Context, h config.Hook, what any) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout.Std())
	defer cancel()
	body, err := json.Marshal(what)
	if err != nil {
		return "", fmt.Errorf("encode what the hook is told: %w", err)
	}
	if h.Webhook != "" {
		return post(ctx, h, body)
	}
	out := &limitedBuffer{left: maxHookOutput}
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...) //nolint:gosec // It is the operator's own command, from the configuration file.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(body), out, out
	cmd.WaitDelay = time.Second // children that keep its output open are not waited for
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end within %s", h.Timeout)
	}
	return out.String(), err
}

// post calls a web hook.
func post(ctx context.Context, h config.Hook, body []byte) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.Webhook, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if !h.Token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+h.Token.Reveal())
	}
	// A redirect is an answer like any other that is not 2xx: the token must not
	// go elsewhere.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxHookOutput))
	if resp.StatusCode/100 != 2 {
		return string(raw), errors.New("it answered " + resp.Status)
	}
	return string(raw), err
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct {
	strings.Builder
	left int
}

// Write implements io.Writer and takes everything.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	_, _ = b.Builder.Write(p[:n]) // a strings.Builder takes everything
	return len(p), nil
}

var _ move.Hooks = hooksPort{}
