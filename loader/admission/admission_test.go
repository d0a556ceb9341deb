// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/test/await"
)

// TestRecords: a relay's DHCP has two unicast addresses and is recorded as any other, so that no reload forgets it.
func TestRecords(t *testing.T) {
	self := netip.MustParseAddr("10.4.0.100")
	rules := &Rules{Own: func(a netip.Addr) (flags bpf.DatapathOwnFlags) {
		if a == self {
			flags = bpf.DatapathOwnFlagsOWN_ADDRESS
		}
		return flags
	}}
	rules.Settings.Protocols[unix.IPPROTO_UDP/8] = 1 << (unix.IPPROTO_UDP % 8)
	for tuple, want := range map[Tuple]bool{
		{unix.IPPROTO_UDP, netip.MustParseAddrPort("10.9.0.1:67"), netip.AddrPortFrom(self, 67), 1}:   true,
		{unix.IPPROTO_UDP, netip.MustParseAddrPort("10.9.0.1:68"), netip.AddrPortFrom(self, 67), 1}:   true,
		{unix.IPPROTO_UDP, netip.MustParseAddrPort("0.0.0.0:68"), netip.AddrPortFrom(self, 67), 1}:    false,
		{unix.IPPROTO_TCP, netip.MustParseAddrPort("10.9.0.1:1024"), netip.AddrPortFrom(self, 80), 1}: false,
		{unix.IPPROTO_UDP, netip.AddrPortFrom(self, 1024), netip.AddrPortFrom(self, 53), 1}:           false,
	} {
		got, err := rules.Records(&tuple)
		await.Must(t, err)
		await.Same(t, tuple.Peer.String(), want, got)
	}
}
