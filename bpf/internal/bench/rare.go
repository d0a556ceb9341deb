// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// rare has a datapath of its own for the ways through the programs that few packets take, and that few
// hosts have: interfaces that cannot be used, that have no Ethernet header or hold the fallback route,
// and flows that follow their last packet.
type rare struct {
	*bench
	emptyGate *ebpf.Program
	wrappers  []*wrapper
}

func newRare(b *bench) (group, error) {
	own, err := b.beside()
	if err != nil {
		return nil, err
	}
	r := &rare{bench: own}
	if r.emptyGate, err = emptyGate(); err == nil {
		err = errors.Join(r.configure(), r.manage(), r.decideBySource(), r.hold())
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *rare) close() error {
	for _, w := range r.wrappers {
		w.close()
	}
	return errors.Join(bpf.Close(r.emptyGate), r.datapath.Close())
}

func (r *rare) configure() error {
	return errors.Join(
		r.datapath.SetSettings(bpf.DatapathSettings{
			Protocols: rig.Listed(1, 6, 17, 58, 132),
			Follow:    uint8(bpf.DatapathFollowFOLLOW_LATEST),
			Ways:      1,
		}),
		r.datapath.SetOwnAddress(headerless4.self, bpf.DatapathOwnFlagsOWN_ADDRESS),
		r.datapath.SetOwnAddress(headerless6.self, bpf.DatapathOwnFlagsOWN_ADDRESS),
	)
}

// manage adds the interfaces that only these cases have.
func (r *rare) manage() error {
	if err := r.device(unplugged).SetCarrier(false); err != nil {
		return err
	}
	for index, change := range map[int]func(*bpf.DatapathInterface){
		unplugged:     func(*bpf.DatapathInterface) {},
		unresolved:    func(i *bpf.DatapathInterface) { i.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY) },
		headerless:    withoutHeader,
		headerlessToo: withoutHeader,
	} {
		record := rig.Record(r.device(index), uint16(index))
		change(&record)
		if err := r.datapath.SetInterface(uint32(index), record); err != nil {
			return err
		}
	}
	return r.datapath.SetGateway(unresolved, bpf.DatapathGateway{Ifindex: r.device(unresolved).Index})
}

func withoutHeader(i *bpf.DatapathInterface) {
	i.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
	i.Mac = [6]uint8{}
	i.Gateways4, i.Gateways6, i.Gateway4, i.Gateway6 = 0, 0, 0, 0
}

// cases are those of one concern after the other.
func (r *rare) cases() (all []testCase, err error) {
	for _, e := range []endpoints{v4, v6} {
		for _, concern := range []func(endpoints) ([]testCase, error){
			r.headerlessCases, r.fallbackCases, r.heldCases, r.gateCases, r.fragmentCases,
			r.echoCases, r.errorCases, r.movedCases, r.leftCases, r.originCases,
		} {
			cases, err := concern(e)
			if err != nil {
				return nil, err
			}
			all = append(all, cases...)
		}
	}
	for i := range all {
		if all[i].before == nil {
			continue
		}
		wrappers, err := all[i].wrap(all[i].before)
		if err != nil {
			return nil, err
		}
		r.wrappers = append(r.wrappers, wrappers...)
	}
	return all, nil
}

// ingress is a case of a frame that comes in by an interface.
func (r *rare) ingress(name string, bound, aim float64, by int, frame []byte) testCase {
	return testCase{
		name: name, bound: bound, aim: aim,
		program: r.datapath.ReplypathIngress, baseline: r.empty,
		frame: frame, ifindex: r.device(by).Index, verdict: tcActUnspec,
	}
}

// egress is a case of a frame that leaves by an interface, as it is.
func (r *rare) egress(name string, bound, aim float64, by int, frame []byte) testCase {
	c := r.ingress(name, bound, aim, by, frame)
	c.program, c.before = r.datapath.ReplypathEgress, unmark
	return c
}

// moved is a case of a reply that another interface sends.
func (r *rare) moved(name string, bound, aim float64, by int, frame []byte) testCase {
	c := r.egress(name, bound, aim, by, frame)
	c.verdict, c.prove = tcActRedirect, r.ends(bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)
	return c
}

// enter enters a flow that came in by this interface, and returns it and its table.
func (r *rare) enter(e endpoints, protocol layers.IPProtocol, port uint16, by int) (*ebpf.Map, bpf.DatapathFlow, error) {
	table := r.datapath.Connectionless
	if protocol == layers.IPProtocolTCP {
		table = r.datapath.Established
	}
	flow, err := r.flowBy(e, protocol, port, by)
	if err != nil {
		return nil, flow, err
	}
	return table, flow, r.datapath.AddFlow(table, flow)
}

// flowBy came in by this interface.
func (r *rare) flowBy(e endpoints, protocol layers.IPProtocol, port uint16, by int) (bpf.DatapathFlow, error) {
	flow, err := r.flow(e, protocol, port)
	flow.Ifindex, flow.Interface, flow.Gateway = r.device(by).Index, uint16(by), uint16(by)
	if by == headerless || by == headerlessToo {
		flow.Gateway, flow.Mac, flow.Flags = 0, [6]uint8{}, 0
	}
	return flow, err
}
