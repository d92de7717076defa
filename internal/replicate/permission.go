package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// askPermission has a partition that is not authorised tried again, if it may be
// used now. To try takes the whole slot over, which stops all its pipelines for a
// moment, so the brokers are asked first what is allowed (KIP-430). Where they
// don't say it, trying is the only way to know.
func (s *slot) askPermission(p *pipeline) {
	p.asking = true
	gen, id := p.gen, p.id
	s.e.background(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		may := allows(ctx, s.e.sourceControl, p.topic, kmsg.ACLOperationRead) && allows(ctx, s.e.control, p.target, kmsg.ACLOperationWrite)
		s.box.put(event{call: func() {
			if s.pipes[id] != p || p.gen != gen {
				return
			}
			p.asking = false
			switch {
			case p.halt == nil || s.retake != nil || !p.quiet():
			case may:
				p.note(errors.New("authorisation is tried again"))
				p.halt = nil
				s.retake = fmt.Errorf("%w: %s partition %d: authorisation is tried again", errRetake, p.topic, p.id.partition)
			default:
				s.retries[id] = retry{at: time.Now().Add(firstRetry), wait: firstRetry} // nobody was disturbed: soon again
			}
		}})
	})
}

// firstRetry is when a partition that is not authorised is tried again.
const firstRetry = 5 * time.Second

// allows reports whether an operation on a topic is allowed, as far as the
// brokers say it: false only when they say that it is not.
func allows(ctx context.Context, cl *kgo.Client, topic string, op kmsg.ACLOperation) bool {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation, req.IncludeTopicAuthorizedOperations = false, true
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil || len(resp.Topics) != 1 {
		return true
	}
	// Without the field it is the least number, and a topic that may be
	// described allows that at least.
	ops := resp.Topics[0].AuthorizedOperations
	return ops <= 0 || ops>>op&1 == 1
}
