package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

// idle is how long a consumer of the group waits for more messages before it
// leaves.
const idle = time.Second

func (t *tour) readPrimary(ctx context.Context) error {
	t.step("Group %s reads on the primary", group)
	if err := t.consume(ctx, t.primary, "one", "two"); err != nil {
		return err
	}
	t.holds("it read both messages, committed and left")
	if err := t.carried(ctx, "primary-to-secondary", t.secondary); err != nil {
		return err
	}
	t.holds("the group is on the secondary too, at its next unread message")
	return nil
}

func (t *tour) readSecondary(ctx context.Context) error {
	t.step("The consumers of %s move to the secondary", group)
	if err := t.consume(ctx, t.secondary, "three", "four"); err != nil {
		return err
	}
	t.holds("they read the third and the fourth message only: nothing twice, nothing left out")
	return nil
}

func (t *tour) readBack(ctx context.Context) error {
	t.step("The consumers of %s move back to the primary, where message five is written", group)
	if err := t.carried(ctx, "secondary-to-primary", t.primary); err != nil {
		return err
	}
	if err := t.consume(ctx, t.primary); err != nil {
		return err
	}
	t.holds("they read nothing: all four messages were read before, each once")
	if err := t.write(ctx, t.primary, "five"); err != nil {
		return err
	}
	if err := t.awaitSame(ctx, t.secondary); err != nil {
		return err
	}
	if err := t.consume(ctx, t.primary, "five"); err != nil {
		return err
	}
	if err := t.carried(ctx, "primary-to-secondary", t.secondary); err != nil {
		return err
	}
	t.holds("they read the fifth message, once, and the secondary knows")
	return nil
}

// consume lets the group read on a cluster, and checks that it read the messages
// of these numbers and no others.
func (t *tour) consume(ctx context.Context, c *cluster, numbers ...string) error {
	read := t.o.Tools.Consume
	if read == nil {
		read = c.consume
	}
	values, err := read(ctx, c.options.BootstrapServers[0], group, topic)
	if err != nil {
		return fmt.Errorf("read with group %s on the %s: %w", group, c.name, err)
	}
	var got, want []string
	for _, m := range t.written {
		for range countOf(values, m.value) {
			got = append(got, m.key)
			t.say("   %-10s %s reads  %s = %s\n", c.name, group, m.key, m.value)
		}
	}
	for _, n := range numbers {
		want = append(want, "customer-"+n)
	}
	if len(values) == 0 {
		t.say("   %-10s %s reads nothing\n", c.name, group)
	}
	if !slices.Equal(got, want) || len(values) != len(want) {
		return fmt.Errorf("group %s read %q on the %s, want %q", group, values, c.name, want)
	}
	return nil
}

func countOf(list []string, value string) int {
	n := 0
	for _, v := range list {
		if v == value {
			n++
		}
	}
	return n
}

// carried waits until a replicator has brought all positions of the group to its
// target, and shows them.
func (t *tour) carried(ctx context.Context, replicator string, target *cluster) error {
	var st dr.GroupStatus
	if err := t.await(ctx, func() (err error) {
		if st, err = t.api.Group(ctx, replicator, group); err != nil {
			return err
		}
		for _, p := range st.Partitions {
			if p.State != dr.GroupSynced || p.TargetOffset != p.TranslatedOffset {
				return fmt.Errorf("partition %d of group %s is %s (%s): %d on the target, want %d", p.Partition, group, p.State, p.Reason, p.TargetOffset, p.TranslatedOffset)
			}
		}
		if st.State != dr.GroupSynced || len(st.Partitions) == 0 {
			return fmt.Errorf("group %s is %s (%s) with %d partitions", group, st.State, st.Reason, len(st.Partitions))
		}
		return nil
	}); err != nil {
		return fmt.Errorf("%s: %w", replicator, err)
	}
	for _, p := range st.Partitions {
		t.say("   %s  partition %d: offset %d there, %d here\n", replicator, p.Partition, p.SourceOffset, p.TargetOffset)
	}
	if t.o.Tools.Describe == nil {
		return nil
	}
	text, err := t.o.Tools.Describe(ctx, target.options.BootstrapServers[0], group)
	if err != nil {
		return fmt.Errorf("describe group %s on the %s: %w", group, target.name, err)
	}
	t.say("%s", indent(text))
	return nil
}

// consume is an ordinary consumer: it joins the group, reads until nothing comes
// any more, commits and leaves.
func (c *cluster) consume(ctx context.Context, _, group, topic string) ([]string, error) {
	assigned := make(chan struct{}, 1)
	cl, err := kclient.New(c.options, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) {
			select {
			case assigned <- struct{}{}:
			default:
			}
		}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var values []string
	poll := func(d time.Duration) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil && ctx.Err() == nil {
			return 0, err
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
		return fetches.NumRecords(), nil
	}
	for deadline, joined := time.Now().Add(patience), false; ; {
		n, err := poll(idle)
		if err != nil {
			return nil, err
		}
		select {
		case <-assigned:
			joined = true
			continue // The partitions may have come at the end of the wait.
		default:
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if joined && n == 0 {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the group did not get ready in %v", patience)
		}
	}
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	if err := cl.LeaveGroupContext(ctx); err != nil {
		return nil, fmt.Errorf("leave the group: %w", err)
	}
	return values, nil
}
