// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"replypath/loader/discover"
	"replypath/loader/gateways"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

const eth0, eth1 = 2, 3

// newTestRoutes are of a host with eth0 and eth1, whose default routes lead by eth0, and which has a fallback route of
// each family. They ask the kernel nothing.
func newTestRoutes() *Routes {
	interfaces := []Interface{
		{Interface: discover.Interface{Index: eth0, Name: "eth0", Up: true, MTU: 1500}, Enforces: true},
		{Interface: discover.Interface{Index: eth1, Name: "eth1", Up: true, MTU: 1400}, Enforces: true},
	}
	for i := range interfaces {
		interfaces[i].Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}
	}
	r := New(Host{
		Enabled:    func() bool { return true },
		Interfaces: func() []Interface { return slices.Clone(interfaces) },
		NameOf:     func(device int) string { return interfaces[device-eth0].Name },
		Gateways:   func(int) []*gateways.View { return nil },
		Protocols:  func() []uint8 { return nil },
		Allowance:  func() *rate.Limiter { return rate.NewLimiter(rate.Inf, 1) },
		Journal:    new(pins.Journal), Tx: new(undo.Tx),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	r.device.found = &Device{Index: 9, Kind: "dummy"}
	r.seen.families = Families
	for _, family := range Families {
		r.seen.Defaults = append(r.seen.Defaults, nexthop.Default{Interface: eth0, Family: family})
	}
	return r
}

func TestFeature(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Routes)
		want   string
	}{
		"on":                 {func(*Routes) {}, "on: without a default route replies are built for replypath0, of kind dummy"},
		"off":                {func(r *Routes) { r.host.Enabled = func() bool { return false } }, "off: replies end"},
		"nothing to enforce": {func(r *Routes) { r.device.found = nil }, "off: nothing is enforced"},
		"failed":             {func(r *Routes) { r.err = errors.Join(errNoKind, errors.New("more")) }, "neither dummy nor ifb devices: load one of these modules; more"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestRoutes()
			c.change(r)
			f := r.Feature()
			if !strings.Contains(f.Effect, c.want) || f.Available != !errors.Is(r.err, errNoKind) {
				t.Errorf("%+v, want %q", f, c.want)
			}
		})
	}
}
