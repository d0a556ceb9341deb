// SPDX-License-Identifier: Apache-2.0

package topology

import "context"

// Routers is a server with two NICs, one of which has three routers on it:
//
//	                   ┌─ .1 router 1 192.168.1.1 ─┐
//	                   ├─ .2 router 2 192.168.1.2 ─┼─ eth1 192.168.1.100 ┐
//	client 10.9.0.100 ─┼─ .3 router 3 192.168.1.3 ─┘                     server
//	                   └─ .4 production 10.1.0.1 ──── eth0 10.1.0.100 ───┘
//
// IPv6 has 2001:db8:1::/64 for the routers' network, 2001:db8:11::/64 for
// eth0's and 2001:db8:9::/64 for the client's, with the same last digits. The
// server's default route is by eth0, and the client's by production; which
// router brings questions for eth1 is left to the caller. All of them forward
// everything.
type Routers struct {
	*Network
	Server     *Server
	Client     *Host
	Production *Router
	// At are the routers of eth1, and Inside their interfaces there.
	At         [3]*Router
	Inside     [3]*Interface
	ClientEth0 *Interface
}

// NewRouters builds the network and waits until it is ready.
func NewRouters(ctx context.Context) (*Routers, error) {
	b := newBuilder(Options{})
	r := &Routers{Network: b.Network, Server: b.server("server"), Client: b.host("client")}
	r.Production = b.router("production", AnySource)
	for i, name := range []string{"router1", "router2", "router3"} {
		r.At[i] = b.router(name, AnySource)
	}
	b.plug("inside",
		end{&r.Server.Eth1, r.Server.Host, "eth1", "192.168.1.100/24", "2001:db8:1::100/64"},
		end{&r.Inside[0], r.At[0].Host, "inside", "192.168.1.1/24", "2001:db8:1::1/64"},
		end{&r.Inside[1], r.At[1].Host, "inside", "192.168.1.2/24", "2001:db8:1::2/64"},
		end{&r.Inside[2], r.At[2].Host, "inside", "192.168.1.3/24", "2001:db8:1::3/64"})
	b.plug("outside",
		end{&r.ClientEth0, r.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, r.At[0].Host, "outside", "10.9.0.1/24", "2001:db8:9::1/64"},
		end{nil, r.At[1].Host, "outside", "10.9.0.2/24", "2001:db8:9::2/64"},
		end{nil, r.At[2].Host, "outside", "10.9.0.3/24", "2001:db8:9::3/64"},
		end{nil, r.Production.Host, "outside", "10.9.0.4/24", "2001:db8:9::4/64"})
	b.join(
		end{&r.Server.Eth0, r.Server.Host, "eth0", "10.1.0.100/24", "2001:db8:11::100/64"},
		end{nil, r.Production.Host, "server", "10.1.0.1/24", "2001:db8:11::1/64"})
	b.routes(r.Server.Host, "10.1.0.1", "2001:db8:11::1")
	b.routes(r.Client, "10.9.0.4", "2001:db8:9::4")
	return r, b.finish(ctx, "of routers", &r.Server.Eth0)
}
