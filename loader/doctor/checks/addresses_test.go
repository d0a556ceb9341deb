// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"net/netip"
	"testing"

	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/sockets"
	"replypath/test/testhost"
)

func TestConnectedSockets(t *testing.T) {
	at := netip.MustParseAddrPort
	connected := sockets.Socket{Local: at("10.3.0.100:5201"), Remote: at("10.1.0.100:4000")}
	flow := flows.Flow{Protocol: "udp", Peer: "10.1.0.100", PeerPort: 4000, Self: "10.4.0.100", SelfPort: 5201, Interface: new("eth1")}
	having := func(list ...sockets.Socket) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Sockets, h.ProcessOf = list, func(*sockets.Socket) string { return "iperf3" }
		}
	}
	with := func(f flows.Flow, list ...sockets.Socket) func(*snapshot.Host) {
		return testhost.And(having(list...), func(h *snapshot.Host) { h.Flows = []flows.Flow{f} })
	}
	unknown := func(h *snapshot.Host) { h.ProcessOf = func(*sockets.Socket) string { return "" } }
	const show = " ?? ss -uanp 'sport = :5201'  # who has the socket: bind it to the address of the requests"
	const suspicious = " has a connected socket 10.3.0.100:5201 to 10.1.0.100:4000 beside a wildcard one: if a request went to another address, its answers have a wrong source"
	testhost.Check(t, ConnectedSockets, []testhost.Wants{
		{"asked on another address", with(flow, connected), []string{
			"error eth1: iperf3 on udp port 5201 answers 10.1.0.100:4000 from 10.3.0.100, but the request went to 10.4.0.100: it connects its wildcard socket, and only its own settings change that" +
				" ?? ss -uanp 'sport = :5201'  # who has the socket: have it bind to 10.4.0.100 @ iperf3",
		}},
		{"by an unknown process", testhost.And(with(flow, connected), unknown), []string{
			"error eth1: udp port 5201 answers 10.1.0.100:4000 from 10.3.0.100, but the request went to 10.4.0.100: it connects its wildcard socket, and only its own settings change that" +
				" ?? ss -uanp 'sport = :5201'  # who has the socket: have it bind to 10.4.0.100",
		}},
		{"asked on this address", func(h *snapshot.Host) { f := flow; f.Self = "10.3.0.100"; with(f, connected)(h) }, nil},
		{"tcp", func(h *snapshot.Host) { f := flow; f.Protocol = "tcp"; with(f, connected)(h) }, nil},
		{"no flow", having(connected), nil},
		{"beside a wildcard", testhost.And(having(connected, sockets.Socket{Local: at("0.0.0.0:5201")}), unknown), []string{"warning: udp port 5201" + suspicious + show}},
		{"beside a dual wildcard", having(connected, sockets.Socket{Local: at("[::]:5201")}), []string{"warning: iperf3 on udp port 5201" + suspicious + show + " @ iperf3"}},
		{"beside one that is bound", having(connected, sockets.Socket{Local: at("10.4.0.100:5201")}), nil},
		{"one interface", func(h *snapshot.Host) {
			having(connected, sockets.Socket{Local: at("0.0.0.0:5201")})(h)
			h.Interfaces = h.Interfaces[:1]
		}, nil},
		{"on loopback", having(sockets.Socket{Local: at("127.0.0.1:53"), Remote: at("127.0.0.1:4000")}, sockets.Socket{Local: at("0.0.0.0:53")}), nil},
	})
}

func TestTranslatedAddresses(t *testing.T) {
	translated := func(changes ...func(*snapshot.Host)) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Translations = []snapshot.Translation{{Address: testhost.Address("198.51.100.7"), Target: testhost.Address("10.17.0.100"), Count: 3}}
			testhost.And(changes...)(h)
		}
	}
	network := testhost.Prefixes("198.51.100.0/28")
	testhost.Check(t, TranslatedAddresses, []testhost.Wants{
		{"nothing is translated", nil, nil},
		{"nobody names it", translated(), []string{
			"warning: 198.51.100.7 is translated to 10.17.0.100 (3 connections): no interface has it, and no rule names it: replies go as routed" +
				" => add \"198.51.100.7\" to addresses in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"the configuration names it", translated(func(h *snapshot.Host) { h.Config.Addresses = network }), nil},
		{"a rule names it", translated(func(h *snapshot.Host) { h.Firewall.Translated = network }), nil},
		{"a local route", translated(func(h *snapshot.Host) { h.OwnPrefixes = []discover.OwnPrefix{{Prefix: network[0]}} }), nil},
		{"an interface has it", translated(func(h *snapshot.Host) {
			h.Own = append(h.Own, discover.OwnAddress{Address: testhost.Address("198.51.100.7")})
		}), nil},
	})
}
