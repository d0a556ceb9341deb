// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

// history is what happened to tuples since a program began: enough to tell
// whether what the datapath does is allowed, whatever its tables have forgotten.
type history struct {
	came     map[model.Tuple]map[uint32]bool // interfaces that its packets came in by
	answered map[model.Tuple]bool            // a SYN-ACK was sent
}

// RunFull runs a program on tables that are always full. What is in them is a
// matter of what had to go; so no model is asked, and only what must hold
// whatever they have forgotten is looked at: a packet passes untouched or goes
// back to where its tuple came from, only an answered handshake makes an
// established entry, and only another one pushes it out.
func (r *Runner) RunFull(data []byte) (what string, err error) { return r.RunFullProgram(Decode(data)) }

// RunFullProgram is RunFull for a program that was read.
func (r *Runner) RunFullProgram(p Program) (what string, err error) {
	if p.Setup.bare < devices {
		return "", nil // moves between kinds of devices change more than addresses
	}
	p.Setup.source = devices // or what is no reply would be moved by its source
	for i := range p.Setup.devices {
		p.Setup.devices[i].mtu, p.Setup.devices[i].narrow = 1500, false
	}
	err = r.h.Do(func() error {
		if err := rig.Pin(r.cpu); err != nil {
			return err
		}
		x := &run{Runner: r, tuples: make(map[model.Tuple]bool)}
		if err := x.begin(p.Setup); err != nil {
			return err
		}
		defer x.end()
		h := history{came: make(map[model.Tuple]map[uint32]bool), answered: make(map[model.Tuple]bool)}
		for i, s := range p.Steps {
			if err := x.stepFull(s, h); err != nil {
				return err
			}
			if x.what.Len() > 0 {
				x.differ("at step %d: %s", i, s)
				what = x.what.String()
				return nil
			}
		}
		return nil
	})
	return what, err
}

func (x *run) stepFull(s Step, h history) error {
	switch s.Kind {
	case inbound, outbound:
	case decide:
		return nil
	default:
		return x.step(s)
	}
	p := &s.Packet
	p.crowd, p.shape, p.damage, p.segment, p.payload = uint16(p.damageBy>>4), plain, none, 0, min(p.payload, 1400)
	before, err := x.establishedTuples()
	if err != nil {
		return err
	}
	frame, _ := p.frame(s.Kind, x.devices[s.Device], s.Device, x.isns)
	f := model.Frame{Ifindex: x.devices[s.Device].Index, Bytes: frame, Tag: p.tag}
	verdict, length, _, err := x.exec(s.Kind, f, 0, 0)
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	x.Packets++
	after, err := x.establishedTuples()
	if err != nil {
		return err
	}
	h.note(s, f)
	if !h.allows(s, f, verdict, x.buffer[:length], x.devices) {
		x.differ("verdict %d, packet\n%x, was\n%x", verdict, x.buffer[:length], f.Bytes)
	}
	x.compareEstablished(s, h, before, after)
	return nil
}

func (x *run) establishedTuples() (map[model.Tuple]bool, error) {
	tuples := make(map[model.Tuple]bool)
	if err := x.views.ReadTables(); err != nil {
		return nil, err
	}
	for _, set := range x.views.Flows[bpf.DatapathTableTABLE_ESTABLISHED] {
		for way, digest := range set.Digest {
			if digest != 0 {
				tuples[set.Flow[way].Tuple] = true
			}
		}
	}
	return tuples, nil
}

// note writes down what a packet shows.
func (h history) note(s Step, f model.Frame) {
	t := s.Packet.tuple()
	if s.Kind == inbound {
		if h.came[t] == nil {
			h.came[t] = make(map[uint32]bool)
		}
		h.came[t][f.Ifindex] = true
	} else if s.Packet.protocol == tcp && s.Packet.flags&(model.FlagSYN|model.FlagACK) == model.FlagSYN|model.FlagACK {
		h.answered[t] = true
	}
}

// allows: untouched, but for both MAC addresses of a reply, which goes where its tuple came from.
func (h history) allows(s Step, f model.Frame, verdict int32, got []byte, all []rig.Device) bool {
	switch {
	case verdict == -1 && bytes.Equal(got, f.Bytes):
		return true
	case s.Kind == inbound || verdict != -1 && verdict != redirected || !bytes.Equal(got[12:], f.Bytes[12:]):
		return false
	case s.Packet.protocol == icmpError: // belongs to the tuple that it quotes
		return true
	}
	came := h.came[s.Packet.tuple()]
	return slices.ContainsFunc(all, func(d rig.Device) bool { return bytes.Equal(got[6:12], d.MAC) && came[d.Index] })
}

// compareEstablished compares the established tuples before and after a packet.
func (x *run) compareEstablished(s Step, h history, before, after map[model.Tuple]bool) {
	for t := range after {
		if !h.answered[t] {
			x.differ("established without an answered handshake: %s", tupleText(t))
		}
	}
	if s.Packet.protocol == tcp && s.Kind == inbound && s.Packet.flags&model.FlagACK != 0 {
		return // may end a handshake, for which another entry has to go
	}
	opens := s.Kind == outbound && s.Packet.protocol == tcp && s.Packet.flags&model.FlagSYN != 0
	for t := range before {
		if !after[t] && !(opens && t == s.Packet.tuple()) {
			x.differ("pushed out or forgotten: %s", tupleText(t))
		}
	}
}
