package lifecycle

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/harness"
	"replypath/test/topology"
)

// orphan is a UDP flow that came in by an interface which goes away, while the
// address that was asked stays, on eth0.
type orphan struct {
	t              *testing.T
	client, server net.PacketConn
	own            netip.AddrPort
	// answers are all that the server sends.
	answers topology.Filter
}

// newOrphan has the client ask the interface, which answers.
func newOrphan(l *late, f topology.Family) *orphan {
	l.t.Helper()
	ctx := harness.Within(l.t, harness.AnswerTime)
	listen := func(host *topology.Host, at netip.Addr) net.PacketConn {
		conn := harness.Must1[net.PacketConn](l.t)(host.ListenPacket(ctx, "udp", netip.AddrPortFrom(at, 0).String()))
		l.t.Cleanup(func() { conn.Close() })
		harness.Must(l.t, conn.SetDeadline(time.Now().Add(2*harness.AnswerTime)))
		return conn
	}
	own := l.Address(f)
	o := &orphan{t: l.t, client: listen(l.n.Client, l.n.ClientEth0.Address(f)), server: listen(l.n.Server.Host, own)}
	o.own = netip.MustParseAddrPort(o.server.LocalAddr().String())
	o.answers = topology.All(topology.UDP, topology.From(own), topology.FromPort(o.own.Port()))
	wires := harness.Capture(l.t, l.Peer())
	o.ask()
	if answers := wires.Frames(o.answers); len(answers) != 1 {
		l.t.Errorf("%d answers left by %s", len(answers), l.name)
	}
	harness.Must(l.t, l.n.Server.Eth0.AddAddress(netip.PrefixFrom(own, own.BitLen())))
	return o
}

// ask has the client ask once more, from the same port.
func (o *orphan) ask() {
	o.t.Helper()
	_, err := o.client.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(o.own))
	harness.Must(o.t, err)
	_, _, err = o.server.ReadFrom(make([]byte, 100))
	harness.Must(o.t, err)
	o.push()
	_, _, err = o.client.ReadFrom(make([]byte, 100))
	harness.Must(o.t, err)
}

// push has the server send to the client.
func (o *orphan) push() {
	o.t.Helper()
	_, err := o.server.WriteTo([]byte("push"), o.client.LocalAddr())
	harness.Must(o.t, err)
}

// decoy replaces the interface by another device, which leads elsewhere.
func (l *late) decoy(name, how string) *topology.Interface {
	l.t.Helper()
	l.disappear()
	ipBatch(l.t, l.n.Server.Host, fmt.Sprintf(`link add %[1]s %[2]s type veth peer name far
link set far up
link set %[1]s up
address add 10.77.0.1/24 dev %[1]s
address add 2001:db8:77::1/64 dev %[1]s nodad
`, name, how))
	return harness.Must1[*topology.Interface](l.t)(l.n.Server.Interface("far"))
}

// leave moves the interface to a network namespace of its own, with its addresses.
func (l *late) leave() *topology.Interface {
	l.t.Helper()
	container := harness.Must1[*topology.Host](l.t)(l.n.Host("container"))
	link := harness.Must1[netlink.Link](l.t)(l.Link())
	harness.Must(l.t, l.n.Server.Netlink().LinkSetNsFd(link, int(container.Namespace())))
	batch := "link set " + l.name + " up\n"
	for _, a := range l.Addresses {
		batch += "address add " + a.String() + " dev " + l.name + "\n"
	}
	ipBatch(l.t, container, batch)
	return l.Peer()
}

// departures are ways in which an interface goes. Each returns where captured
// frames would show that something took it for another.
var departures = map[string]func(*late) *topology.Interface{
	"its index and name are another's": func(l *late) *topology.Interface {
		return l.decoy(l.name, fmt.Sprint("index ", l.Index))
	},
	"its index is another's": func(l *late) *topology.Interface {
		return l.decoy("other", fmt.Sprint("index ", l.Index))
	},
	"its name is another's": func(l *late) *topology.Interface {
		return l.decoy(l.name, "")
	},
	"it is moved to another namespace":     (*late).leave,
	"it is moved, and its index another's": (*late).leaveAndFollow,
}

// leaveAndFollow moves the interface away, and has another come that brings its
// index along.
func (l *late) leaveAndFollow() *topology.Interface {
	l.t.Helper()
	l.leave()
	elsewhere := harness.Must1[*topology.Host](l.t)(l.n.Host("elsewhere"))
	ipBatch(l.t, elsewhere, fmt.Sprintf("link add %s index %d type veth peer name far\n", l.name, l.Index))
	for _, name := range []string{"far", l.name} {
		link := harness.Must1[netlink.Link](l.t)(elsewhere.Netlink().LinkByName(name))
		harness.Must(l.t, elsewhere.Netlink().LinkSetNsFd(link, int(l.n.Server.Namespace())))
	}
	ipBatch(l.t, l.n.Server.Host,
		fmt.Sprintf("link set far up\nlink set %[1]s up\naddress add 10.77.0.1/24 dev %[1]s\n", l.name))
	follower := harness.Must1[*topology.Interface](l.t)(l.n.Server.Interface(l.name))
	if follower.Index != l.Index {
		l.t.Fatalf("%s has index %d, not %d", l.name, follower.Index, l.Index)
	}
	return harness.Must1[*topology.Interface](l.t)(l.n.Server.Interface("far"))
}

// TestIdentity takes the interface of a flow away, and puts another in its place,
// with the daemon alive and dead. What the server goes on sending takes the
// kernel's way, counted, never the other device; a question from the same port
// that comes in elsewhere is answered there.
func TestIdentity(t *testing.T) {
	for name, depart := range departures {
		for _, dead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, daemon dead: %t", name, dead), func(t *testing.T) { testIdentity(t, depart, dead) })
		}
	}
}

func testIdentity(t *testing.T, depart func(*late) *topology.Interface, dead bool) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := newLate(t, n, "wan7")
	l.appear()
	config := newConfig(t, harness.SmallTables)
	d := p.Start("--config", config.path)
	orphans := make(map[topology.Family]*orphan)
	for _, f := range n.Families() {
		orphans[f] = newOrphan(l, f)
	}
	before := p.Metrics()
	if dead {
		d.Kill()
	}
	decoy := harness.Capture(t, depart(l))
	if dead {
		p.Age(3 * time.Second) // what came in a moment ago proves that its interface is there
	} else {
		d.WaitLog(1, "interface is gone", l.name)
	}
	wires := harness.Tap(t, n.Server)
	for f, o := range orphans {
		explained := p.Explain("--protocol", "udp", "--peer", o.client.LocalAddr().String(), "--self", o.own.String())
		if reason := harness.OrEmpty(explained.Reason); explained.Verdict != "fallback" || reason != "link_down" {
			t.Errorf("%s", explained)
		}
		o.push()
		_, _, err := o.client.ReadFrom(make([]byte, 100))
		harness.Must(t, err)
		wires.WantEth0("what goes on to be sent", o.answers)
		moveRoute(t, n, f, o.own.Addr())
		o.ask()
		wires.WantEth0("the answer to a new question", o.answers)
		if wrong := decoy.Frames(o.answers); len(wrong) > 0 {
			t.Errorf("by the other device left %s", harness.Describe(wrong))
		}
	}
	if dead {
		p.Start("--config", config.path)
	}
	after := p.Metrics()
	labels := []string{"reason=link_down", "to_interface=" + l.name}
	const metric = "replypath_uncorrected_packets_total"
	if got := after.Sum(metric, labels...) - before.Sum(metric, labels...); got != float64(len(orphans)) {
		t.Errorf("%v packets are counted as link_down, not %d", got, len(orphans))
	}
}

// moveRoute has the client reach an address of the server's by eth0.
func moveRoute(t *testing.T, n *topology.TwoNIC, f topology.Family, address netip.Addr) {
	t.Helper()
	only := netip.PrefixFrom(address, address.BitLen())
	core := harness.Must1[*topology.Interface](t)(n.Production.Interface("core"))
	harness.Must(t, n.Core.AddRoute(topology.Route{Destination: only, Via: core.Address(f)}))
	harness.Must(t, n.Production.AddRoute(topology.Route{Destination: only, Via: n.Server.Eth0.Address(f)}))
}

// ipBatch runs commands of ip(8) on a host, one a line.
func ipBatch(t *testing.T, host *topology.Host, batch string) {
	t.Helper()
	harness.Shell(t, host, "ip -batch - <<END\n"+batch+"END\n")
}

// TestNamesAreSwapped gives two managed interfaces each other's name under
// conversations with both: each stays on its device.
func TestNamesAreSwapped(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := newLate(t, n, "wan7")
	l.appear()
	p.Start()
	l.answers(p)
	byEth1 := keepAsking(t, n, harness.TCP, topology.IPv4)
	swapped := &topology.TwoNIC{Network: n.Network, Client: n.Client, ClientEth0: n.ClientEth0,
		Server: &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: l.Interface}}
	byLate := keepAsking(t, swapped, harness.TCP, topology.IPv4)
	ipBatch(t, n.Server.Host, "link set eth1 name tmp\nlink set wan7 name eth1\nlink set tmp name wan7\n")
	waitAttached(t, p, "wan7", n.Server.Eth1.Index)
	waitAttached(t, p, "eth1", l.Index)
	for name, r := range map[string]*running{"wan7": byEth1, "eth1": byLate} {
		r.goesOn()
		r.end()
		if flow := findFlow(t, p, r.c); flow.Interface == nil || *flow.Interface != name {
			t.Errorf("the flow has interface %v, not %s", deref(flow.Interface), name)
		}
	}
}
