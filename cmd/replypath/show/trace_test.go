// SPDX-License-Identifier: Apache-2.0

package show

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"replypath/loader/trace"
	"replypath/test/await"
	"replypath/test/fakehost"
)

// People get colours, pipes and files do not.
func TestTraceColour(t *testing.T) {
	var out bytes.Buffer
	p := newTracePrinter(&out, &out, true)
	for _, packet := range fakehost.Packets() {
		await.Must(t, p.print(packet))
	}
	for _, want := range []string{"\x1b[32mcorrected\x1b[0m\n", "\x1b[33mfallback (bound_device)\x1b[0m\n", "local-origin\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%q", want, out.String())
		}
	}
}

// farPackets are those of the fake host, then one between long addresses by interfaces with long names.
func farPackets() []trace.Packet {
	const longest = "enp130s0f1np100" // as IFNAMSIZ allows
	packets := fakehost.Packets()[:2]
	far := packets[1]
	far.Peer, far.Self, far.Family = "2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8:4::100", "ipv6"
	far.InterfaceIn, far.Kernel.Interface, far.Out.Interface = new(longest), new("enp130s0f0np100"), new(longest)
	return append(packets, far, packets[1])
}

// TestTraceFits: what matters least goes first, the verdict never goes, and a long row takes nothing from the others.
func TestTraceFits(t *testing.T) {
	for width, want := range map[int]string{
		80: `DIR  PROTOCOL   PEER                IN    KERNEL  OUT   VERDICT
in   tcp[S]     10.1.0.100:50000    eth1  -       -     new
out  tcp[SA]    10.1.0.100:50000    eth1  eth0    eth1  corrected
out  tcp[SA]    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  enp130s0f1np100  enp130s0f0np100  enp130s0f1np100  corrected
out  tcp[SA]    10.1.0.100:50000    eth1  eth0    eth1  corrected
`,
		200: `TIME             DIR  PROTOCOL   PEER                SELF                IN    KERNEL  OUT   MAC                LEFT  VERDICT
12:30:00.000000  in   tcp[S]     10.1.0.100:50000    10.4.0.100:5432     eth1  -       -     02:00:00:00:00:04  -     new
12:30:00.000000  out  tcp[SA]    10.1.0.100:50000    10.4.0.100:5432     eth1  eth0    eth1  02:00:00:00:00:04  yes   corrected
12:30:00.000000  out  tcp[SA]    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  enp130s0f0np100  enp130s0f1np100  02:00:00:00:00:04  yes   corrected
12:30:00.000000  out  tcp[SA]    10.1.0.100:50000    10.4.0.100:5432     eth1  eth0    eth1  02:00:00:00:00:04  yes   corrected
`,
	} {
		t.Setenv("COLUMNS", fmt.Sprint(width))
		var out bytes.Buffer
		p := newTracePrinter(&out, &out, false)
		await.Must(t, p.header())
		for _, packet := range farPackets() {
			packet.Time, packet.Lost = time.Date(2026, time.March, 1, 12, 30, 0, 0, time.Local), 0
			await.Must(t, p.print(packet))
		}
		await.Same(t, fmt.Sprintf("%d characters wide", width), want, out.String())
	}
}
