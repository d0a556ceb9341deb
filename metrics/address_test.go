// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/traffic"
)

// At boot the daemon may be there before its address is.
func TestServeUntilAddressAppears(t *testing.T) {
	for _, text := range []string{"192.0.2.1", "2001:db8::1"} {
		t.Run(text, func(t *testing.T) {
			host := traffic.NewHost(t)
			lo := await.Must1[netlink.Link](t)(host.Netlink().LinkByName("lo"))
			o := options(t)
			o.Listen = net.JoinHostPort(text, "9945")
			reports, end := serveUntil(t, o, func(do func()) {
				if err := host.Do(func() error { do(); return nil }); err != nil {
					t.Error(err)
				}
			})
			wantReport(t, reports, syscall.EADDRNOTAVAIL)
			ip := netip.MustParseAddr(text)
			added := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}}
			await.Must(t, host.Netlink().AddrAdd(lo, added))
			wantReport(t, reports, nil)
			client := &http.Client{Timeout: deadline, Transport: &http.Transport{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					return host.Dial(ctx, network, address)
				},
			}}
			request := newRequest(t, fmt.Sprintf("http://%s/metrics", o.Listen))
			if status, body := fetch(t, client, request); status != http.StatusOK {
				t.Errorf("got %d: %s", status, body)
			}
			end()
		})
	}
}
