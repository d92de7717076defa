package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/anabranch/anabranch/internal/dr"
)

// authorizing is the configuration of a broker that asks for permissions, where
// rules are about a topic, and lets everybody do everything else.
func authorizing(properties map[string]string) map[string]string {
	out := maps.Clone(properties)
	out["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
	out["allow.everyone.if.no.acl.found"] = "true"
	return out
}

// denied withdraws the permission to read and to write a topic of one side, for
// everybody. Both replicators halt for it, say what is not allowed, and go on by
// themselves once the permission is back.
func (r *round) denied(out *Round, side string) error {
	const name = "denied"
	far := otherSide(side)
	from, to := side+far, far+side // replicators
	if err := r.prepare(topic{name: name}); err != nil {
		return err
	}
	var due []halt
	for p := range int32(partitions) {
		for replicator, words := range map[string]string{from: "source topic " + name, to: "target topic " + name} {
			due = append(due, halt{replicator, name, p, []dr.HaltCode{dr.HaltUnauthorized}, func(p dr.PartitionStatus) string {
				if !strings.Contains(p.Reason, words) {
					return "due is " + words
				}
				return ""
			}})
		}
	}
	r.expect(due...)
	rules := []*kadm.ACLBuilder{
		kadm.NewACLs().Allow("User:*").AllowHosts().Operations(kadm.OpAll).ResourcePatternType(kadm.ACLPatternLiteral).Topics(name),
		kadm.NewACLs().Deny("User:*").DenyHosts().Operations(kadm.OpRead, kadm.OpWrite).ResourcePatternType(kadm.ACLPatternLiteral).Topics(name),
	}
	for _, rule := range rules {
		err := r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error {
			list, err := adm.CreateACLs(ctx, rule)
			for _, x := range list {
				err = errors.Join(err, x.Err)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("withdraw the permission: %w", err)
		}
	}
	if err := r.put(far, topic{name: name}, 60, "second"); err != nil {
		return err
	}
	if err := r.awaitHalts(out, due...); err != nil {
		return err
	}
	if err := r.goesOn("beside-denied"); err != nil {
		return err
	}
	err := r.admin(r.ctx, side, func(ctx context.Context, adm *kadm.Client) error {
		list, err := adm.DeleteACLs(ctx, rules[1])
		for _, x := range list {
			err = errors.Join(err, x.Err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("give the permission back: %w", err)
	}
	if err := r.running(); err != nil {
		return err
	}
	for _, s := range sideNames {
		if err := r.put(s, topic{name: name}, 60, "third"); err != nil {
			return err
		}
	}
	return r.exactly(out, name, nil)
}
