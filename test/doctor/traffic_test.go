// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestLastHop is S2 without its configuration: doctor proposes it once a client was seen to come through the balancer,
// and no more when it is in force.
func TestLastHop(t *testing.T) {
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) { testLastHop(t, f) })
	}
}

func testLastHop(t *testing.T, f topology.Family) {
	s := harness.Build(t, topology.NewS2)
	harness.Serve(t, s.Server, s.ServerEth0.Address(f))
	ip := map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"}[f]
	harness.Nft(t, s.Balancer.Host, `table `+ip+` balance {
	chain pre { type nat hook prerouting priority dstnat; `+ip+` daddr `+s.Virtual(f).String()+` dnat to `+s.ServerEth0.Address(f).String()+`; }
}`)
	p := harness.On(t, s.Server)
	d := p.Start()
	onlyOne(t, p.Doctor(0), "last-hop", "", "ok")
	c := harness.NewConversation(t, harness.Ping, s.ClientEth0, s.Virtual(f))
	if err := c.Ask(harness.Within(t, harness.SilenceTime)); err == nil {
		t.Fatal("the client is answered although the server does not answer through the balancer")
	}
	all := p.Doctor(0)
	proposal := onlyOne(t, all, "last-hop", "eth0", "warning", s.ClientEth0.Address(f).String(), s.BalancerEth0.MAC.String(), "next_hop last-hop")
	if proposal.Fix == nil || !strings.Contains(*proposal.Fix, "{name: eth0, next_hop: last-hop}]") || !strings.Contains(*proposal.Fix, fmt.Sprintf(", then kill -HUP %d", d.PID())) {
		t.Errorf("fix %v", proposal.Fix)
	}
	// The kernel's default is to learn from redirects, which matters here.
	onlyOne(t, all, "accept-redirects", "eth0", "warning", "ipv4", "effective 1")
	onlyOne(t, all, "accept-redirects", "eth0", "warning", "ipv6", "effective 1")
	d.Stop(unix.SIGTERM)

	config := filepath.Join(t.TempDir(), "replypath.yaml")
	harness.Must(t, os.WriteFile(config, []byte("interfaces:\n- {name: eth0, next_hop: last-hop}\n"), 0o644))
	p.Start("--config", config)
	again := harness.NewConversation(t, harness.Ping, s.ClientEth0, s.Virtual(f))
	harness.Ask(t, again)
	all = p.Doctor(0, "--fix")
	onlyOne(t, all, "last-hop", "", "ok")
	onlyOne(t, all, "accept-redirects", "eth0", "warning", "ipv4", "net.ipv4.conf.all.accept_redirects does it for every interface")
	if mended := onlyOne(t, all, "accept-redirects", "eth0", "ok", "ipv6", "effective 0"); !mended.Fixed {
		t.Errorf("not mended: %+v", mended)
	}
	p.Expect(0, "detach", "--stop")
	for _, key := range []string{"ipv4/conf/all", "ipv4/conf/eth0", "ipv6/conf/eth0"} {
		wantSysctl(t, s.Server, "net/"+key+"/accept_redirects", "1")
	}
}

// TestLVSRealServer is S3a: the virtual address is named, with the choice. Whether a balancer has it cannot be seen, so
// that arp_ignore is left to who knows; arp_announce is set and given back.
func TestLVSRealServer(t *testing.T) {
	s := harness.Build(t, func(ctx context.Context) (*topology.S3a, error) { return topology.NewS3a(ctx, true) })
	p := harness.On(t, s.Server)
	all := p.Doctor(0)
	for _, f := range s.Families() {
		onlyOne(t, all, "loopback-address", "", "ok", s.Virtual(f).String(), "loopback_addresses: kernel")
	}
	onlyOne(t, all, "arp-ignore", "eth0", "warning", "10.0.0.1 of lo")
	onlyOne(t, all, "arp-announce", "eth1", "warning", "10.0.0.1 of lo")
	onlyOne(t, p.Doctor(0, "--fix"), "arp-ignore", "eth0", "warning", "wrong where a balancer has it")
	wantSysctl(t, s.Server, "net/ipv4/conf/eth0/arp_ignore", "0")
	wantSysctl(t, s.Server, "net/ipv4/conf/eth1/arp_announce", "2")
	p.Detach()
	wantSysctl(t, s.Server, "net/ipv4/conf/eth0/arp_ignore", "0")
	wantSysctl(t, s.Server, "net/ipv4/conf/eth1/arp_announce", "0")
}

// TestARPFlux is S5: before --fix both interfaces answer for an address, after it only its own.
func TestARPFlux(t *testing.T) {
	s := harness.Build(t, topology.NewS5)
	p := harness.On(t, s.Server.Host)
	asked := s.Server.Eth1.Address(topology.IPv4)
	if got := macsOf(t, s, asked, 2); got != 2 {
		t.Fatalf("%d interfaces answer for %s, not both", got, asked)
	}
	for _, check := range []string{"arp-ignore", "arp-announce"} {
		onlyOne(t, p.Doctor(0), check, "eth0", "warning", asked.String()+" of eth1")
	}
	p.Doctor(0, "--fix")
	if got := macsOf(t, s, asked, 1); got != 1 {
		t.Errorf("%d interfaces answer for %s after --fix", got, asked)
	}
	p.Detach()
	if got := macsOf(t, s, asked, 2); got != 2 {
		t.Errorf("%d interfaces answer for %s after detach, not both as before", got, asked)
	}
}

// macsOf counts who answers the neighbour's question for an address of eth1, who always does. It waits for as many as
// are wanted.
func macsOf(t *testing.T, s *topology.S5, asked netip.Addr, want int) int {
	t.Helper()
	at := s.NeighbourEth0
	seen := harness.Must1[*topology.Capture](t)(at.Capture(topology.CaptureOptions{}))
	defer func() { harness.Must(t, seen.Stop()) }()
	answers := func(f *topology.Frame) bool {
		arp, ok := f.Packet().Layer(layers.LayerTypeARP).(*layers.ARP)
		return ok && arp.Operation == layers.ARPReply
	}
	harness.NewInjector(t, at).Send(
		&layers.Ethernet{SrcMAC: at.MAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: at.MAC, SourceProtAddress: at.Address(topology.IPv4).AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: asked.AsSlice(),
		})
	harness.Must1[*topology.Frame](t)(seen.Wait(harness.Within(t, harness.AnswerTime), topology.All(answers, topology.FromMAC(s.Server.Eth1.MAC))))
	patience := harness.SilenceTime
	if want == 2 {
		patience = harness.AnswerTime
	}
	// A second answer is none but eth0's.
	if _, err := seen.WaitCount(harness.Within(t, patience), 2, answers); err != nil {
		return 1
	}
	return 2
}

// TestConnectedSocket has a daemon do what iperf3 does: bind the wildcard, take the first datagram, connect to its
// sender. Its answers come from the address of the default route.
func TestConnectedSocket(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, daemon := range []struct {
		name, network string
		asked         topology.Family
	}{{"ipv4", "udp4", topology.IPv4}, {"ipv6", "udp6", topology.IPv6}, {"mapped", "udp", topology.IPv4}} {
		t.Run(daemon.name, func(t *testing.T) { testConnectedSocket(t, n, p.In(t), daemon.network, daemon.asked) })
	}
}

func testConnectedSocket(t *testing.T, n *topology.TwoNIC, p *harness.Product, network string, f topology.Family) {
	const port = 5201
	var conn net.PacketConn
	harness.Must(t, n.Server.Do(func() (err error) {
		conn, err = net.ListenPacket(network, ":5201")
		return err
	}))
	defer conn.Close()
	self := netip.AddrPortFrom(n.Server.Eth1.Address(f), port)
	client := harness.Must1[net.Conn](t)(n.Client.Dial(harness.Within(t, harness.AnswerTime), "udp", self.String()))
	defer client.Close()
	harness.Must1[int](t)(client.Write([]byte("hello")))
	buffer := make([]byte, 16)
	_, sender, err := conn.ReadFrom(buffer)
	harness.Must(t, err)
	from := sender.(*net.UDPAddr).AddrPort()
	onlyOne(t, p.Doctor(0), "udp-connect", "", "ok")

	connect(t, conn.(*net.UDPConn), network, from)
	found := onlyOne(t, p.Doctor(3), "udp-connect", "eth1", "error", "udp port 5201",
		netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String(),
		"from "+n.Server.Eth0.Address(f).String(), "the request went to "+self.Addr().String())
	// Of a daemon that nobody knows, it can only be shown who it is.
	show, what, _ := strings.Cut(harness.OrEmpty(found.Inspect), "  # ")
	if what != "who has the socket: have it bind to "+self.Addr().String() {
		t.Errorf("inspect %q", harness.OrEmpty(found.Inspect))
	}
	output := harness.Must1[[]byte](t)(n.Server.Command(harness.Within(t, harness.AnswerTime), "sh", "-ec", show).CombinedOutput())
	if !strings.Contains(string(output), ":5201") {
		t.Errorf("%s shows no socket:\n%s", show, output)
	}
	if !strings.Contains(found.Found, processName(t)) {
		t.Errorf("the process is not named: %s", found.Found)
	}
}

// connect is connect(2) on a socket of a network that is bound already.
func connect(t *testing.T, conn *net.UDPConn, network string, to netip.AddrPort) {
	t.Helper()
	address := unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	if network == "udp4" {
		address = &unix.SockaddrInet4{Addr: to.Addr().Unmap().As4(), Port: int(to.Port())}
	}
	raw := harness.Must1[syscall.RawConn](t)(conn.SyscallConn())
	var failed error
	err := raw.Control(func(fd uintptr) { failed = unix.Connect(int(fd), address) })
	harness.Must(t, errors.Join(err, failed))
}

func processName(t *testing.T) string {
	t.Helper()
	name := harness.Must1[[]byte](t)(os.ReadFile("/proc/self/comm"))
	return strings.TrimSpace(string(name))
}
