// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// boundPort is where a server listens whose sockets are bound to eth1 (SO_BINDTODEVICE).
const boundPort = 7007

// far are networks behind eth1's gateway, by whose routes it is known.
var far = map[topology.Family]string{topology.IPv4: "10.77.0.0/16", topology.IPv6: "2001:db8:77::/48"}

// boundKinds are asked of sockets: the kernel's own for pings are bound to nothing.
var boundKinds = []traffic.Kind{traffic.TCP, traffic.UDP}

func newBoundBed(t *testing.T, f topology.Family) *bed {
	t.Helper()
	b := newBed(t, f, anySource)
	eth1 := b.net.Server.Eth1
	b.ip("route add", far[f], "via", eth1.Gateway(f).String(), "dev eth1")
	b.routes = b.showRoutes()
	at := netip.AddrPortFrom(eth1.Address(f), boundPort)
	traffic.ServeAt(t, b.net.Server.Host, at, topology.BindToDevice("eth1"))
	return b
}

func (b *bed) boundConversation(kind traffic.Kind) *traffic.Conversation {
	b.Helper()
	c := b.conversation(kind)
	c.Self = netip.AddrPortFrom(c.Self.Addr(), boundPort)
	return c
}

// wantNoBoundAnswer: no route leads the answers of a socket that is bound to eth1 out of it, and the fallback route is no
// help.
func (b *bed) wantNoBoundAnswer(what string) {
	b.Helper()
	asked, answered, frames := 0, 0, 0
	for _, kind := range boundKinds {
		wires, c := wire.Tap(b, b.net.Server), b.boundConversation(kind)
		asked++
		if err := wire.AskUntilLost(b, c, wires.Eth1, c.Questions()); err == nil {
			answered++
			b.Errorf("%s: %s was answered", what, c)
		}
		eth0, eth1 := wires.Left(c.Answers())
		if len(eth0)+len(eth1) > 0 {
			b.Errorf("%s: answers left: %s, %s", what, wire.Describe(eth0), wire.Describe(eth1))
		}
		frames += len(eth0) + len(eth1)
	}
	b.Logf("%s: %d sockets asked that are bound to eth1, %d answered, %d frames of answers left", what, asked, answered, frames)
}

// TestBoundRoute has the route come and go with its reasons. While eth0 has no default route what the host starts still does
// not leave by eth1.
func TestBoundRoute(t *testing.T) {
	eachFamily(t, testBoundRoute)
}

func testBoundRoute(t *testing.T, f topology.Family) {
	b := newBoundBed(t, f)
	before := host.TakeSnapshot(t, b.net.Server.Host, "eth0", "eth1")
	config := product.WriteConfig(t, "")
	b.wantNoBoundAnswer("without replypath")
	d := b.start("--config", config)
	b.awaitBoundRoute("at the start", true)
	b.forgetClient()
	wires, open := wire.Tap(t, b.net.Server), b.boundConversation(traffic.TCP)
	for _, step := range []func(){func() {}, b.removeDefault, b.addDefault} {
		step()
		for _, c := range []*traffic.Conversation{open, b.boundConversation(traffic.TCP), b.boundConversation(traffic.UDP)} {
			b.askPromptly(c.String(), c)
			wires.WantEth1(c.String(), c.Answers())
		}
		b.sendUnasked()
	}
	b.wantNoLeak("without a default route by eth0", wires.Eth1)

	own := "default via " + b.net.Server.Eth1.Gateway(b.family).String() + " dev eth1 metric "
	release := product.Quiet(t)
	began := time.Now()
	b.ip("route del", map[topology.Family]string{topology.IPv4: "default", topology.IPv6: "2000::/3"}[f], "dev eth1 metric 4294967295 table 114114")
	b.awaitBoundRoute("after somebody has deleted it", true)
	took := time.Since(began)
	release()
	t.Logf("deleted: back after %s", took.Round(time.Millisecond))
	if took > backWithin {
		t.Error("that is too late")
	}
	d.WaitLog(2, "sockets that are bound to the interface have a default route", "family="+b.family.String())
	b.ip("route add", own+"5000")
	b.awaitBoundRoute("beside a default route by eth1", false)
	b.ip("route del", own+"5000")
	b.awaitBoundRoute("without that", true)
	b.reload(d, config, "fallback_route: false\n")
	b.awaitBoundRoute("with fallback_route: false", false)
	b.wantNoBoundAnswer("with fallback_route: false")
	b.reload(d, config, "mode: observe\n")
	b.awaitBoundRoute("in mode observe", false)
	b.reload(d, config, "interfaces: [{name: eth0}, {name: eth1, mode: observe}]\n")
	b.awaitBoundRoute("with eth1 in mode observe", false)
	b.reload(d, config, "")
	b.awaitBoundRoute("as at first", true)
	b.undoBoundRoute()
	b.product.Expect(0, "detach", "--stop")
	b.wantSnapshot(before)
	b.product.Start("--config", config).Kill()
	b.awaitBoundRoute("without a daemon", true)
	for _, kind := range boundKinds {
		b.ask(b.boundConversation(kind))
	}
	b.product.Expect(0, "detach")
	b.wantSnapshot(before)
}

// forgetClient ends what the kernel began before there was a route: it took the client for a neighbour by the device that the
// socket is bound to, and asks for it three times, a second apart (ip_route_output_key_hash_rcu() in net/ipv4/route.c).
func (b *bed) forgetClient() {
	b.Helper()
	b.ip("neighbour flush dev eth1 to", b.clientAddress().String())
}

// undoBoundRoute does what the status says that undoes the route, which comes back: it is the route that it tells of.
func (b *bed) undoBoundRoute() {
	b.Helper()
	for _, change := range b.product.Status().HostChanges {
		if !strings.HasPrefix(change.Object, b.family.String()+" default route by eth1") {
			continue
		}
		host.Shell(b, b.net.Server.Host, change.Undo) // fails where there is no such route
		b.awaitBoundRoute("after it was undone", true)
		return
	}
	b.Errorf("the status does not tell of the route by eth1: %+v", b.product.Status().HostChanges)
}

func (b *bed) awaitBoundRoute(when string, want bool) {
	b.Helper()
	b.Eventually("the route by eth1 "+when, func() error {
		routes := b.ip("route show table 114114 dev eth1 proto 114")
		if strings.Contains(routes, "metric 4294967295") != want {
			return fmt.Errorf("wanted %t: %q", want, routes)
		}
		return nil
	})
}
