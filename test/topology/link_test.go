// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestConnect(t *testing.T) {
	n := newNetwork(t)
	a := must1[*Host](t)(n.Host("a"))
	b := must1[*Host](t)(n.Host("b"))
	chosen := net.HardwareAddr{2, 0, 0, 0xbe, 0xef, 1}
	ia, ib, err := n.Connect(
		NIC{Host: a, Name: "eth0.1", MAC: chosen, MTU: 9000},
		NIC{Host: b, Name: "eth0", MTU: 9000},
	)
	must(t, err)
	must(t, n.WaitReady(within(t, setUpTime)))
	if ia.Peer() != ib || ib.Peer() != ia {
		t.Error("the ends do not know each other")
	}
	for _, c := range []struct {
		i   *Interface
		mac string
	}{{ia, chosen.String()}, {ib, "02:00:00:00:02:00"}} {
		link, err := c.i.Link()
		must(t, err)
		attrs := link.Attrs()
		if attrs.MTU != 9000 || attrs.HardwareAddr.String() != c.mac || c.i.MAC.String() != c.mac {
			t.Errorf("%s has mtu %d and mac %s, not 9000 and %s", c.i.Name, attrs.MTU, attrs.HardwareAddr, c.mac)
		}
	}
	if _, _, err := n.Connect(NIC{Host: a, Name: "eth0.1"}, NIC{Host: b, Name: "eth1"}); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, _, err := n.Connect(NIC{Host: a}, NIC{Host: b, Name: "eth1"}); err == nil {
		t.Error("an interface without a name was made")
	}
}

func TestInterfaceChanges(t *testing.T) {
	_, a, b := newPair(t)
	must(t, b.SetDown())
	ctx, cancel := context.WithTimeout(t.Context(), silenceTime)
	defer cancel()
	if err := a.WaitReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready without a carrier: %v", err)
	}
	must(t, b.SetUp())
	must(t, a.WaitReady(within(t, answerTime)))

	replacement := net.HardwareAddr{2, 0, 0, 0, 0xff, 0}
	must(t, b.SetMAC(replacement))
	must(t, b.SetMTU(1400))
	extra := netip.MustParsePrefix("2001:db8:1::3/64")
	must(t, b.AddAddress(extra))
	must(t, b.WaitReady(within(t, answerTime)))
	c := capture(t, b)
	must(t, askPing(within(t, answerTime), a.Host, extra.Addr()))
	if n := c.Count(All(EchoRequest, ToMAC(replacement))); n != 1 {
		t.Errorf("%d requests to the new mac, not 1", n)
	}
	must(t, b.RemoveAddress(extra))

	nobody := netip.MustParseAddr("10.1.0.77")
	must(t, a.AddNeighbour(nobody, replacement))
	_ = askPing(within(t, silenceTime), a.Host, nobody)
	if n := c.Count(All(EchoRequest, To(nobody), ToMAC(replacement))); n != 1 {
		t.Errorf("%d requests to the neighbour, not 1", n)
	}
}

func TestResolve(t *testing.T) {
	_, a, b := newPair(t)
	for _, f := range []Family{IPv4, IPv6} {
		must(t, a.Resolve(within(t, answerTime), b.Address(f)))
		nobody := b.Address(f).Next()
		if err := a.Resolve(within(t, silenceTime), nobody); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("resolved %s, where nobody is: %v", nobody, err)
		}
	}
}

func TestSwitch(t *testing.T) {
	n := newNetwork(t)
	lan := must1[*Switch](t)(n.Switch("lan"))
	var nics []*Interface
	for i, name := range []string{"a", "b", "c"} {
		h := must1[*Host](t)(n.Host(name))
		nic := must1[*Interface](t)(lan.Connect(NIC{Host: h, Name: "eth0", Addresses: n.hostAddresses(1, i+1)}))
		nics = append(nics, nic)
	}
	must(t, n.WaitReady(within(t, setUpTime)))
	for _, f := range []Family{IPv4, IPv6} {
		port := capture(t, nics[1].Peer())
		other := capture(t, nics[2])
		for _, to := range nics[1:] {
			must(t, askPing(within(t, answerTime), nics[0].Host, to.Address(f)))
		}
		pings := Between(nics[0].Address(f), nics[1].Address(f))
		if sent, received := port.Count(All(EchoRequest, pings, Going(Sent))), port.Count(All(EchoReply, pings, Going(Received))); sent != 1 || received != 1 {
			t.Errorf("%s: the port sent %d requests and received %d answers, not 1 and 1", f, sent, received)
		}
		if n := other.Count(All(OneOf(EchoRequest, EchoReply), pings)); n != 0 {
			t.Errorf("%s: %d frames reached a third host", f, n)
		}
	}
}
