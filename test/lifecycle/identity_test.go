// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/wire"
)

// decoy replaces the interface by another device, which leads elsewhere.
func (l *late) decoy(name, how string) *topology.Interface {
	l.t.Helper()
	l.disappear()
	testhost.IPBatch(l.t, l.n.Server.Host, fmt.Sprintf(`link add %[1]s %[2]s type veth peer name far
link set far up
link set %[1]s up
address add 10.77.0.1/24 dev %[1]s
address add 2001:db8:77::1/64 dev %[1]s nodad
`, name, how))
	return await.Must1[*topology.Interface](l.t)(l.n.Server.Interface("far"))
}

// leave moves the interface to a network namespace of its own, with its addresses.
func (l *late) leave() *topology.Interface {
	l.t.Helper()
	container := await.Must1[*topology.Host](l.t)(l.n.Host("container"))
	link := await.Must1[netlink.Link](l.t)(l.Link())
	await.Must(l.t, l.n.Server.Netlink().LinkSetNsFd(link, int(container.Namespace())))
	batch := "link set " + l.name + " up\n"
	for _, a := range l.Addresses {
		batch += "address add " + a.String() + " dev " + l.name + "\n"
	}
	testhost.IPBatch(l.t, container, batch)
	return l.Peer()
}

// departure is a way in which an interface goes. Captured frames where it leads show whether something took another for it.
type departure struct {
	logged string
	kept   bool // nothing takes its place
	leave  func(*late) *topology.Interface
}

var departures = map[string]departure{
	"its index and name are another's": {isGone, false, func(l *late) *topology.Interface {
		return l.decoy(l.name, fmt.Sprint("index ", l.Index))
	}},
	"its index is another's": {isGone, false, func(l *late) *topology.Interface {
		return l.decoy("other", fmt.Sprint("index ", l.Index))
	}},
	"its name is another's": {isGone, false, func(l *late) *topology.Interface {
		return l.decoy(l.name, "")
	}},
	"it is moved to another namespace": {isGone, false, (*late).leave},
	"its carrier is lost": {isDown, true, func(l *late) *topology.Interface {
		await.Must(l.t, l.Peer().SetDown())
		return l.Peer()
	}},
	"it is set down": {isDown, true, func(l *late) *topology.Interface {
		await.Must(l.t, l.SetDown())
		return l.Peer()
	}},
}

const isGone, isDown = "interface is gone", "interface is down"

// TestIdentity takes the interface of a flow away, or its link, and puts another in its place, with the daemon alive and dead. What
// the server goes on sending takes the kernel's way, counted, never the other device; a question from the same port
// that comes in elsewhere is answered there.
func TestIdentity(t *testing.T) {
	quick, all := short.Run(t), short.Long(t, "each departure with and without a daemon")
	for name, d := range departures {
		moved, both := strings.Contains(name, "moved"), strings.Contains(name, " and ")
		for _, dead := range []bool{false, true} {
			if !all && !d.kept && dead != moved || quick && !both && !d.kept {
				continue
			}
			t.Run(fmt.Sprintf("%s, daemon dead: %t", name, dead), func(t *testing.T) { testIdentity(t, d, dead) })
		}
	}
}

func testIdentity(t *testing.T, way departure, dead bool) {
	t.Parallel()
	n, p := server.NewExact(t)
	l := newLate(t, n, "wan7")
	l.appear()
	config := product.WriteConfig(t, product.SmallTables)
	d := p.Start("--config", config)
	orphans := newOrphans(l)
	before := p.Metrics()
	if dead {
		d.Kill()
	}
	wires := wire.Tap(t, n.Server) // TCP may send again what was on its way
	decoy := wire.Capture(t, way.leave(l))
	if !dead {
		d.WaitLog(1, way.logged, l.name)
	}
	for f, address := range l.addresses() {
		for _, o := range orphans[f] {
			o.wantOnItsOwn(p, wires)
		}
		moveRoute(t, n, f, address)
		for _, o := range orphans[f] {
			o.Ask()
			wires.WantEth0("the answer to a new question", o.Said)
			if wrong := decoy.Frames(o.Said); len(wrong) > 0 {
				t.Errorf("by the other device left %s", wire.Describe(wrong))
			}
		}
	}
	if dead {
		p.Start("--config", config)
	}
	wantLinkDown(t, l.name, before, p.Metrics(), wires, orphans)
}

// wantLinkDown wants everything to be counted that was sent before the peer could say where it is now.
func wantLinkDown(t *testing.T, name string, before, after product.Metrics, wires *wire.Wires, orphans map[topology.Family][]*orphan) {
	t.Helper()
	sent, flows := 0, 0
	for _, of := range orphans {
		for _, o := range of {
			sent += o.sentBeforeAsked(wires.Eth0)
			flows++
		}
	}
	const metric = "replypath_uncorrected_packets_total"
	labels := []string{"reason=link_down", "to_interface=" + name}
	if got := after.Sum(metric, labels...) - before.Sum(metric, labels...); got != float64(sent) || sent < flows {
		t.Errorf("%v packets are counted as link_down, %d of %d flows left by eth0", got, sent, flows)
	}
	t.Logf("%d flows, %d packets by eth0 and counted as link_down, 0 by the other device", flows, sent)
}

// moveRoute has the client reach an address of the server's by eth0.
func moveRoute(t *testing.T, n *topology.TwoNIC, f topology.Family, address netip.Addr) {
	t.Helper()
	only := netip.PrefixFrom(address, address.BitLen())
	core := await.Must1[*topology.Interface](t)(n.Production.Interface("core"))
	await.Must(t, n.Core.AddRoute(topology.Route{Destination: only, Via: core.Address(f)}))
	await.Must(t, n.Production.AddRoute(topology.Route{Destination: only, Via: n.Server.Eth0.Address(f)}))
}

// TestNamesAreSwapped gives two managed interfaces each other's name under
// conversations of every kind with both: each stays on its device.
func TestNamesAreSwapped(t *testing.T) {
	n, p := server.NewExact(t)
	l := newLate(t, n, "wan7")
	l.appear()
	p.Start()
	l.answers(p)
	asLate := &topology.TwoNIC{Network: n.Network, Client: n.Client, ClientEth0: n.ClientEth0,
		Server: &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: l.Interface}}
	byEth1, byLate := keepAskingAll(t, n), keepAskingAll(t, asLate)
	all := slices.Concat(byEth1, byLate)
	testhost.IPBatch(t, n.Server.Host, "link set eth1 name tmp\nlink set wan7 name eth1\nlink set tmp name wan7\n")
	waitAttached(t, p, "wan7", n.Server.Eth1.Index)
	waitAttached(t, p, "eth1", l.Index)
	all.GoOn()
	right := all.End()
	crossed := answersAt(byLate[0].Wires, byEth1) + answersAt(byEth1[0].Wires, byLate)
	if crossed > 0 {
		t.Errorf("%d answers left by the other device", crossed)
	}
	wantInterface(t, p, "wan7", byEth1)
	wantInterface(t, p, "eth1", byLate)
	await.Must1[string](t)(p.Get("/healthz"))
	t.Logf("%d conversations by ping, TCP and UDP, IPv4 and IPv6, go on while names are swapped: %d answers by their device, %d by the other, 0 by eth0",
		len(all), right, crossed)
}

// answersAt counts answers of conversations with one device that left by another.
func answersAt(other *wire.Wires, all server.Talks) (count int) {
	for _, r := range all {
		_, left := other.Left(r.Answers())
		count += len(left)
	}
	return count
}

// orphan is a flow that came in by an interface which goes away, while the address that was asked stays, on eth0.
type orphan struct{ *server.Speaker }

// newOrphans has the client ask the interface by UDP and TCP, which answers.
func newOrphans(l *late) map[topology.Family][]*orphan {
	l.t.Helper()
	orphans := make(map[topology.Family][]*orphan)
	for f, own := range l.addresses() {
		wires := wire.Tap(l.t, &topology.Server{Host: l.n.Server.Host, Eth0: l.n.Server.Eth0, Eth1: l.Interface})
		for _, speaker := range server.NewSpeakers(l.t, l.n.Client, l.n.Server.Host, own) {
			wires.WantEth1("the answer", speaker.Said)
			orphans[f] = append(orphans[f], &orphan{speaker})
		}
		await.Must(l.t, l.n.Server.Eth0.AddAddress(netip.PrefixFrom(own, own.BitLen())))
	}
	return orphans
}

// wantOnItsOwn has the server go on sending before the peer can reach it again: that takes the kernel's way.
func (o *orphan) wantOnItsOwn(p *product.Product, wires *wire.Wires) {
	o.Helper()
	explained := p.Explain("--protocol", o.Client.LocalAddr().Network(), "--peer", o.Peer.String(), "--self", o.Self.String())
	if reason := product.OrEmpty(explained.Reason); explained.Verdict != "fallback" || reason != "link_down" {
		o.Errorf("%s", explained)
	}
	o.Say()
	wires.WantEth0("what goes on to be sent", o.Said)
}

// sentBeforeAsked counts what the server sent until the first packet of the peer came in by eth0. TCP sends again what the
// peer cannot acknowledge.
func (o *orphan) sentBeforeAsked(eth0 *topology.Capture) (sent int) {
	question := topology.All(topology.From(o.Peer.Addr()), topology.FromPort(o.Peer.Port()), topology.To(o.Self.Addr()), topology.ToPort(o.Self.Port()))
	for _, frame := range eth0.Frames(topology.OneOf(question, o.Said)) {
		if frame.Direction == topology.Sent {
			return sent
		}
		sent++
	}
	return sent
}
