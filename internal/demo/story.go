package demo

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// say writes to the reader. A reader who went away is no error of the tour.
func (t *tour) say(format string, args ...any) {
	_, _ = fmt.Fprintf(t.out, format, args...)
}

func (t *tour) step(format string, args ...any) {
	t.steps++
	t.say("\n%d. %s\n", t.steps, fmt.Sprintf(format, args...))
}

// holds prints a claim that was just checked.
func (t *tour) holds(format string, args ...any) {
	t.checks++
	t.say("   ok  %s\n", fmt.Sprintf(format, args...))
}

func indent(text string) string {
	return "      " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n      ") + "\n"
}

// await repeats check until it holds, patience or the context ends.
func (t *tour) await(ctx context.Context, check func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited for %v: %w", patience, err)
		}
		if serr := sleep(ctx, 50*time.Millisecond); serr != nil {
			return serr
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// write writes messages and remembers them.
func (t *tour) write(ctx context.Context, c *cluster, numbers ...string) error {
	list := make([]message, 0, len(numbers))
	for _, n := range numbers {
		list = append(list, message{key: "customer-" + n, value: fmt.Sprintf(`{"message":%q,"written_on":%q}`, n, c.name)})
	}
	written, err := c.write(ctx, topic, list)
	if err != nil {
		return err
	}
	t.written, t.wroteAt = append(t.written, written...), time.Now()
	t.show(c.name, written)
	return nil
}

// awaitSame waits until a cluster holds exactly what was written so far.
func (t *tour) awaitSame(ctx context.Context, c *cluster) error {
	var got []message
	if err := t.await(ctx, func() (err error) {
		if got, err = c.read(ctx, topic); err != nil {
			return err
		}
		return same(t.written, got)
	}); err != nil {
		return fmt.Errorf("on the %s: %w", c.name, err)
	}
	t.say("   seen %.1f s after the write:\n", time.Since(t.wroteAt).Seconds())
	t.show(c.name, got)
	return nil
}

func (t *tour) show(where string, list []message) {
	for _, m := range list {
		t.say("   %-10s partition %d offset %d  %s = %s\n", where, m.partition, m.offset, m.key, m.value)
	}
}

// list shows the topics of a cluster.
func (t *tour) list(ctx context.Context, c *cluster) {
	if names, err := c.topics(ctx); err == nil {
		t.say("   topics on the %s: %s\n", c.name, strings.Join(names, ", "))
	}
}

// ends describes the ends of the topic's logs on both clusters.
func (t *tour) ends(ctx context.Context) (string, error) {
	var all []string
	for _, c := range []*cluster{t.primary, t.secondary} {
		ends, err := c.ends(ctx, topic)
		if err != nil {
			return "", err
		}
		all = append(all, fmt.Sprintf("%s %v", c.name, ends))
	}
	return strings.Join(all, ", "), nil
}
