// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/wire"
)

// upstreamConf has BIRD on a router announce a default route of each family to the server, and leave the router's own
// alone.
const upstreamConf = `router id 10.N.0.1;
protocol device {}
protocol static default4 { ipv4; route 0.0.0.0/0 blackhole; }
protocol static default6 { ipv6; route ::/0 blackhole; }
template bgp server { local as 6500N; connect delay time 1; error wait time 1, 1; }
protocol bgp by4 from server { neighbor 10.N.0.100 as 65000; ipv4 { next hop self; import none; export all; }; }
protocol bgp by6 from server { neighbor 2001:db8:N::100 as 65000; ipv6 { next hop self; import none; export all; }; }
`

// bgpdConf prefers what the router on eth0 announces.
const bgpdConf = `router bgp 65000
 bgp router-id 10.1.0.100
 no bgp ebgp-requires-policy
 neighbor 10.1.0.1 remote-as 65001
 neighbor 10.2.0.1 remote-as 65002
 neighbor 2001:db8:1::1 remote-as 65001
 neighbor 2001:db8:2::1 remote-as 65002
 address-family ipv4 unicast
  neighbor 10.1.0.1 weight 100
 exit-address-family
 address-family ipv6 unicast
  neighbor 2001:db8:1::1 activate
  neighbor 2001:db8:1::1 weight 100
  neighbor 2001:db8:2::1 activate
 exit-address-family
`

const (
	zebraSocket = "/run/frr/zserv.api"
	ownProtocol = "114" // discover.OwnProtocol
)

// frr is FRR on a server, and BIRD on the router that it prefers.
type frr struct {
	*machine
	upstream    *machine
	zebra, bgpd *product.Program
}

// newFRR furnishes the server's machine for FRR.
func newFRR(t *testing.T, n *topology.TwoNIC) *frr {
	t.Helper()
	d := &frr{machine: newMachine(t, n.Server.Host)}
	d.run("install", "-d", "-o", "frr", "-g", "frr", "/run/frr")
	d.write("/run/frr/zebra.conf", "")
	return d
}

// startFRR has both routers announce default routes and starts FRR, whose routes are the only ones by then.
func startFRR(t *testing.T, n *topology.TwoNIC) *frr {
	t.Helper()
	d := newFRR(t, n)
	d.upstream = startUpstream(t, n.Production, "1")
	startUpstream(t, n.Replication, "2")
	host.Shell(t, n.Server.Host, "ip route del default; ip -6 route del default")
	d.write("/run/frr/bgpd.conf", bgpdConf)
	d.startZebra()
	d.startBGP()
	return d
}

func startUpstream(t *testing.T, r *topology.Router, subnet string) *machine {
	t.Helper()
	m := newMachine(t, r.Host)
	m.write("/run/bird.conf", strings.ReplaceAll(upstreamConf, "N", subnet))
	m.start("bird", "-f", "-c", "/run/bird.conf", "-s", "/run/bird.ctl")
	return m
}

func (d *frr) startZebra() {
	d.t.Helper()
	d.zebra = d.start("/usr/lib/frr/zebra", "-f", "/run/frr/zebra.conf", "--log", "stdout")
	await.Eventually(d.t, "zebra serves other daemons", func() error { return d.command("test", "-S", zebraSocket).Run() })
}

// startBGP starts bgpd and returns when its routes are there.
func (d *frr) startBGP() {
	d.t.Helper()
	d.bgpd = d.start("/usr/lib/frr/bgpd", "-f", "/run/frr/bgpd.conf", "--log", "stdout")
	d.waitRoutes("eth0")
}

// kill ends both without a chance to delete their routes.
func (d *frr) kill() {
	d.t.Helper()
	for _, program := range []*product.Program{d.bgpd, d.zebra} {
		program.Signal(unix.SIGKILL)
		program.WaitEnd()
	}
	d.run("rm", zebraSocket) // which tells when the next one is there
}

// withdraw has the preferred router withdraw its default routes.
func (d *frr) withdraw() {
	d.t.Helper()
	d.upstream.run("birdc", "-s", "/run/bird.ctl", "disable", `"default*"`)
	d.waitRoutes("eth1")
}

// announce has it announce them again.
func (d *frr) announce() {
	d.t.Helper()
	d.upstream.run("birdc", "-s", "/run/bird.ctl", "enable", `"default*"`)
	d.waitRoutes("eth0")
}

// waitRoutes returns when FRR's default routes lead by an interface.
func (d *frr) waitRoutes(device string) {
	d.t.Helper()
	await.Eventually(d.t, "FRR's routes lead by "+device, func() error {
		routes := d.routes("bgp")
		if strings.Count(routes, "default ") != 2 || strings.Count(routes, " dev "+device+" ") != 2 {
			return errors.New(routes)
		}
		return nil
	})
}

// TestFRR has FRR learn default routes from both routers by BGP. The preferred router withdraws its own and announces
// them again: replies leave by the interface that was asked all the time.
func TestFRR(t *testing.T) {
	n, _ := newServer(t)
	d := startFRR(t, n)
	eachQuestion(t, n, "by FRR's routes alone", wire.WantLost)
	wantUnchanged(t, n, d.withdraw, d.announce)
}

// TestFRRKilled kills FRR and starts it again. It deletes its earlier routes then and learns them anew. Replies leave
// by eth1 meanwhile, and neither FRR nor replypath touches the other's routes.
func TestFRRKilled(t *testing.T) {
	n, _ := newServer(t)
	d := startFRR(t, n)
	learned := d.routes("bgp")
	p, _ := product.StartOn(t, n.Server.Host)
	eachQuestion(t, n, "beside FRR", wire.WantByEth1)
	wantRoutes(t, "FRR's routes under replypath", d.routes("bgp"), learned)
	if found := p.Examine().Of("default-route", "").With("ok", "metric 20"); len(found) != len(n.Families()) {
		t.Errorf("doctor takes for the default routes of FRR %+v", found)
	}
	own := d.routes(ownProtocol)
	talks := server.KeepTCP(t, n)
	d.kill()
	d.startZebra()
	await.Becomes(t, "earlier routes of zebra", "", func() string { return d.routes("bgp") })
	eachQuestion(t, n, "without a route of FRR", wire.WantByEth1)
	d.startBGP()
	eachQuestion(t, n, "with its routes again", wire.WantByEth1)
	for _, long := range talks {
		t.Logf("%s, open all the time: %d frames of answers", long, len(long.End()))
	}
	// An interface without a default route of others has one of ours meanwhile.
	await.Becomes(t, "routes of replypath", own, func() string { return d.routes(ownProtocol) })
	await.Same(t, "routes of replypath that were made again", 0, p.Metrics().Sum("replypath_host_repairs_total", "object=route"))
	learned = d.routes("bgp")
	p.Expect(0, "detach", "--stop")
	wantRoutes(t, "FRR's routes after detach", d.routes("bgp"), learned)
}

func wantRoutes(t *testing.T, what, got, want string) {
	t.Helper()
	await.Same(t, what, want, got)
}
