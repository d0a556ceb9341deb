// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/flows"
)

// A reply of a flow by interface 3 that the kernel sends by 2: every condition in the order in which the programs look
// at them, from the last to the first.
func TestDecide(t *testing.T) {
	up := uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP)
	enforce, observe := uint8(bpf.DatapathModeMODE_ENFORCE), uint8(bpf.DatapathModeMODE_OBSERVE)
	byGateway := uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	enforced := uint16(bpf.DatapathFlowFlagsFLOW_ENFORCE_MAC)
	noHeader := up | uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
	onOwn := func(r *reply) { r.kernel = 3 }
	for _, test := range []struct {
		name            string
		change          []func(*reply)
		verdict, reason string
	}{
		{"moved", nil, Corrected, ""},
		{"fits", []func(*reply){func(r *reply) { r.size = 1400 }}, Corrected, ""},
		{"too large", []func(*reply){func(r *reply) { r.size = 1401 }}, Fallback, "mtu"},
		{"gateway down, inbound MAC", []func(*reply){func(r *reply) { r.flow.Flags, r.flow.Gateway = byGateway, 7 }}, Corrected, ""},
		{"gateway down, gateway only", []func(*reply){
			func(r *reply) { r.flow.Flags, r.flow.Gateway, r.size = byGateway, 7, 9000 },
			func(r *reply) { r.target.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY) },
		}, Fallback, "no_next_hop"},
		{"target without header", []func(*reply){
			func(r *reply) { r.target.Flags, r.flow.Flags, r.flow.Gateway = noHeader, byGateway, 7 },
			func(r *reply) { r.target.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY) },
		}, Corrected, ""},
		{"route without header", []func(*reply){func(r *reply) { r.from.Flags = noHeader }}, Corrected, ""},
		{"bound", []func(*reply){func(r *reply) { r.bound, r.target.NextHop = 2, 1 }}, Fallback, "bound_device"},
		{"bound to the flow's", []func(*reply){func(r *reply) { r.bound = 3 }}, Corrected, ""},
		{"bound to its VRF", []func(*reply){func(r *reply) { r.bound, r.target.Vrf = 9, 9 }}, Corrected, ""},
		{"bound to another VRF", []func(*reply){func(r *reply) { r.bound, r.target.Vrf = 8, 9 }}, Fallback, "bound_device"},
		{"stands on the route's device", []func(*reply){func(r *reply) { r.target.Lower = 2 }}, AlreadyRight, ""},
		{"stands on another device", []func(*reply){func(r *reply) { r.target.Lower = 4 }}, Corrected, ""},
		{"observe", []func(*reply){func(r *reply) { r.target.Mode, r.bound = observe, 2 }}, Fallback, "observe"},
		{"observe by hand", []func(*reply){func(r *reply) { r.byHand = bpf.DatapathModeMODE_OBSERVE }}, Fallback, "observe"},
		{"enforce by hand", []func(*reply){func(r *reply) {
			r.target.Mode, r.byHand = observe, bpf.DatapathModeMODE_ENFORCE
		}}, Corrected, ""},
		{"link down", []func(*reply){func(r *reply) { r.target.Flags, r.target.Mode = 0, observe }}, Fallback, "link_down"},
		{"gone", []func(*reply){func(r *reply) { r.target = nil }}, Fallback, "link_down"},
		{"not managed", []func(*reply){func(r *reply) { r.from = nil }}, Fallback, "not_managed"},
		{"no default route", []func(*reply){func(r *reply) { r.from, r.last = nil, true }}, Corrected, ""},
		{"no default route, link down", []func(*reply){func(r *reply) {
			r.from, r.last, r.target.Flags = nil, true, 0
		}}, Fallback, "link_down"},
		{"no route", []func(*reply){func(r *reply) { r.kernel, r.from = 0, nil }}, Fallback, "no_route"},

		{"own interface", []func(*reply){onOwn}, AlreadyRight, ""},
		{"own interface, same MAC", []func(*reply){onOwn, func(r *reply) {
			r.flow.Flags, r.next = enforced, &[6]uint8{2, 0, 0, 0, 0, 3}
		}}, AlreadyRight, ""},
		{"own interface, other MAC", []func(*reply){onOwn, func(r *reply) {
			r.flow.Flags, r.next = enforced, &[6]uint8{2, 0, 0, 0, 0, 4}
		}}, Corrected, ""},
		{"own interface, other MAC, observe", []func(*reply){onOwn, func(r *reply) {
			r.flow.Flags, r.next, r.target.Mode = enforced, &[6]uint8{2, 0, 0, 0, 0, 4}, observe
		}}, Fallback, "observe"},
		{"own interface, gateway only", []func(*reply){onOwn, func(r *reply) {
			r.flow.Flags, r.target.NextHop = enforced|byGateway, uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY)
		}}, Fallback, "no_next_hop"},
		{"own interface without header", []func(*reply){onOwn, func(r *reply) { r.flow.Flags, r.from.Flags = enforced, noHeader }}, AlreadyRight, ""},
		{"own interface, not resolved, same gateway", []func(*reply){onOwn, func(r *reply) { r.flow.Flags, r.viaOurs = enforced, true }}, AlreadyRight, ""},
		{"own interface, MAC of nobody", []func(*reply){onOwn, func(r *reply) { r.next = (*[6]uint8)(bpf.AnyPeer) }}, Corrected, ""},
		{"own interface, MAC of nobody, no header", []func(*reply){onOwn, func(r *reply) {
			r.next, r.from.Flags = (*[6]uint8)(bpf.SilentGateway), noHeader
		}}, AlreadyRight, ""},
		{"own interface, not resolved", []func(*reply){onOwn, func(r *reply) { r.flow.Flags = enforced }}, Corrected, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &reply{
				flow:   &bpf.DatapathFlow{Ifindex: 3, Interface: 2, Mac: [6]uint8{2, 0, 0, 0, 0, 3}},
				target: &bpf.DatapathInterface{Ifindex: 3, Mtu: 1400, Flags: up, Mode: enforce},
				from:   &bpf.DatapathInterface{Ifindex: 2, Mtu: 1500, Flags: up, Mode: enforce},
				kernel: 2,
			}
			for _, change := range test.change {
				change(r)
			}
			if verdict, reason := r.decide(); verdict != test.verdict || reason != test.reason {
				t.Errorf("%s %q, not %s %q", verdict, reason, test.verdict, test.reason)
			}
		})
	}
}

// What was seen is told apart from what would be: a packet that left another way is none that left so.
func TestSeenLeaving(t *testing.T) {
	const would, right = "the reply would leave by eth1, by which its flow arrived", "the kernel sends the reply back the way that its flow came"
	at := time.Now()
	for _, test := range []struct {
		verdict string
		left    flows.Left
		want    string
		seen    *time.Time
	}{
		{Corrected, flows.Left{}, would + "; none was seen leaving so yet", nil},
		{Corrected, flows.Left{At: &at}, would + "; none was seen leaving so yet", nil},
		{Corrected, flows.Left{At: &at, Moved: true}, would, &at},
		{AlreadyRight, flows.Left{At: &at}, right, &at},
		{AlreadyRight, flows.Left{At: &at, Moved: true}, right, nil},
	} {
		e := &Explanation{Kernel: Kernel{Interface: new("eth0")}, Replypath: Way{Interface: new("eth1")}}
		e.conclude(test.verdict, "")
		e.addSeen(test.left)
		if e.Detail != test.want || e.Seen != test.seen {
			t.Errorf("%s, %+v: %q, seen %v, not %q, %v", test.verdict, test.left, e.Detail, e.Seen, test.want, test.seen)
		}
	}
}

// Every verdict and reason is put into words.
func TestDetails(t *testing.T) {
	e := new(Explanation)
	for _, reason := range []string{
		reasonNoRoute, reasonNotManaged, reasonLinkDown, reasonObserve, reasonBoundDevice, reasonNoNextHop, reasonMTU,
	} {
		if e.detail(Fallback, reason) == "" {
			t.Errorf("no words for %s", reason)
		}
	}
	for _, verdict := range []string{Corrected, AlreadyRight, NoFlow, LocalOrigin, Excluded} {
		if e.detail(verdict, "") == "" {
			t.Errorf("no words for %s", verdict)
		}
	}
}
