// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"replypath/loader/config"
	"replypath/loader/explain"
	"replypath/loader/trace"
	"replypath/test/harness"
	"replypath/test/topology"
)

// tracer asks while it traces, by conversations of its own.
type tracer struct {
	*bed
	talks []*harness.Conversation
	next  int
}

// newTracer has conversations with the echo servers of the network.
func newTracer(b *bed, s *topology.S1) *tracer {
	b.Helper()
	t := &tracer{bed: b}
	for _, f := range s.Families() {
		for _, kind := range []harness.Kind{harness.TCP, harness.UDP} {
			t.talks = append(t.talks, harness.NewConversation(b.T, kind, s.A.Eth1, s.B.Eth1.Address(f)))
		}
	}
	return t
}

// follow traces one question and its answer, of one conversation after the other, and returns
// what was told of them.
func (t *tracer) follow() (c *harness.Conversation, told []trace.Packet, err error) {
	c = t.talks[t.next%len(t.talks)]
	t.next++
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan error, 1)
	filter := trace.Filter{Peer: netip.PrefixFrom(c.Peer.Addr(), c.Peer.Addr().BitLen()), Self: c.Self.Addr()}
	err = trace.Follow(ctx, t.dir, filter, trace.Observer{
		Ready: func() {
			go func() {
				asked <- c.Ask(within(t.T))
				cancel()
			}()
		},
		Packet: func(p trace.Packet) error {
			if p.PeerPort == c.Peer.Port() {
				told = append(told, p)
			}
			return nil
		},
		Lost: func(uint64) {},
	})
	if err == nil {
		err = <-asked
	}
	return c, told, err
}

// trace wants the question and its answer, by their ways.
func (w *whole) trace(t *tracer) reader {
	return func() error {
		since := w.switches.Load()
		c, told, err := t.follow()
		if err != nil {
			return fmt.Errorf("trace %s: %w", c, err)
		}
		questions, answers := 0, 0
		for i := range told {
			p := &told[i]
			if p.Direction == trace.Inbound {
				questions++
				err = errors.Join(err, tracedQuestion(p))
			} else {
				answers++
				err = errors.Join(err, w.tracedAnswer(p, since))
			}
		}
		if questions == 0 || answers == 0 {
			err = errors.Join(err, fmt.Errorf("%d questions, %d answers", questions, answers))
		}
		if err != nil {
			err = fmt.Errorf("traced %s: %w", c, err)
		}
		return err
	}
}

func tracedQuestion(p *trace.Packet) error {
	if harness.OrEmpty(p.InterfaceIn) != "eth1" || p.Verdict != trace.Known && p.Verdict != trace.New {
		return fmt.Errorf("in by %s, %s %s", harness.OrEmpty(p.InterfaceIn), p.Verdict, harness.OrEmpty(p.Reason))
	}
	return nil
}

func (w *whole) tracedAnswer(p *trace.Packet, since int64) error {
	out, reason := harness.OrEmpty(p.Out.Interface), harness.OrEmpty(p.Reason)
	switch {
	case harness.OrEmpty(p.Kernel.Interface) != "eth0":
	case p.Verdict == explain.Corrected && out == "eth1":
		return w.isMode(string(config.ModeEnforce), since)
	case p.Verdict == explain.Fallback && out == "eth0" && reason == string(config.ModeObserve):
		return w.isMode(string(config.ModeObserve), since)
	}
	return fmt.Errorf("out by %s, by the kernel %s, %s %s", out, harness.OrEmpty(p.Kernel.Interface), p.Verdict, reason)
}
