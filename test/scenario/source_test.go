// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// daemonPort is where the daemons of these tests listen.
const daemonPort = 5300

// listening is how a daemon binds its socket, and by which family it is asked.
type listening struct {
	name, network, address string
	asked                  topology.Family
}

var listenings = []listening{
	{"ipv4", "udp4", "0.0.0.0", topology.IPv4},
	{"ipv6", "udp6", "::", topology.IPv6},
	{"mapped", "udp", "::", topology.IPv4},
}

// eachListening runs a subtest for each.
func eachListening(t *testing.T, name string, run func(*testing.T, listening)) {
	for _, l := range listenings {
		t.Run(name+"/"+l.name, func(t *testing.T) { run(t, l) })
	}
}

// listen binds a socket on B as the daemon does.
func (l listening) listen(t *testing.T, host *topology.Host) net.PacketConn {
	t.Helper()
	at := net.JoinHostPort(l.address, fmt.Sprint(daemonPort))
	conn := await.Must1[net.PacketConn](t)(host.ListenPacket(t.Context(), l.network, at))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// serve answers by recvfrom and sendto.
func (l listening) serve(t *testing.T, host *topology.Host) {
	t.Helper()
	conn := l.listen(t, host)
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(buffer[:n], from)
		}
	}()
}

// asker is a UDP socket on A that is not connected, so that it shows who answers.
type asker struct {
	t    testing.TB
	conn net.PacketConn
	at   netip.AddrPort
}

func newAsker(t testing.TB, at *topology.Interface, f topology.Family) *asker {
	t.Helper()
	address := netip.AddrPortFrom(at.Address(f), 0).String()
	conn := await.Must1[net.PacketConn](t)(at.Host.ListenPacket(t.Context(), "udp", address))
	t.Cleanup(func() { conn.Close() })
	return &asker{t, conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// ask asks a daemon and returns who answered.
func (a *asker) ask(server netip.Addr) netip.AddrPort {
	a.t.Helper()
	question := []byte("who are you, " + server.String())
	await.Must1[int](a.t)(a.conn.WriteTo(question, net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, daemonPort))))
	answer, from := receive(a.t, a.conn)
	await.Same(a.t, "answer", string(question), string(answer))
	address := from.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
}

// wantFrom asks and wants that address to answer.
func (a *asker) wantFrom(asked, answers netip.Addr) {
	a.t.Helper()
	await.Same(a.t, "who answers for "+asked.String(), netip.AddrPortFrom(answers, daemonPort), a.ask(asked))
}

// answersTo matches what the daemon sends to a socket.
func (a *asker) answers() topology.Filter {
	return topology.All(topology.UDP, topology.To(a.at.Addr()), topology.FromPort(daemonPort), topology.ToPort(a.at.Port()))
}

// sourceFeature returns what the status says of the source repair.
func sourceFeature(t *testing.T, p *product.Product) (available bool, effect string) {
	t.Helper()
	for _, f := range p.Status().Features {
		if f.Name == "repair_udp_source" {
			return f.Available, f.Effect
		}
	}
	t.Fatal("the status does not name repair_udp_source")
	return false, ""
}

// repairs returns what the metric says.
func repairs(p *product.Product, f topology.Family) float64 {
	return p.Metrics().Sum("replypath_source_repairs_total", "family="+f.String())
}

// wantSource wants the status to tell this of the source repair.
func wantSource(t *testing.T, p *product.Product, available bool, effect string) {
	t.Helper()
	got, says := sourceFeature(t, p)
	if got != available || !strings.Contains(says, effect) {
		t.Errorf("repair_udp_source: available %v, effect %q", got, says)
	}
}

// TestWildcardUDP asks a daemon that binds to no address: it answers from the address of the default route's
// interface, which nobody asked, and with replypath from the right one, by the right interface.
func TestWildcardUDP(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{})
	p := product.On(t, s.B.Host)
	eachListening(t, "a wildcard socket", func(t *testing.T, l listening) {
		l.serve(t, s.B.Host)
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth0)
		client := await.Must1[net.Conn](t)(s.A.Dial(t.Context(), "udp", netip.AddrPortFrom(eth1, daemonPort).String()))
		defer client.Close()
		wires := wire.Tap(t, s.B)
		wantDiscarded(t, client, wires, eth0)

		p.Start()
		wantSource(t, p, true, "on: wildcard udp sockets reply from the address of the request")
		a := newAsker(t, s.A.Eth1, l.asked)
		wires = wire.Tap(t, s.B)
		for range 3 {
			a.wantFrom(eth1, eth1)
		}
		wires.WantEth1("the daemon", a.answers())
		newAsker(t, s.A.Eth0, l.asked).wantFrom(eth0, eth0)
		// The client from before is answered as well, whatever came first.
		if err := exchange(client, await.AnswerTime); err != nil {
			t.Errorf("the client from before: %v", err)
		}
		await.Same(t, "repairs", 5, repairs(p, l.asked))
		p.Expect(0, "detach", "--stop")
		newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth0)
	})
}

// wantDiscarded asks by a connected socket, which nobody else can answer.
func wantDiscarded(t *testing.T, client net.Conn, wires *wire.Wires, stranger netip.Addr) {
	t.Helper()
	port := client.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if err := exchange(client, await.SilenceTime); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that is connected to the address: %v", err)
	}
	wires.WantEth0("the stranger's answer", topology.All(topology.UDP, topology.From(stranger), topology.ToPort(port)))
}

// exchange asks once by a connected socket.
func exchange(client net.Conn, patience time.Duration) error {
	if _, err := client.Write([]byte("question")); err != nil {
		return err
	}
	if err := client.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := client.Read(make([]byte, 100))
	return err
}

// receive reads one question.
func receive(t testing.TB, conn net.PacketConn) (question []byte, from net.Addr) {
	t.Helper()
	await.Must(t, conn.SetReadDeadline(time.Now().Add(await.AnswerTime)))
	buffer := make([]byte, 1<<16)
	n, from, err := conn.ReadFrom(buffer)
	await.Must(t, err)
	return buffer[:n], from
}

// send asks without waiting for the answer.
func (a *asker) send(server netip.Addr) {
	a.t.Helper()
	_, err := a.conn.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, daemonPort)))
	await.Must(a.t, err)
}

// heard waits for a datagram and returns who sent it.
func (a *asker) heard() netip.Addr {
	a.t.Helper()
	_, from := receive(a.t, a.conn)
	return from.(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// repairing is S1 with the source repair on from the start.
type repairing struct {
	*topology.S1
	p *product.Product
}

// TestSourceCare: the source of an answer is repaired as often as an address was asked, and nothing but that.
func TestSourceCare(t *testing.T) {
	const on = "repair_udp_source: true\n"
	s := traffic.NewS1(t, topology.S1Options{})
	r := repairing{s, product.On(t, s.B.Host)}
	d := r.p.Start("--config", product.WriteConfig(t, on))
	eachListening(t, "alternating", r.alternating)
	eachListening(t, "packet info", r.packetInfo)
	eachListening(t, "other namespace", r.otherNamespace)
	for _, f := range s.Families() {
		t.Run("bound socket/"+f.String(), func(t *testing.T) { r.boundSocket(t, f) })
	}
	d.Reconfigure(on + "exclude: [{protocol: udp, self_port: 5300}]\n")
	eachListening(t, "excluded", func(t *testing.T, l listening) {
		l.serve(t, s.B.Host)
		newAsker(t, s.A.Eth1, l.asked).wantFrom(s.B.Eth1.Address(l.asked), s.B.Eth0.Address(l.asked))
	})
	d.Reconfigure(on)
	r.p.Expect(0, "mode", "observe")
	eachListening(t, "observe", r.observe)
}

// alternating asks several addresses by one socket, in turn, and several
// times each: every answer comes from the one that was asked last.
func (r repairing) alternating(t *testing.T, l listening) {
	l.serve(t, r.B.Host)
	first, second := r.B.Eth1.Address(l.asked), r.another(t, r.B.Eth1.Address(l.asked)).Addr()
	third := r.another(t, second).Addr()
	a := newAsker(t, r.A.Eth1, l.asked)
	for range 5 {
		for _, address := range []netip.Addr{first, second, first, first, third, second, third} {
			a.wantFrom(address, address)
		}
	}
}

// another gives B's eth1 the address after one.
func (r repairing) another(t *testing.T, before netip.Addr) netip.Prefix {
	t.Helper()
	bits := map[topology.Family]int{topology.IPv4: 24, topology.IPv6: 64}[topology.FamilyOf(before)]
	next := netip.PrefixFrom(before.Next(), bits)
	await.Must(t, r.B.Eth1.AddAddress(next))
	r.p.AwaitOwn(next.Addr(), true, time.Now())
	t.Cleanup(func() { _ = r.B.Eth1.RemoveAddress(next) }) // a test may have done so
	return next
}

// packetInfo has a daemon choose its source itself, by IP_PKTINFO, and even
// another than it was asked on: that is its business.
func (r repairing) packetInfo(t *testing.T, l listening) {
	conn, before := l.listen(t, r.B.Host), repairs(r.p, l.asked)
	eth0, eth1 := r.B.Eth0.Address(l.asked), r.B.Eth1.Address(l.asked)
	a := newAsker(t, r.A.Eth1, l.asked)
	a.send(eth1)
	question, from := receive(t, conn)
	for _, source := range []netip.Addr{eth0, eth1} {
		control := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16()})
		if l.network == "udp4" {
			control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source.As4()})
		}
		_, _, err := conn.(*net.UDPConn).WriteMsgUDP(question, control, from.(*net.UDPAddr))
		await.Must(t, err)
		await.Same(t, "the source that the daemon chose", source, a.heard())
	}
	await.Same(t, "repairs of a daemon that needs none", 0, repairs(r.p, l.asked)-before)
}

// otherNamespace has a daemon in another network namespace, below the same
// cgroup, send to the very socket that asked B: it has nothing to do with it.
func (r repairing) otherNamespace(t *testing.T, l listening) {
	l.serve(t, r.B.Host)
	stranger := l.listen(t, r.Replication.Host)
	eth1 := r.B.Eth1.Address(l.asked)
	a := newAsker(t, r.A.Eth1, l.asked)
	a.wantFrom(eth1, eth1)
	await.Must1[int](t)(stranger.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(a.at)))
	await.Same(t, "what the router sent from", r.A.Eth1.Gateway(l.asked), a.heard())
}

// boundSocket has a daemon answer by a socket that is bound to an address, whichever the peer asked.
func (r repairing) boundSocket(t *testing.T, f topology.Family) {
	eth0, eth1 := r.B.Eth0.Address(f), r.B.Eth1.Address(f)
	asked := listening{network: "udp", address: eth1.String()}.listen(t, r.B.Host)
	other := listening{network: "udp", address: eth0.String()}.listen(t, r.B.Host)
	a := newAsker(t, r.A.Eth1, f)
	a.send(eth1)
	question, from := receive(t, asked)
	await.Must1[int](t)(other.WriteTo(question, from))
	await.Same(t, "what a bound socket sent from", eth0, a.heard())
}

// observe gives no source as long as nothing is to be changed, and does so once the daemon has heard that this ends.
func (r repairing) observe(t *testing.T, l listening) {
	l.serve(t, r.B.Host)
	before := repairs(r.p, l.asked)
	eth0, eth1 := r.B.Eth0.Address(l.asked), r.B.Eth1.Address(l.asked)
	a := newAsker(t, r.A.Eth1, l.asked)
	a.wantFrom(eth1, eth0)
	await.Same(t, "repairs", 0, repairs(r.p, l.asked)-before)
	r.p.Expect(0, "mode", "enforce")
	// Who asks is noted with the first question of a second.
	await.Becomes(t, "who answers", eth1, func() netip.Addr { return a.ask(eth1).Addr() })
	r.p.Expect(0, "mode", "observe")
	a.wantFrom(eth1, eth0)
	maps := await.Must1[*bpf.Maps](t)(datapath.OpenMaps(r.p.PinDir))
	defer maps.Close()
	await.Eventually(t, "who asked is forgotten: the repair waits for another", func() error {
		key := uint64(bpf.DatapathLeadKindLEAD_WATCHED)
		if err := maps.Leads.Lookup(key, new(bpf.DatapathLead)); !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("the lead: %w", err)
		}
		return nil
	})
}

// TestConnectedWildcard has a daemon connect the wildcard socket by which it was asked, as iperf3 does: the kernel
// has chosen its address then, and the page says to bind it.
func TestConnectedWildcard(t *testing.T) {
	s, page := traffic.NewS1(t, topology.S1Options{}), host.ReadRecipe(t, "udp-daemons")
	product.On(t, s.B.Host).Start("--config", page.Config("With replypath"))
	eachListening(t, "connected", func(t *testing.T, l listening) {
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		answer := func(conn net.PacketConn) netip.Addr {
			a := newAsker(t, s.A.Eth1, l.asked)
			a.send(eth1)
			question, _ := receive(t, conn)
			to := unix.Sockaddr(&unix.SockaddrInet6{Addr: a.at.Addr().As16(), Port: int(a.at.Port())})
			if l.network == "udp4" {
				to = &unix.SockaddrInet4{Addr: a.at.Addr().As4(), Port: int(a.at.Port())}
			}
			raw := await.Must1[syscall.RawConn](t)(conn.(*net.UDPConn).SyscallConn())
			await.Must(t, raw.Control(func(fd uintptr) {
				await.Must(t, unix.Connect(int(fd), to))
				_, err := unix.Write(int(fd), question)
				await.Must(t, err)
			}))
			return a.heard()
		}
		wildcard := l.listen(t, s.B.Host)
		page.Run(s.B.Host, "What goes wrong")
		await.Same(t, "what a connected wildcard socket answers from: the page says that it cannot be mended", eth0, answer(wildcard))
		await.Must(t, wildcard.Close())
		if l.address = eth1.String(); eth1.Is4() {
			l.network = "udp4"
		}
		await.Same(t, "what a bound socket answers from", eth1, answer(l.listen(t, s.B.Host)))
	})
}
