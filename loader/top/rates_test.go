// SPDX-License-Identifier: Apache-2.0

package top

import (
	"testing"

	"replypath/loader/counters"
	"replypath/loader/status"
	"replypath/test/await"
)

// counted is what had been counted at a look.
type counted map[counters.Series]uint64

// pair adds to what was counted for an interface pair.
func (c counted) pair(from, to string, asymmetric, packets, bytes uint64) counted {
	c[counters.Series{Of: counters.AsymmetricPackets, From: from, To: to}] = asymmetric
	c[counters.Series{Of: counters.CorrectedPackets, From: from, To: to}] = packets
	c[counters.Series{Of: counters.CorrectedBytes, From: from, To: to}] = bytes
	return c
}

// looked is a look at two interfaces, seconds after the one that counted before.
func looked(seconds float64, before, now counted) *Look {
	interfaces := []status.Interface{{Name: "eth0", Index: 2, Up: true, Attached: true}, {Name: "eth1", Index: 3}}
	l := &Look{Seconds: seconds}
	l.setTraffic(&status.Traffic{Interfaces: interfaces})
	l.setRates(before, now)
	return l
}

func wantRates(t *testing.T, what string, got, want any) {
	t.Helper()
	await.Same(t, what, want, got)
}

// asymmetry has the reasons that there are, of which mtu is one.
func asymmetry(packets, mtu float64) Asymmetry {
	a := newAsymmetry()
	a.Packets, a.Uncorrected["mtu"] = packets, mtu
	return a
}

func TestRates(t *testing.T) {
	mtu := counters.Series{Of: counters.UncorrectedPackets, From: "eth0", To: "eth1", Value: "mtu"}
	before := counted{mtu: 10}.pair("eth0", "eth1", 100, 90, 9000).pair("eth1", "eth1", 5, 5, 50)
	now := counted{mtu: 14}.pair("eth0", "eth1", 124, 110, 11000).
		pair("eth1", "eth1", 7, 7, 70). // to another next hop of its own
		pair("", "eth0", 2, 2, 200).    // replypath0; new
		pair("eth0", "gone", 6, 6, 60)
	l := looked(2, before, now)
	wantRates(t, "to eth0", l.Interfaces[0].To, Volume{1, 100})
	wantRates(t, "from eth0", l.Interfaces[0].From, Volume{13, 1030})
	wantRates(t, "of eth0", l.Interfaces[0].Asymmetry, asymmetry(1, 0))
	wantRates(t, "to eth1", l.Interfaces[1].To, Volume{11, 1010})
	wantRates(t, "from eth1", l.Interfaces[1].From, Volume{1, 10})
	wantRates(t, "of eth1", l.Interfaces[1].Asymmetry, asymmetry(13, 2))
	wantRates(t, "in all", l.Total, Total{Volume{15, 1140}, asymmetry(17, 2)})
}

// Nothing is known of counters that began anew, nor of what was before the first look.
func TestNoRates(t *testing.T) {
	many, few := counted{}.pair("eth0", "eth1", 9, 9, 9), counted{}.pair("eth0", "eth1", 3, 3, 3)
	for what, l := range map[string]*Look{
		"anew": looked(1, many, few), "unchanged": looked(1, many, many), "first": looked(0, nil, many),
	} {
		wantRates(t, what, l.Total, Total{Asymmetry: newAsymmetry()})
	}
	await.Same(t, "rate without an earlier look", 0, new(Look).rate(0, 3))
}
