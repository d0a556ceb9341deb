// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/bpf"
)

// unlearnt has the loader know nothing of an address that eth1 has.
func (b *bed) unlearnt(n network) {
	b.t.Helper()
	b.must(b.OwnAddresses.Delete(bpf.DatapathAddress{Bytes: n.self.As16()}))
}

// TestAddressComes: an address that the interface has, and the loader has not told of, is the
// host's from the first packet on.
func TestAddressComes(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		want := b.starts(n, m, b.replication)
		b.unlearnt(n)
		b.run(ingress(b.replication, n.in(b.replication, m)), want)
		if !b.isOwn(n.self) {
			t.Error("the address is not known afterwards")
		}
	})
}

// TestAddressOfAnother: what another interface has, or only lo, is not.
func TestAddressOfAnother(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.unlearnt(n)
		b.run(ingress(b.backup, n.in(b.backup, m)), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		b.run(ingress(b.replication, n.at(n.stranger).in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		if b.isOwn(n.self) || b.isOwn(n.stranger) {
			t.Error("an address is known that the interface does not have")
		}
	})
}

// TestAddressComesUnmanaged: nothing is looked up where the device is gone, or another one.
func TestAddressComesUnmanaged(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.unlearnt(n)
		b.must(host.Do(func() error { return b.SetDevice(uint32(b.replication.interfaceIndex), 0) }))
		b.run(ingress(b.replication, n.in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
	})
}

// TestAddressComesLocked: nor where the kernel's memory cannot be read.
func TestAddressComesLocked(t *testing.T) {
	for _, n := range networks {
		b := newBed(t, oldKernel)
		b.unlearnt(n)
		b.run(ingress(b.replication, n.in(b.replication, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
	}
}

// TestAddressComesAmongMany: the addresses that an interface has before are stepped over.
func TestAddressComesAmongMany(t *testing.T) {
	const before = 40 // beside those that are there
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		last := n
		for i := range before {
			address := netip.MustParseAddr(fmt.Sprintf("10.77.0.%d", i+1))
			if n.family == 6 {
				address = netip.MustParseAddr(fmt.Sprintf("2001:db8:77::%x", i+1))
			}
			b.must(host.AddAddress(host.Devices[1], address))
			t.Cleanup(func() { b.must(host.RemoveAddress(host.Devices[1], address)) })
			last = n.at(address)
		}
		b.run(ingress(b.replication, last.in(b.replication, syn)), b.starts(last, syn, b.replication))
		b.run(ingress(b.replication, n.at(n.stranger).in(b.replication, syn)), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
	})
}

// TestAddressComesAfterAll: that an address was none of ours is remembered for a moment, in which a
// SYN is looked at all the same, and by another interface's packets whatever.
func TestAddressComesAfterAll(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.unlearnt(n)
		foreign := func(via nic) {
			b.run(ingress(via, n.in(via, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		}
		b.must(host.Do(func() error { return b.SetDevice(uint32(b.replication.interfaceIndex), 0) }))
		foreign(b.backup)
		foreign(b.replication)
		b.must(host.Do(func() error { return b.SetDevice(uint32(b.replication.interfaceIndex), b.replication.Index) }))
		b.run(ingress(b.replication, n.in(b.replication, syn)), b.starts(n, syn, b.replication))
		b.run(ingress(b.replication, n.in(b.replication, udp{})), b.admits(n, udp{}, b.replication))
	})
}

// TestForeignForAMoment: without a SYN it is looked at again soon.
func TestForeignForAMoment(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		forwarded := n.at(n.stranger)
		r := ingress(b.replication, forwarded.in(b.replication, udp{}))
		b.run(r, unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		const most = 2 * 8 // ticks: moment() in src/negative_cache.h
		for began := b.ago(0); b.ago(0)-began < most; {
		}
		b.run(r, unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
	})
}

// TestHostSpeaksFromUnknown: what the host itself sends from an address that nobody knows of yet is
// its own beginning, and says nothing of the address. What it forwards does.
func TestHostSpeaksFromUnknown(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		other := udp{ports: ports{peer: 999}}
		want := b.admits(n, other, b.replication)
		b.unlearnt(n)
		b.keepPeriod()
		b.run(egress(b.production, n.out(b.production, udp{})), nothing)
		b.run(ingress(b.replication, n.in(b.replication, udp{})), nothing)
		b.run(ingress(b.replication, n.in(b.replication, other)), want)

		forwarded := n.at(n.stranger)
		out := egress(b.production, forwarded.out(b.production, udp{}))
		out.ingress = b.backup
		b.run(out, nothing)
		b.run(ingress(b.backup, forwarded.in(b.backup, other)), nothing)
	})
}

// TestConnectionOfUnknown: the connection that the host opened from such an address is one that it opened.
func TestConnectionOfUnknown(t *testing.T) {
	for _, n := range networks {
		t.Run(fmt.Sprint(n.family), func(t *testing.T) {
			b := newBed(t, normal)
			self, peer := netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort)
			c := connection{received: 1000, acked: 2000, window: 65000}
			fd := connectTCP(t, self, peer, c)
			t.Cleanup(func() { closeSocket(t, fd) })
			b.unlearnt(n)
			b.run(egress(b.production, n.out(b.production, syn)), nothing)
			r := ingress(b.replication, n.in(b.replication, tcp{flags: "A", seq: c.received, ack: c.acked}))
			b.run(r, effect{
				events: once(bpf.DatapathEventEVENT_ADMITTED_OUTBOUND),
				tables: func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(tcp{}))] = justNow },
			})
		})
	}
}
