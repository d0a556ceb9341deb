// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/hex"
	"testing"
)

const (
	macs     = "020000000301" + "020000000200"
	ipv4From = "0800" + "4500002800004000400600000a0400640a020064" // TCP, 10.4.0.100 > 10.2.0.100
	ipv6From = "86dd" + "6000000000083a4020010db800040000000000000000010020010db8000200000000000000000100"
	synACK   = "1b589c410000000000000001501200000000" + "0000"
	reply    = "8100000000010000"
	request  = "8000000000010000"
)

func TestDecode(t *testing.T) {
	for name, test := range map[string]struct{ frame, want string }{
		"a SYN-ACK":        {macs + ipv4From + synACK, "tcp S. 10.4.0.100:7000 > 10.2.0.100:40001"},
		"an echo reply":    {macs + ipv6From + reply, "icmpv6  [2001:db8:4::100]:0 > [2001:db8:2::100]:0"},
		"an echo request":  {macs + ipv6From + request, ""},
		"an ARP request":   {macs + "0806" + "0001080006040001", ""},
		"IPv4 without end": {macs + "0800" + "4f00", ""},
	} {
		data, err := hex.DecodeString(test.frame)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if f := decode(data); f != nil {
			got = f.Protocol + " " + f.TCPFlags.String() + " " + f.Source.String() + " > " + f.Destination.String()
			if f.SourceMAC.String() != "02:00:00:00:02:00" || f.DestinationMAC.String() != "02:00:00:00:03:01" {
				t.Errorf("%s: from %s to %s", name, f.SourceMAC, f.DestinationMAC)
			}
		}
		if got != test.want {
			t.Errorf("%s: %q, not %q", name, got, test.want)
		}
		for length := range data { // none may panic
			decode(data[:length])
		}
	}
}
