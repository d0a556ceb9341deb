// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestHostOpened has the server itself ask the client from eth1's address. The
// routing table sends that by eth0, and the answers come in by eth1: nothing of
// it may be moved, before and after the client has asked something as well.
func TestHostOpened(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		harness.Serve(t, n.Client, n.ClientEth0.Address(f))
	}
	for _, clientAsksToo := range []bool{false, true} {
		for _, f := range n.Families() {
			for _, kind := range harness.Kinds {
				if clientAsksToo {
					harness.WantBy(t, n.Server, conversation(t, n, kind, f), true)
				}
				wantHostOpened(t, n, kind, f)
			}
		}
		if corrected := p.Metrics().Sum("replypath_corrected_packets_total"); !clientAsksToo && corrected != 0 {
			t.Errorf("%v packets of what the host opened were corrected", corrected)
		}
		if flows := p.Flows(); !clientAsksToo && len(flows) > 0 {
			t.Errorf("what the host opened became flows: %v", flows)
		}
	}
}

// wantHostOpened has the server ask, and wants all that it sends by eth0,
// although the answers come in by eth1.
func wantHostOpened(t *testing.T, n *topology.TwoNIC, kind harness.Kind, f topology.Family) {
	t.Helper()
	wires := harness.Tap(t, n.Server)
	c := harness.NewConversation(t, kind, n.Server.Eth1, n.ClientEth0.Address(f))
	for range 5 {
		harness.Ask(t, c)
	}
	wires.WantEth0("host-opened "+c.String(), c.Questions())
	if wires.Eth1.Count(topology.All(c.Answers(), topology.Going(topology.Sent))) == 0 {
		t.Errorf("%s: no answer came in by eth1", c)
	}
}

// TestHostOpenedBefore is TestHostOpened with conversations that are older than
// the start and go on meanwhile.
func TestHostOpenedBefore(t *testing.T) {
	n := newServer(t)
	wires := harness.Tap(t, n.Server)
	conversations := make(map[*harness.Conversation]*harness.Talk)
	for _, f := range n.Families() {
		harness.Serve(t, n.Client, n.ClientEth0.Address(f))
		for _, kind := range harness.Kinds {
			c := harness.NewConversation(t, kind, n.Server.Eth1, n.ClientEth0.Address(f))
			harness.Ask(t, c)
			conversations[c] = c.Keep(t)
		}
	}
	p := harness.On(t, n.Server.Host)
	for range 2 {
		p.Start().Kill()
		for c := range conversations {
			seen := wires.Eth0.Count(c.Questions())
			_, err := wires.Eth0.WaitCount(harness.Within(t, harness.AnswerTime), seen+live, c.Questions())
			if err != nil {
				t.Errorf("%s does not go on by eth0: %v", c, err)
			}
		}
	}
	for c, talk := range conversations {
		talk.Stop()
		wires.WantEth0("host-opened "+c.String(), c.Questions())
	}
	if flows := p.Flows(); len(flows) > 0 {
		t.Errorf("what the host opened became flows: %v", flows)
	}
}

// TestHostOpenedUnconnected has the server ask by sockets that are not
// connected, of which the kernel does not tell who spoke first.
func TestHostOpenedUnconnected(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	p.WaitGrace() // for a moment after the first start nothing can be known of who spoke first
	for _, f := range n.Families() {
		harness.Serve(t, n.Client, n.ClientEth0.Address(f))
		for range 10 {
			if err := askUnconnected(t, n, f); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
}

// askUnconnected asks a few times by a new socket of the server and wants all of
// it by eth0.
func askUnconnected(t *testing.T, n *topology.TwoNIC, f topology.Family) error {
	t.Helper()
	wires := harness.Tap(t, n.Server)
	own := netip.AddrPortFrom(n.Server.Eth1.Address(f), 0)
	conn := harness.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), "udp", own.String()))
	defer conn.Close()
	harness.Must(t, conn.SetDeadline(time.Now().Add(harness.AnswerTime)))
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.ClientEth0.Address(f), harness.EchoPort))
	for range 5 {
		_, err := conn.WriteTo([]byte("question"), to)
		harness.Must(t, err)
		_, _, err = conn.ReadFrom(make([]byte, 100))
		harness.Must(t, err)
	}
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	eth0, eth1 := wires.Left(topology.All(topology.UDP, topology.From(own.Addr()), topology.FromPort(port)))
	if len(eth0) == 0 || len(eth1) > 0 {
		return fmt.Errorf("%d frames left by eth0, and by eth1 %s", len(eth0), harness.Describe(eth1))
	}
	return nil
}

// strangeFrames are frames to the server's eth1 that start no flow, whatever
// their payload asks for.
func strangeFrames(n *topology.TwoNIC) map[string][]gopacket.SerializableLayer {
	plain4, plain6 := plainDatagram(n, topology.IPv4), plainDatagram(n, topology.IPv6)
	alter := func(d harness.Datagram, change func(*harness.Datagram)) []gopacket.SerializableLayer {
		change(&d)
		return d.Layers()
	}
	from := func(address string) func(*harness.Datagram) {
		return func(d *harness.Datagram) {
			d.From = netip.AddrPortFrom(netip.MustParseAddr(address), d.From.Port())
		}
	}
	to := func(mac net.HardwareAddr, address string) func(*harness.Datagram) {
		return func(d *harness.Datagram) {
			d.ToMAC, d.To = mac, netip.AddrPortFrom(netip.MustParseAddr(address), d.To.Port())
		}
	}
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return map[string][]gopacket.SerializableLayer{
		"multicast":            alter(plain4, to(net.HardwareAddr{1, 0, 0x5e, 0, 0, 9}, "224.0.0.9")),
		"ipv6 multicast":       alter(plain6, to(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, "ff02::1")),
		"broadcast":            alter(plain4, to(broadcast, "255.255.255.255")),
		"subnet broadcast":     alter(plain4, to(broadcast, "10.2.0.255")),
		"unicast by broadcast": alter(plain4, func(d *harness.Datagram) { d.ToMAC = broadcast }),
		"another station":      alter(plain4, func(d *harness.Datagram) { d.ToMAC = net.HardwareAddr{2, 9, 9, 9, 9, 9} }),
		"another host":         alter(plain4, to(plain4.ToMAC, "10.2.0.77")),
		"link-local source":    alter(plain4, from("169.254.1.1")),
		"ipv6 link-local":      alter(plain6, from("fe80::77")),
		"loopback source":      alter(plain4, from("127.0.0.1")),
		"no source":            alter(plain4, from("0.0.0.0")),
		"own source":           alter(plain4, from("10.1.0.100")),
		"own ipv6 source":      alter(plain6, from("2001:db8:1::100")),
		"tagged": plain4.Layers(&layers.Dot1Q{
			VLANIdentifier: 100, Type: layers.EthernetTypeIPv4,
		}),
		"arp": {
			&layers.Ethernet{SrcMAC: plain4.FromMAC, DstMAC: broadcast, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{
				AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
				Operation: layers.ARPRequest, SourceHwAddress: plain4.FromMAC, SourceProtAddress: []byte{10, 2, 0, 1},
				DstHwAddress: make([]byte, 6), DstProtAddress: plain4.To.Addr().AsSlice(),
			},
		},
	}
}

// strangePort is that of the client in frames that are made by hand.
const strangePort = 999

// plainDatagram is a datagram from the client to the server's eth1, as its
// router hands it over.
func plainDatagram(n *topology.TwoNIC, f topology.Family) harness.Datagram {
	return harness.Datagram{
		FromMAC: n.Server.Eth1.Peer().MAC, ToMAC: n.Server.Eth1.MAC,
		From: netip.AddrPortFrom(n.ClientEth0.Address(f), strangePort),
		To:   netip.AddrPortFrom(n.Server.Eth1.Address(f), harness.EchoPort),
	}
}

// TestStrangeFrames sends what is no unicast question to this host, and wants
// neither a flow nor a single moved packet of it.
func TestStrangeFrames(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	injector := harness.NewInjector(t, n.Server.Eth1.Peer())
	wires := harness.Tap(t, n.Server)
	for name, frame := range strangeFrames(n) {
		injector.Send(frame...)
		harness.Settle(t, n.Replication, n.Server.Eth1)
		for _, flow := range p.Flows("--protocol", "udp") {
			t.Errorf("%s: became the flow %s", name, flow)
		}
		_, eth1 := wires.Left(topology.All(topology.UDP, topology.ToPort(strangePort)))
		if len(eth1) > 0 {
			t.Fatalf("%s: an answer was moved: %s", name, harness.Describe(eth1))
		}
	}
	for _, f := range n.Families() {
		plain := plainDatagram(n, f)
		// Another port: to what came in strangely the host may have spoken first.
		plain.From = netip.AddrPortFrom(plain.From.Addr(), strangePort+1)
		injector.Send(plain.Layers()...)
		answer := topology.All(topology.UDP, topology.From(plain.To.Addr()), topology.ToPort(strangePort+1))
		_, err := wires.Eth1.Wait(harness.Within(t, harness.AnswerTime), answer)
		harness.Must(t, err)
		wires.WantEth1("a plain datagram", answer)
	}
}

// TestDHCPPorts leaves DHCP's ports alone, of both families and both ends.
func TestDHCPPorts(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	injector := harness.NewInjector(t, n.Server.Eth1.Peer())
	for f, ports := range map[topology.Family][]uint16{topology.IPv4: {67, 68}, topology.IPv6: {546, 547}} {
		for _, port := range ports {
			conn := harness.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), "udp",
				netip.AddrPortFrom(n.Server.Eth1.Address(f), port).String()))
			d := plainDatagram(n, f)
			d.To = netip.AddrPortFrom(d.To.Addr(), port)
			wires := harness.Tap(t, n.Server)
			injector.Send(d.Layers()...)
			_, from, err := conn.ReadFrom(make([]byte, 100))
			harness.Must(t, err)
			_, err = conn.WriteTo([]byte("answer"), from)
			harness.Must(t, err)
			harness.Must(t, conn.Close())
			answer := topology.All(topology.UDP, topology.FromPort(port))
			_, err = wires.Eth0.Wait(harness.Within(t, harness.AnswerTime), answer)
			harness.Must(t, err)
			wires.WantEth0("an answer from a DHCP port", answer)
		}
	}
	if flows := p.Flows(); len(flows) > 0 {
		t.Errorf("flows %v", flows)
	}
}

// TestNeighbours has both ends resolve each other on eth1 while it is managed:
// answers leave by the interface that they were asked on, as the kernel sends
// them.
func TestNeighbours(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	wires := harness.Tap(t, n.Server)
	for _, f := range n.Families() {
		harness.Must(t, n.Server.Eth1.Peer().Resolve(harness.Within(t, harness.AnswerTime), n.Server.Eth1.Address(f)))
		harness.Must(t, n.Server.Eth1.Resolve(harness.Within(t, harness.AnswerTime), n.Server.Eth1.Gateway(f)))
	}
	eth0, _ := wires.Left(topology.Any)
	for _, frame := range eth0 {
		if !bytes.Equal(frame.SourceMAC, n.Server.Eth0.MAC) {
			t.Errorf("by eth0 left %s", frame)
		}
	}
	// On-link: the router itself asks, and is answered directly.
	for _, f := range n.Families() {
		c := harness.NewConversation(t, harness.TCP, n.Server.Eth1.Peer(), n.Server.Eth1.Address(f))
		harness.Ask(t, c)
		wires.WantEth1(c.String(), c.Answers())
	}
	if m := p.Metrics(); m.Sum("replypath_asymmetric_packets_total") != 0 {
		t.Error("what the kernel sent right anyway was counted as asymmetric")
	}
}
