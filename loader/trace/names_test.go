// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/loader/datapath"
)

func TestEvents(t *testing.T) {
	if isNew(1<<bpf.DatapathEventEVENT_IGNORED_SEGMENT|1<<bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN) || !isNew(1<<bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS) {
		t.Error("what is new is not told from what is not")
	}
	for event, moved := range map[bpf.DatapathEvent]bool{
		bpf.DatapathEventEVENT_MOVED: true,
		bpf.DatapathEventEVENT_MOVED + bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_SCTP): true,
		bpf.DatapathEventEVENT_MOVED + bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_END):  false,
		bpf.DatapathEventEVENT_REFUSED_CONTESTED:                                              false,
	} {
		if hasMoved(1<<event) != moved {
			t.Errorf("event %d: moved is %v", event, !moved)
		}
	}
}

func TestDevice(t *testing.T) {
	n := newNames()
	if name := n.device(0); name != nil {
		t.Errorf("no interface is %s", *name)
	}
	if name := n.device(1); name == nil || *name != "lo" {
		t.Errorf("interface 1 is not lo")
	}
	if name := n.device(1 << 30); name == nil || *name != "if1073741824" {
		t.Errorf("an interface that is gone has no name")
	}
}

func TestTCPFlags(t *testing.T) {
	for bits, want := range map[uint8]string{0: "", 0x02: "S", 0x12: "SA", 0x11: "FA", 0x18: "PA", 0x14: "RA", 0xff: "SFRPAUEW"} {
		if got := tcpFlags(bits); got != want {
			t.Errorf("%#x: %s, want %s", bits, got, want)
		}
	}
}

func TestMasked(t *testing.T) {
	in := func(p netip.Prefix, text string) bool {
		want, mask := datapath.PrefixWords(p)
		a := datapath.Words(netip.MustParseAddr(text).As16())
		return a[0]&mask[0] == want[0] && a[1]&mask[1] == want[1]
	}
	for _, test := range []struct {
		prefix, address string
		matches         bool
	}{
		{"10.1.0.0/16", "10.1.2.3", true},
		{"10.1.0.0/16", "10.2.0.0", false},
		{"0.0.0.0/0", "10.2.0.0", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"2001:db8::/32", "2001:db8::1", true},
		{"2001:db8::/32", "10.0.0.1", false},
		{"10.1.2.3/32", "10.1.2.3", true},
		{"10.1.2.3/32", "10.1.2.2", false},
	} {
		if got := in(netip.MustParsePrefix(test.prefix), test.address); got != test.matches {
			t.Errorf("%s in %s: %v", test.address, test.prefix, got)
		}
	}
	if !in(netip.Prefix{}, "10.0.0.1") || !in(netip.Prefix{}, "2001:db8::1") {
		t.Error("without a prefix not everything matches")
	}
}
