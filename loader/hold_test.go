// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
	"replypath/test/harness"
	"replypath/test/topology"
)

// knownFirst and everybodyAgain are the settings by which the kernel asks for a neighbour that it knew.
const (
	knownFirst     = "ucast_solicit"
	everybodyAgain = "mcast_resolicit"
)

// absentRouters are addresses of eth0's networks that nobody has.
var absentRouters = map[topology.Family]netip.Addr{
	topology.IPv4: netip.MustParseAddr("10.3.0.77"), topology.IPv6: netip.MustParseAddr("2001:db8:3::77"),
}

// holdAbsent has such a router give no answer, and awaits that it is held.
func (b *bed) holdAbsent(eth0 *topology.Interface, f topology.Family) {
	b.Helper()
	b.leadByAbsent(eth0, f)
	b.setNeighbour(eth0.Index, absentRouters[f], nil, netlink.NUD_FAILED)
	b.awaitHeld(f, true)
}

// leadByAbsent has the default route of a family lead by a router that is not there, in which the
// kernel believes.
func (b *bed) leadByAbsent(eth0 *topology.Interface, f topology.Family) {
	b.Helper()
	b.setNeighbour(eth0.Index, absentRouters[f], net.HardwareAddr{2, 0, 0, 9, 9, 1}, netlink.NUD_REACHABLE)
	b.ip(fmt.Sprintf("route replace default via %s dev eth0\n", absentRouters[f]))
	b.awaitKnown(eth0, absentRouters[f])
}

func (b *bed) awaitHeld(f topology.Family, want bool) {
	b.Helper()
	eventually(b.T, fmt.Sprintf("%s is held: %t", absentRouters[f], want), func() bool {
		return slices.ContainsFunc(b.journal().Gateways, func(r pins.GatewayRecord) bool {
			return r.Address == absentRouters[f].String() && r.Held == want
		})
	})
}

// heldKeys are those of a family in the map `held_gateways`.
func (b *bed) heldKeys(f topology.Family) (found []bpf.DatapathGatewayMac) {
	b.Helper()
	var (
		key   bpf.DatapathGatewayMac
		until uint32
	)
	entries := b.maps().HeldGateways.Iterate()
	for entries.Next(&key, &until) {
		if key.Family == uint8(f) {
			found = append(found, key)
		}
	}
	harness.Must(b.T, entries.Err())
	return found
}

// TestHeldGatewayTakesANewMAC: nothing is left in the map of a gateway that answers by another MAC.
func TestHeldGatewayTakesANewMAC(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	for _, f := range s.Families() {
		b.holdAbsent(s.B.Eth0, f)
		during := len(b.heldKeys(f))
		b.setNeighbour(s.B.Eth0.Index, absentRouters[f], net.HardwareAddr{2, 0, 0, 9, 9, 2}, netlink.NUD_REACHABLE)
		b.awaitHeld(f, false)
		left := b.heldKeys(f)
		t.Logf("%s: %d keys while it is held, %d afterwards", f, during, len(left))
		if during != 1 || len(left) > 0 {
			t.Errorf("%s: left are %v", f, left)
		}
	}
}

// TestOthersAreAskedAsUsual: while the kernel asks for another neighbour of the interface, how often
// the known MAC is asked first is not changed, nor put back, under the questions that it counts; it
// is as soon as it asks for none.
func TestOthersAreAskedAsUsual(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	look := func() {
		b.inside(func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.reconcile()
		})
	}
	for _, f := range s.Families() {
		b.askInVain(s.B.Eth0, f)
		b.holdAbsent(s.B.Eth0, f)
		asking := b.askingSettings(f)
		b.forgetAsked(s.B.Eth0, f)
		look()
		alone := b.askingSettings(f)
		b.askInVain(s.B.Eth0, f)
		b.setNeighbour(s.B.Eth0.Index, absentRouters[f], net.HardwareAddr{2, 0, 0, 9, 9, 2}, netlink.NUD_REACHABLE)
		b.awaitHeld(f, false)
		left := b.askingSettings(f)
		b.forgetAsked(s.B.Eth0, f)
		look()
		after := b.askingSettings(f)
		t.Logf("%s: ucast_solicit and mcast_resolicit while held and asking for another %s, asking for none %s; not held and asking %s, asking for none %s",
			f, asking, alone, left, after)
		for what, pair := range map[string][2]string{
			"held, asking": {asking, "3 3"}, "held": {alone, "0 3"}, "not held, asking": {left, "0 3"}, "not held": {after, "3 0"},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %s: they are %s, want %s", f, what, pair[0], pair[1])
			}
		}
	}
}

// askInVain has the kernel ask for an address that nobody has, for as long as the test may take.
func (b *bed) askInVain(eth0 *topology.Interface, f topology.Family) {
	b.Helper()
	harness.Must(b.T, b.host.SetSysctl("net/"+f.String()+"/neigh/eth0/retrans_time_ms", "60000"))
	harness.Must(b.T, b.host.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: eth0.Index, IP: absentRouters[f].Prev().AsSlice(), State: netlink.NUD_NONE, Flags: netlink.NTF_USE,
	}))
}

func (b *bed) forgetAsked(eth0 *topology.Interface, f topology.Family) {
	b.Helper()
	harness.Must(b.T, b.host.Netlink().NeighDel(&netlink.Neigh{LinkIndex: eth0.Index, IP: absentRouters[f].Prev().AsSlice()}))
}

func (b *bed) askingSettings(f topology.Family) string {
	b.Helper()
	var values []string
	for _, leaf := range []string{knownFirst, everybodyAgain} {
		value, err := b.host.Sysctl("net/" + f.String() + "/neigh/eth0/" + leaf)
		harness.Must(b.T, err)
		values = append(values, value)
	}
	return strings.Join(values, " ")
}

// TestStopWhileHeld: the settings of a held gateway's interface are the host's own while no daemon
// runs, and those of the silence again with the next one.
func TestStopWhileHeld(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	for _, f := range s.Families() {
		r := b.start(nil)
		b.holdAbsent(s.B.Eth0, f)
		during := b.askingSettings(f)
		r.stop()
		stopped := b.askingSettings(f)
		left := slices.ContainsFunc(b.journal().Sysctls, func(r pins.SysctlRecord) bool {
			return slices.Contains([]string{knownFirst, everybodyAgain, "locktime"}, undo.SettingOf(r).Leaf)
		})
		r = b.start(nil)
		eventually(t, "they are changed again", func() bool { return b.askingSettings(f) == during })
		r.stop()
		t.Logf("%s: ucast_solicit and mcast_resolicit while held %s, after the stop %s", f, during, stopped)
		if during != "0 3" || stopped != "3 0" || left {
			t.Errorf("%s: recorded after the stop: %t", f, left)
		}
	}
}

// TestNobodyMayBeAsked: where somebody has the kernel ask nobody for a held gateway, its entry fails at
// once, as often as it is made usable. That is not tried all the time, and the setting is changed again.
func TestNobodyMayBeAsked(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	for _, f := range s.Families() {
		b.holdAbsent(s.B.Eth0, f)
		ctx, stop := context.WithCancel(t.Context())
		var events <-chan nexthop.Event
		b.inside(func() (err error) {
			events, err = nexthop.Watch(ctx)
			return err
		})
		began := time.Now()
		harness.Must(t, b.host.SetSysctl("net/"+f.String()+"/neigh/eth0/"+everybodyAgain, "0"))
		b.setNeighbour(s.B.Eth0.Index, absentRouters[f], nil, netlink.NUD_FAILED)
		eventually(t, "it is changed again", func() bool { return b.askingSettings(f) == "0 3" })
		took := time.Since(began)
		stop()
		failures := 0
		for e := range events {
			if e.Neighbour.Address == absentRouters[f] && e.Neighbour.State == nexthop.StateFailed {
				failures++
			}
		}
		t.Logf("%s: changed again after %s, %d failures meanwhile", f, took.Round(time.Millisecond), failures)
		const again = 50 * time.Millisecond // after which one that failed is looked at again
		if most := 2 + int(took/again); failures > most {
			t.Errorf("%s: %d failures within %s, want %d at most", f, failures, took, most)
		}
	}
}

// TestBridgedIsAskedAtOnce: one whose MAC the kernel is checking already is asked for when the link is back, and not when
// its next question would have been due.
func TestBridgedIsAskedAtOnce(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	for _, f := range s.Families() {
		harness.Must(t, b.host.SetSysctl("net/"+f.String()+"/neigh/eth0/retrans_time_ms", "60000")) // longer than the test may take
		b.leadByAbsent(s.B.Eth0, f)
		b.setNeighbour(s.B.Eth0.Index, absentRouters[f], net.HardwareAddr{2, 0, 0, 9, 9, 1}, netlink.NUD_PROBE)
		wire, err := s.B.Eth0.Peer().Capture(topology.CaptureOptions{})
		harness.Must(t, err)
		began := time.Now()
		b.inside(func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.gateways.CarrierBack(s.B.Eth0.Index)
			r.gateways.Due(time.Now())
			return nil
		})
		_, err = wire.Wait(within(t), asksEverybodyFor(absentRouters[f]))
		harness.Must(t, err)
		t.Logf("%s: everybody was asked after %s", f, time.Since(began).Round(time.Millisecond))
		harness.Must(t, wire.Stop())
	}
}

// TestEventOfBeforeABridge: what the kernel has said of a gateway's entry before that was made stale, and comes later, is
// no answer.
func TestEventOfBeforeABridge(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	for _, f := range s.Families() {
		b.leadByAbsent(s.B.Eth0, f)
		b.inside(func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.gateways.CarrierBack(s.B.Eth0.Index)
			r.gateways.Due(time.Now())
			for _, state := range []string{nexthop.StateProbe, nexthop.StateStale, nexthop.StateDelay, nexthop.StateProbe} {
				seen := nexthop.Gateway{Interface: s.B.Eth0.Index, Address: absentRouters[f], State: state, MAC: net.HardwareAddr{2, 0, 0, 9, 9, 1}}
				if _, err := (&runner{core: r.core}).neighbourChanged(seen); err != nil || !b.isBridged(f) {
					t.Errorf("%s: after %s bridged: %t, error: %v", f, state, b.isBridged(f), err)
				}
			}
			return nil
		})
	}
}

// asksEverybodyFor matches questions for the MAC of an address that are not sent to one alone.
func asksEverybodyFor(address netip.Addr) topology.Filter {
	return func(f *topology.Frame) bool {
		var target []byte
		if arp, ok := f.Packet().Layer(layers.LayerTypeARP).(*layers.ARP); ok && arp.Operation == layers.ARPRequest {
			target = arp.DstProtAddress
		} else if ns, ok := f.Packet().Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
			target = ns.TargetAddress
		}
		return f.DestinationMAC[0]&1 != 0 && bytes.Equal(target, address.AsSlice())
	}
}

// TestAnsweredWhileStopped: a gateway that was bridged, and whose entry has been the kernel's since while no daemon ran, is known
// to the next one at once.
func TestAnsweredWhileStopped(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	for _, f := range s.Families() {
		r := b.start(nil)
		b.bridgeAbsent(s.B.Eth0, f)
		r.stop()
		b.setNeighbour(s.B.Eth0.Index, absentRouters[f], net.HardwareAddr{2, 0, 0, 9, 9, 1}, netlink.NUD_STALE)
		r = b.start(nil)
		after := b.isBridged(f)
		r.stop()
		t.Logf("%s: bridged after the next start: %t", f, after)
		if after {
			t.Errorf("%s: its answer is not believed", f)
		}
	}
}

// bridgeAbsent has the absent router's link come back, and awaits that it is bridged.
func (b *bed) bridgeAbsent(eth0 *topology.Interface, f topology.Family) {
	b.Helper()
	b.leadByAbsent(eth0, f)
	flaps["carrier"](b, eth0)
	eventually(b.T, "it is bridged", func() bool { return b.isBridged(f) })
}

// isBridged tells whether the absent router's entry has a MAC that it has not answered with.
func (b *bed) isBridged(f topology.Family) bool {
	b.Helper()
	return slices.ContainsFunc(b.journal().Gateways, func(r pins.GatewayRecord) bool {
		return r.Address == absentRouters[f].String() && r.Bridged
	})
}

// TestStopWhileBridged: the MAC that a gateway's entry was given while it had not answered is nobody's
// answer for the next daemon either.
func TestStopWhileBridged(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	for _, f := range s.Families() {
		r := b.start(nil)
		b.bridgeAbsent(s.B.Eth0, f)
		said := `msg="gateway is resolved" interface=eth0 gateway=` + absentRouters[f].String()
		before := b.log.count(said)
		r.stop()
		r = b.start(nil)
		b.awaitHeld(f, true) // once it has been asked in vain
		after := b.log.count(said)
		r.stop()
		t.Logf("%s: said to be resolved %d times before the stop, %d times after the next start", f, before, after-before)
		if before != 1 || after != before {
			t.Errorf("%s: it is said to be resolved", f)
		}
	}
}
