// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"testing"

	"replypath/bpf"
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

func TestTCPFlags(t *testing.T) {
	for bits, want := range map[uint8]string{0: "", 0x02: "S", 0x12: "SA", 0x11: "FA", 0x18: "PA", 0x14: "RA", 0xff: "SFRPAUEW"} {
		if got := tcpFlags(bits); got != want {
			t.Errorf("%#x: %s, want %s", bits, got, want)
		}
	}
}
