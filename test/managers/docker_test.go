// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"testing"

	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// dockerd keeps images in plain directories, as its file system may be an overlay already. Where a network has IPv6
// addresses, they are translated too.
const dockerd = "dockerd --storage-driver=vfs --experimental --ip6tables"

const (
	// translated is a port of a network with addresses of both families.
	translated = 80
	// proxied is a port of Docker's usual network, which has no IPv6: docker-proxy takes what arrives by it.
	proxied = 81
)

// TestDocker publishes ports of Docker's containers.
func TestDocker(t *testing.T) {
	n, _ := newServer(t)
	// Another Docker's may come first in PATH.
	e := startEngine(t, n, []string{"/usr/bin/docker", "--host=unix:///run/docker.sock"}, dockerd, "API listen on")
	e.load()
	e.do("network create --ipv6 --subnet 10.17.0.0/24 --subnet 2001:db8:17::/64 both")
	e.publish(translated, "--network both")
	e.publish(proxied, "")
	e.wantServed(wantLostOrStrange, "docker0", "br-", "veth")
}

// wantLostOrStrange is harness.WantLost, but for datagrams of docker-proxy: they come from the address of eth0.
func wantLostOrStrange(t testing.TB, s *topology.Server, c *traffic.Conversation) {
	t.Helper()
	if c.Kind != traffic.UDP || c.Self.Addr().Is4() || c.Self.Port() != proxied {
		wire.WantLost(t, s, c)
		return
	}
	wires := wire.Tap(t, s)
	strange := c.Behind(s.Eth0.Address(topology.IPv6)).Answers()
	if err := wire.AskUntilLost(t, c, wires.Eth0, strange); err == nil {
		t.Errorf("%s was answered", c)
	}
	wires.WantEth0(c.String()+", from another address", strange)
}
