// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/rehearsal"
)

// Observer is told of what happens.
type Observer struct {
	Ready  func()             // the programs tell from now on
	Packet func(Packet) error // a packet passed; an error ends the trace
	Lost   func(count uint64) // so many events were lost, and no packet came after them
}

// Follow tells of every packet that matches, in the order in which they passed on
// a CPU, until the context ends, which is no error, or the observer wants no more.
// The error matches pins.ErrNone where nothing is pinned, also when it is taken
// away meanwhile, and ErrBusy while another trace is running.
func Follow(ctx context.Context, pinDir string, filter Filter, o Observer) (err error) {
	s, err := openSession(pinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.begin(filter); err != nil {
		return err
	}
	o.Ready()
	stop := context.AfterFunc(ctx, func() { s.events.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	for ctx.Err() == nil {
		if err := s.step(ctx, o.Packet); err != nil {
			return err
		}
	}
	return s.finish(o)
}

// begin forgets what an earlier trace left in the buffer, and has the programs
// tell.
func (s *session) begin(filter Filter) (err error) {
	s.filter.Peer, s.filter.PeerMask = datapath.PrefixWords(filter.Peer)
	if filter.Self.IsValid() {
		s.filter.Self, s.filter.SelfMask = datapath.PrefixWords(netip.PrefixFrom(filter.Self, filter.Self.BitLen()))
	}
	if err := s.eachLeft(func(*bpf.DatapathTraceEvent) error { return nil }); err != nil {
		return err
	}
	if s.told, err = s.countLost(); err != nil {
		return err
	}
	s.lost = s.told
	return s.renew()
}

// step waits for the next event, and reports what it completes.
func (s *session) step(ctx context.Context, report func(Packet) error) error {
	if time.Since(s.renewed) >= renewEvery {
		if err := s.renew(); err != nil {
			return err
		}
	}
	event, err := rehearsal.ReadTraced(s.events, time.Now().Add(patience))
	if err != nil {
		return err
	}
	if event == nil && ctx.Err() != nil {
		return nil
	}
	return s.report(s.joiner.add(event), report)
}

// eachLeft does something with each event that is in the buffer.
func (s *session) eachLeft(do func(*bpf.DatapathTraceEvent) error) error {
	for {
		event, err := rehearsal.ReadTraced(s.events, time.Unix(0, 1))
		if event == nil || err != nil {
			return err
		}
		if err := do(event); err != nil {
			return err
		}
	}
}

// finish ends what the programs tell, and reports what they have told until then
// and what was lost at last.
func (s *session) finish(o Observer) error {
	if err := s.putFilter(0); err != nil {
		return err
	}
	report := func(event *bpf.DatapathTraceEvent) error { return s.report(s.joiner.add(event), o.Packet) }
	if err := s.eachLeft(report); err != nil {
		return err
	}
	if err := s.report(s.joiner.flush(), o.Packet); err != nil {
		return err
	}
	lost, err := s.countLost()
	if lost > s.told {
		o.Lost(lost - s.told)
	}
	return err
}

func (s *session) report(list []passage, report func(Packet) error) error {
	if len(list) == 0 {
		return nil
	}
	lost, err := s.countLost()
	if err != nil {
		return err
	}
	for i := range list {
		p, err := s.packet(&list[i], lost > s.lost)
		if err != nil {
			return err
		}
		p.Lost, s.told = lost-s.told, lost
		if err := report(p); err != nil {
			return err
		}
	}
	s.lost = lost
	return nil
}
