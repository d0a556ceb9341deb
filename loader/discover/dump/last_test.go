// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// routeMessage is one about a route to a network, as change has it.
func routeMessage(network string, change func(*nl.RtMsg, map[uint16][]byte)) []byte {
	to := netip.MustParsePrefix(network)
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Dst_len: uint8(to.Bits()), Table: unix.RT_TABLE_MAIN,
		Protocol: unix.RTPROT_BGP, Type: unix.RTN_UNICAST}}
	attributes := map[uint16][]byte{
		unix.RTA_TABLE: nl.Uint32Attr(unix.RT_TABLE_MAIN), unix.RTA_DST: to.Addr().AsSlice(), unix.RTA_PRIORITY: nl.Uint32Attr(20),
		unix.RTA_OIF: nl.Uint32Attr(2), unix.RTA_GATEWAY: {10, 0, 0, 1},
	}
	if change != nil {
		change(header, attributes)
	}
	message := header.Serialize()
	for _, kind := range []uint16{unix.RTA_TABLE, unix.RTA_DST, unix.RTA_PRIORITY, unix.RTA_GATEWAY, unix.RTA_OIF} {
		if value := attributes[kind]; value != nil {
			message = append(message, nl.NewRtAttr(int(kind), value).Serialize()...)
		}
	}
	return message
}

// TestAnotherRoute: whatever two routes differ in, the second is read as if there were no first; and none is parsed
// whose network alone is another.
func TestAnotherRoute(t *testing.T) {
	type attributes = map[uint16][]byte
	plain := func(network string) []byte { return routeMessage(network, nil) }
	messages := map[string][]byte{
		"route":      plain("10.1.0.0/16"),
		"network":    plain("10.2.0.0/16"),
		"length":     plain("10.1.0.0/24"),
		"type":       routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Type = unix.RTN_BLACKHOLE }),
		"protocol":   routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Protocol = 114 }),
		"tos":        routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Tos = 4 }),
		"source":     routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Src_len = 8 }),
		"table":      routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_TABLE] = nl.Uint32Attr(7) }),
		"metric":     routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_PRIORITY] = nl.Uint32Attr(21) }),
		"device":     routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_OIF] = nl.Uint32Attr(3) }),
		"gateway":    routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_GATEWAY] = []byte{10, 0, 0, 2} }),
		"on-link":    routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_GATEWAY] = nil }),
		"no network": routeMessage("0.0.0.0/0", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_DST] = nil }),
	}
	differInNetwork := []string{"route", "network", "length"}
	for first, message := range messages {
		for second, other := range messages {
			var last lastRoute
			route, err := ParseRoute(message)
			await.Must(t, err)
			last.keep(route, message)
			want, _ := ParseRoute(other)
			got, is := last.another(other)
			want.Another = is
			if wanted := slices.Contains(differInNetwork, first) && slices.Contains(differInNetwork, second); wanted && !is {
				t.Errorf("%s after %s is parsed", second, first)
			}
			if is {
				await.Same(t, second+" after "+first, &want, got)
			}
		}
	}
}
