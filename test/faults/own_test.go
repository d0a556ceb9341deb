// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// ownFault is a way in which the NIC goes that a flow came by.
type ownFault struct {
	name  string
	begin func(*bed)
}

var ownFaults = []ownFault{
	{"carrier lost", func(b *bed) { await.Must(b, b.net.Server.Eth1.Peer().SetDown()) }},
	{"link down", func(b *bed) {
		b.keepAddress()
		await.Must(b, b.net.Server.Eth1.SetDown())
	}},
	{"eth1 deleted", func(b *bed) {
		b.keepAddress()
		await.Must(b, b.net.Server.Netlink().LinkDel(await.Must1[netlink.Link](b)(b.net.Server.Eth1.Link())))
	}},
}

// keepAddress has the server keep eth1's address, which goes with the link: as a host
// does that has it on another interface as well.
func (b *bed) keepAddress() {
	b.Helper()
	own := b.net.Server.Eth1.Address(b.family)
	await.Must(b, b.net.Server.Eth0.AddAddress(netip.PrefixFrom(own, own.BitLen())))
}

// ownWay is how a flow is served whose NIC goes.
type ownWay struct {
	name, follow string
	kind         traffic.Kind
	args         []string
	unattended   bool // its daemon has been killed
}

var ownWays = []ownWay{
	{name: "validated", follow: "validated", kind: traffic.TCP},
	{name: "latest", follow: "latest", kind: traffic.TCP},
	{name: "validated, by clsact", follow: "validated", kind: traffic.TCP, args: mechanisms["clsact"]},
	{name: "udp", follow: "validated", kind: traffic.UDP},
	{name: "no daemon", follow: "validated", kind: traffic.TCP, unattended: true},
	{name: "no daemon, by clsact", follow: "validated", kind: traffic.TCP, args: mechanisms["clsact"], unattended: true},
	{name: "udp, no daemon", follow: "validated", kind: traffic.UDP, unattended: true},
}

// TestOwnNICDies has the NIC go that a flow came by. What the server sends takes the kernel's way, and is counted; the
// peer's next packet by the other NIC takes the flow along.
func TestOwnNICDies(t *testing.T) {
	t.Parallel()
	quick, isRun := short.Run(t), short.Pairs(t)
	for k, fault := range ownFaults {
		for n, way := range ownWays {
			for m, f := range traffic.Families {
				if quick && (n%3 != 0 || k != n/3 || m != n%2) || !quick && !isRun(k, n, m) {
					continue
				}
				t.Run(fault.name+"/"+way.name+"/"+f.String(), func(t *testing.T) { testOwnNICDies(t, fault, way, f) })
			}
		}
	}
}

// saidMeanwhile is how many messages the server sends while the NIC is gone and the flow has not moved.
const saidMeanwhile = 3

func testOwnNICDies(t *testing.T, fault ownFault, way ownWay, f topology.Family) {
	t.Parallel()
	b := newBed(t, f, anySource)
	args := append([]string{"--config", product.WriteConfig(t, "follow: "+way.follow+"\n")}, way.args...)
	d := b.start(args...)
	client, server := b.connect(way.kind)
	wires := wire.Tap(t, b.net.Server)
	sent := topology.All(protocols[way.kind], topology.From(b.net.Server.Eth1.Address(f)))
	b.say(client, server) // in UDP it is who asks that makes the flow
	b.say(server, client)
	b.wantFlow(way.kind, "eth1")
	wires.WantEth1("what is sent before", sent)

	if way.unattended {
		d.Kill()
	}
	fault.begin(b)
	b.Eventually("the status shows eth1 down, or not at all", func() error {
		if i := b.product.Status().Interface("eth1"); i != nil && i.Up {
			return errors.New("it is up")
		}
		return nil
	})
	before := wires.Eth1.Count(topology.All(sent, topology.Going(topology.Received)))
	for range saidMeanwhile {
		b.say(server, client) // nobody can answer yet
	}
	least, _ := wires.Left(sent)
	if len(least) < saidMeanwhile { // each has arrived before the next was said
		t.Errorf("%d packets went the kernel's way, of %d messages", len(least), saidMeanwhile)
	}
	peer, self := client.LocalAddr().String(), client.RemoteAddr().String()
	e := b.product.Explain("--peer", peer, "--self", self, "--protocol", string(way.kind))
	if product.OrEmpty(e.Reason) != "link_down" {
		t.Errorf("what the server says is explained as\n%s", e)
	}
	b.bringByEth0()
	b.say(client, server) // the flow has moved
	most, _ := wires.Left(sent)
	b.say(server, client)
	b.wantFlow(way.kind, "eth0")
	if way.unattended {
		b.product.Start(args...)
	}
	labels := []string{"from_interface=eth0", "to_interface=eth1", "reason=link_down"}
	down := b.product.Metrics().Sum("replypath_uncorrected_packets_total", labels...)
	// TCP repeats what the peer cannot acknowledge yet, and acknowledges what has moved the flow.
	if down < float64(len(least)) || down > float64(len(most)) || way.kind == traffic.UDP && down != saidMeanwhile {
		t.Errorf("%v packets were counted as link_down, by eth0 had left %d and then %d", down, len(least), len(most))
	}
	if moves := b.product.Metrics().Sum("replypath_flow_moves_total", "protocol="+string(way.kind)); moves != 1 {
		t.Errorf("%v moves", moves)
	}
	_, eth1 := wires.Left(sent)
	if len(eth1) > before {
		t.Errorf("by the dead NIC left %s", wire.Describe(eth1[before:]))
	}
	t.Logf("%v packets counted as link_down, of %d by eth0 until the flow had moved there, %d by the dead NIC",
		down, len(most), len(eth1)-before)
}

var protocols = map[traffic.Kind]topology.Filter{traffic.TCP: topology.TCP, traffic.UDP: topology.UDP}

// connect opens a connection from the client to the server's eth1, where each side may speak once the client has.
func (b *bed) connect(kind traffic.Kind) (client, server net.Conn) {
	b.Helper()
	ctx := await.Within(b, await.AnswerTime)
	at := netip.AddrPortFrom(b.net.Server.Eth1.Address(b.family), 0).String()
	if kind == traffic.UDP {
		bound := await.Must1[net.PacketConn](b)(b.net.Server.ListenPacket(ctx, "udp", at)).(*net.UDPConn)
		client = await.Must1[net.Conn](b)(b.net.Client.Dial(ctx, "udp", bound.LocalAddr().String()))
		server = answering{bound, client.LocalAddr()}
	} else {
		l := await.Must1[net.Listener](b)(b.net.Server.Listen(ctx, "tcp", at))
		defer l.Close()
		client = await.Must1[net.Conn](b)(b.net.Client.Dial(ctx, "tcp", l.Addr().String()))
		server = await.Must1[net.Conn](b)(l.Accept())
	}
	b.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// answering is the socket of a UDP server, which is not connected, and whom it answers.
type answering struct {
	*net.UDPConn
	peer net.Addr
}

func (a answering) Write(message []byte) (int, error) { return a.WriteTo(message, a.peer) }

// say sends a message and returns when it has arrived.
func (b *bed) say(from, to net.Conn) {
	b.Helper()
	_, err := from.Write([]byte("message"))
	await.Must(b, err)
	await.Must(b, to.SetReadDeadline(time.Now().Add(await.AnswerTime)))
	_, err = to.Read(make([]byte, 7))
	await.Must(b, err)
}

// wantFlow wants the only flow of a kind to be that of an interface.
func (b *bed) wantFlow(kind traffic.Kind, name string) {
	b.Helper()
	flows := b.product.Flows("--protocol", string(kind))
	if len(flows) != 1 || product.OrEmpty(flows[0].Interface) != name {
		b.Errorf("flows %v, not one by %s", flows, name)
	}
}

// bringByEth0 has the routers bring what is for the server's eth1 by its eth0, as
// routing protocols do when its network is gone.
func (b *bed) bringByEth0() {
	b.Helper()
	asked := b.net.Server.Eth1.Address(b.family)
	via := map[topology.Family]string{topology.IPv4: "10.11.0.2", topology.IPv6: "2001:db8:11::2"}[b.family]
	host.Shell(b, b.net.Core.Host, fmt.Sprintf("ip route replace %s via %s", asked, via))
	host.Shell(b, b.net.Production.Host,
		fmt.Sprintf("ip route replace %s via %s", asked, b.net.Server.Eth0.Address(b.family)))
}
