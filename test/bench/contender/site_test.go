// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	for index, want := range map[uint32]string{
		0: "10.128.0.0", 1: "10.128.0.1", 1 << 16: "10.129.0.0", 1<<22 - 1: "10.191.255.255", 1 << 22: "10.128.0.0",
	} {
		if got := IPv4.ClientAt(index); got.String() != want || !IPv4.peers.Contains(got) {
			t.Errorf("client %d is %s, want %s", index, got, want)
		}
	}
	if got := StrayAt(1<<32 - 1); got.String() != "10.255.255.255" || !IPv4.peers.Contains(got) || IPv4.clients.Contains(got) {
		t.Errorf("the last stray is %s", got)
	}
	for _, a := range []Addresses{IPv4, IPv6} {
		if a.ClientAt(1) != a.Peer {
			t.Errorf("%s is not the client", a.Peer)
		}
		if got := a.ClientAt(1<<32 - 1); !a.clients.Contains(got) || a.clients.Contains(got.Next()) || !a.peers.Contains(got) {
			t.Errorf("the last client is %s", got)
		}
	}
}

func TestCheckWay(t *testing.T) {
	for _, c := range []struct {
		way        Way
		eth0, eth1 uint64
		right      bool
	}{
		{ByEth1, 0, 1000, true}, {ByEth1, 15, 1000, true}, {ByEth1, 500, 1000, false}, {ByEth1, 1000, 0, false},
		{ByEth0, 1000, 0, true}, {ByEth0, 0, 1000, false}, {ByEth1, 0, 0, false},
	} {
		contender := Contender{Name: "x", Way: c.way}
		err := contender.CheckWay(Sent{Eth0: 5, Eth1: 7}, Sent{Eth0: 5 + c.eth0, Eth1: 7 + c.eth1})
		if (err == nil) != c.right {
			t.Errorf("way %d, %d by eth0, %d by eth1: %v", c.way, c.eth0, c.eth1, err)
		}
	}
}

func TestConfiguration(t *testing.T) {
	if text := configuration(Options{}); text != "" {
		t.Errorf("the defaults are %q", text)
	}
	if text := configuration(Options{Flows: 10_000}); text != "" {
		t.Errorf("for 10,000 flows, which the defaults have room for: %q", text)
	}
	if text := configuration(Options{Flows: 1_000_000}); !strings.Contains(text, "max_entries: 2000000") {
		t.Errorf("for 1,000,000 flows: %q", text)
	}
}

// TestNamed keeps the order in which contenders take turns.
func TestNamed(t *testing.T) {
	found, err := Named(Replypath, Static)
	if err != nil || len(found) != 2 || found[0].Name != Static {
		t.Errorf("%+v, %v", found, err)
	}
}
