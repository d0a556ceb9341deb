// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

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
			if what, err = x.stepFull(s, h); what != "" || err != nil {
				what = fmt.Sprintf("%s\nat step %d: %s", what, i, s)
				return err
			}
		}
		return nil
	})
	return what, err
}

func (x *run) stepFull(s Step, h history) (string, error) {
	if s.Kind == decide {
		return "", nil
	}
	if s.Kind != inbound && s.Kind != outbound {
		return x.step(s)
	}
	p := &s.Packet
	p.crowd, p.shape, p.damage, p.segment, p.payload = uint16(p.damageBy>>4), plain, none, 0, min(p.payload, 1400)
	before, err := x.establishedTuples()
	if err != nil {
		return "", err
	}
	frame, _, err := p.frame(s.Kind, x.devices[s.Device], s.Device, x.isns)
	if err != nil {
		return "", err
	}
	f := model.Frame{Ifindex: x.devices[s.Device].Index, Bytes: frame, Tag: p.tag}
	verdict, length, _, err := x.exec(s.Kind, f, 0, 0)
	if errors.Is(err, unix.EINVAL) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	x.Packets++
	after, err := x.establishedTuples()
	if err != nil {
		return "", err
	}
	h.note(s, f)
	if what := h.checkPacket(s, f, verdict, x.buffer[:length], x.devices); what != "" {
		return what, nil
	}
	return h.checkEstablished(s, before, after), nil
}

func (x *run) establishedTuples() (map[model.Tuple]bool, error) {
	if err := x.sets.Read(); err != nil {
		return nil, err
	}
	tuples := make(map[model.Tuple]bool)
	for i := range x.sets.Flows[bpf.DatapathTableTABLE_ESTABLISHED] {
		set := &x.sets.Flows[bpf.DatapathTableTABLE_ESTABLISHED][i]
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

// checkPacket: untouched, but for both MAC addresses of a reply.
func (h history) checkPacket(s Step, f model.Frame, verdict int32, got []byte, all []rig.Device) string {
	t := s.Packet.tuple()
	switch {
	case verdict == -1 && bytes.Equal(got, f.Bytes):
		return ""
	case s.Kind == inbound || verdict != -1 && verdict != 7 || !bytes.Equal(got[12:], f.Bytes[12:]):
		return fmt.Sprintf("verdict %d, packet\n%x, was\n%x", verdict, got, f.Bytes)
	case s.Packet.protocol == icmpError: // belongs to the tuple that it quotes
		return ""
	}
	for _, device := range all {
		if bytes.Equal(got[6:12], device.MAC) && h.came[t][device.Index] {
			return ""
		}
	}
	return fmt.Sprintf("sent to %x from %x, where nothing of the tuple came in", got[:6], got[6:12])
}

// checkEstablished compares the established tuples before and after a packet.
func (h history) checkEstablished(s Step, before, after map[model.Tuple]bool) string {
	t := s.Packet.tuple()
	for other := range after {
		if !h.answered[other] {
			return "established without an answered handshake: " + tupleText(other)
		}
	}
	if s.Packet.protocol == tcp && s.Kind == inbound && s.Packet.flags&model.FlagACK != 0 {
		return "" // may end a handshake, for which another entry has to go
	}
	opens := s.Kind == outbound && s.Packet.protocol == tcp && s.Packet.flags&model.FlagSYN != 0
	for other := range maps.Keys(before) {
		if !after[other] && !(opens && other == t) {
			return "pushed out or forgotten: " + tupleText(other)
		}
	}
	return ""
}
