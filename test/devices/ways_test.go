// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"testing"

	"replypath/test/await"
	"replypath/test/short"
	"replypath/test/topology"
)

// ways are those by production and by replication.
type ways struct {
	name                    string
	production, replication way
}

// eachWays mends a site of each of them, a quick run one of the first.
func eachWays(t *testing.T, all []ways) {
	t.Helper()
	if short.Run(t) {
		all = all[:1]
	}
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) { newSite(t, w.production, w.replication).wantMended(t) })
	}
}

// ethernet is a plain cable.
func ethernet(s *site, name string, network int) *topology.Interface {
	s.t.Helper()
	return s.cable(s.ends(name, network))
}

// tun is a device without an Ethernet header.
func tun(s *site, name string, network int) *topology.Interface {
	s.t.Helper()
	server, router := s.ends(name, network)
	i, _, err := s.ConnectTun(server, router)
	await.Must(s.t, err)
	return i
}

// trunk is a cable without addresses, for VLANs. The interface is the server's.
func trunk(s *site, name string) *topology.Interface {
	s.t.Helper()
	server, router := s.ends(name, 0)
	server.Addresses, router.Addresses = nil, nil
	return s.cable(server, router)
}

// vlanOn is a VLAN on a cable.
func vlanOn(cable func(*site) *topology.Interface, id int) way {
	return func(s *site, name string, network int) *topology.Interface {
		s.t.Helper()
		parent := cable(s)
		server := made[*topology.Interface](s.t, "VLAN (8021q)")(parent.AddVLAN(name, id, addresses(network, serverNumber)...))
		router := await.Must1[*topology.Interface](s.t)(parent.Peer().AddVLAN(name, id, addresses(network, routerNumber)...))
		server.PeerWith(router)
		return server
	}
}

// vlan is one with a cable of its own.
func vlan(id int) way {
	return func(s *site, name string, network int) *topology.Interface {
		s.t.Helper()
		return vlanOn(func(s *site) *topology.Interface { return trunk(s, name+"trunk") }, id)(s, name, network)
	}
}

// bond is one of two cables to a bridge of the router's.
func bond(s *site, name string, network int) *topology.Interface {
	s.t.Helper()
	b := made[*topology.Interface](s.t, "bonding")(s.Server.AddBond(name))
	bridge := await.Must1[*topology.Bridge](s.t)(s.Router.AddBridge(name, addresses(network, routerNumber)...))
	for _, port := range []string{name + "a", name + "b"} {
		i := await.Must1[*topology.Interface](s.t)(bridge.Connect(topology.NIC{Host: s.Server, Name: port}))
		await.Must(s.t, i.Enslave(b))
	}
	for _, a := range addresses(network, serverNumber) {
		await.Must(s.t, b.AddAddress(a))
		b.Addresses = append(b.Addresses, a)
	}
	b.PeerWith(bridge.Interface)
	await.Must(s.t, b.WaitReady(await.Within(s.t, await.AnswerTime)))
	readMAC(s.t, b)
	return b
}

// readMAC notes the MAC that a device has now.
func readMAC(t *testing.T, i *topology.Interface) {
	t.Helper()
	link, err := i.Link()
	await.Must(t, err)
	i.MAC = link.Attrs().HardwareAddr
}

// TestTun has one of the ways, or both, without an Ethernet header.
func TestTun(t *testing.T) {
	eachWays(t, []ways{
		{"replication by tun", ethernet, tun}, {"production by tun", tun, ethernet}, {"both by tun", tun, tun},
	})
}
