package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/anabranch/anabranch/internal/kclient"
)

// message is one record as a client sees it.
type message struct {
	partition int32
	offset    int64 // differs between the clusters
	key       string
	value     string
	headers   string
	timestamp int64 // ms
}

// identity is everything but the offset.
func (m message) identity() message {
	m.offset = 0
	return m
}

// same reports how got differs from the messages that were written: missing,
// more than once, or changed.
func same(written, got []message) error {
	want := map[message]int{}
	for _, m := range written {
		want[m.identity()]++
	}
	var errs []error
	for _, m := range got {
		if want[m.identity()] == 0 {
			errs = append(errs, fmt.Errorf("%s is there twice or was changed", m.key))
			continue
		}
		want[m.identity()]--
	}
	for m, n := range want {
		if n > 0 {
			errs = append(errs, fmt.Errorf("%s is missing", m.key))
		}
	}
	return errors.Join(errs...)
}

// cluster is an ordinary client of one cluster: it knows nothing of the
// replicators.
type cluster struct {
	name    string
	options kclient.Options
	cl      *kgo.Client
	adm     *kadm.Client
}

func connect(name string, addrs []string) (*cluster, error) {
	c := &cluster{name: name, options: kclient.Options{Name: name, BootstrapServers: addrs, ClientID: "demo"}}
	// kadm answers from metadata that may be as old as MetadataMinAge, and a
	// topic that was just created is not known to every broker yet.
	cl, err := kclient.New(c.options, kgo.ProducerLinger(0), kgo.MetadataMinAge(50*time.Millisecond), kgo.UnknownTopicRetries(100))
	if err != nil {
		return nil, err
	}
	c.cl, c.adm = cl, kadm.NewClient(cl)
	return c, nil
}

func (c *cluster) close() { c.cl.Close() }

func (c *cluster) create(ctx context.Context, topic string, partitions int32) error {
	if _, err := c.adm.CreateTopic(ctx, partitions, -1, nil, topic); err != nil {
		return fmt.Errorf("create topic %s on the %s: %w", topic, c.name, err)
	}
	return nil
}

// write sends messages one after the other and returns them with their places.
func (c *cluster) write(ctx context.Context, topic string, list []message) ([]message, error) {
	out := make([]message, 0, len(list))
	for _, m := range list {
		r := &kgo.Record{
			Topic: topic, Key: []byte(m.key), Value: []byte(m.value),
			Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/json")}}, Timestamp: time.Now(),
		}
		if err := c.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			return nil, fmt.Errorf("write to topic %s on the %s: %w", topic, c.name, err)
		}
		out = append(out, messageOf(r))
	}
	return out, nil
}

func messageOf(r *kgo.Record) message {
	var headers strings.Builder
	for _, h := range r.Headers {
		fmt.Fprintf(&headers, "%q=%q ", h.Key, h.Value)
	}
	return message{r.Partition, r.Offset, string(r.Key), string(r.Value), headers.String(), r.Timestamp.UnixMilli()}
}

// has reports whether the topic exists with that many partitions.
func (c *cluster) has(ctx context.Context, topic string, partitions int) error {
	list, err := c.adm.ListTopics(ctx, topic)
	if err != nil {
		return fmt.Errorf("list topics of the %s: %w", c.name, err)
	}
	if n := len(list[topic].Partitions); n != partitions {
		return fmt.Errorf("topic %s has %d partitions on the %s, want %d", topic, n, c.name, partitions)
	}
	return nil
}

// topics returns the names of the topics that are not internal.
func (c *cluster) topics(ctx context.Context) ([]string, error) {
	list, err := c.adm.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics of the %s: %w", c.name, err)
	}
	return slices.DeleteFunc(list.Names(), func(n string) bool { return strings.HasPrefix(n, "__") }), nil
}

// ends returns the ends of the topic's logs by partition.
func (c *cluster) ends(ctx context.Context, topic string) (map[int32]int64, error) {
	list, err := c.adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = list.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list the ends of topic %s on the %s: %w", topic, c.name, err)
	}
	out := map[int32]int64{}
	for p, o := range list[topic] {
		out[p] = o.Offset
	}
	return out, nil
}

// read returns everything that the topic holds now, by timestamp.
func (c *cluster) read(ctx context.Context, topic string) ([]message, error) {
	ends, err := c.ends(ctx, topic)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(ends, func(_ int32, end int64) bool { return end == 0 })
	if len(ends) == 0 {
		return nil, nil
	}
	from := map[int32]kgo.Offset{}
	for p := range ends {
		from[p] = kgo.NewOffset().At(0)
	}
	cl, err := kclient.New(c.options, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var out []message
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for len(ends) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, fmt.Errorf("read topic %s on the %s: %w", topic, c.name, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out = append(out, messageOf(r))
			}
			if r.Offset+1 >= ends[r.Partition] {
				delete(ends, r.Partition)
			}
		})
	}
	slices.SortFunc(out, func(a, b message) int {
		return cmp.Or(cmp.Compare(a.timestamp, b.timestamp), cmp.Compare(a.key, b.key))
	})
	return out, nil
}
