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

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/loader/discover"
	"replypath/loader/gateways"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
	"replypath/test/await"
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
	journal := new(pins.Journal)
	r := New(Host{
		Enabled:    func() bool { return true },
		Interfaces: func() []Interface { return slices.Clone(interfaces) },
		Enforces:   func(device int) bool { return interfaces[device-eth0].Enforces },
		NameOf:     func(device int) string { return interfaces[device-eth0].Name },
		Gateways:   func(int) []*gateways.View { return nil },
		Protocols:  func() []uint8 { return nil },
		Allowance:  func() *rate.Limiter { return rate.NewLimiter(rate.Inf, 1) },
		Journal:    journal, Sysctls: &undo.Sysctls{Records: &journal.Sysctls}, Tx: new(undo.Tx),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	r.device.found = &Device{Index: 9, Kind: "dummy"}
	r.seen.families = Families
	for _, family := range Families {
		r.seen.Defaults = append(r.seen.Defaults, nexthop.Default{Interface: eth0, Family: family})
	}
	return r
}

// TestGivesWay: only the interface that all default routes lead by gives way, and none that another one covers.
func TestGivesWay(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Routes)
		want   []int // interfaces whose IPv4 routes give way
	}{
		"all default routes by eth0": {func(*Routes) {}, []int{eth0}},
		"no fallback route":          {func(r *Routes) { r.seen.families = nil }, nil},
		"of the other family only":   {func(r *Routes) { r.seen.families = []int{unix.AF_INET6} }, nil},
		"another default route by eth1": {func(r *Routes) {
			r.seen.Defaults = append(r.seen.Defaults, nexthop.Default{Interface: eth1, Family: unix.AF_INET})
		}, nil},
		"eth1 has a route to eth0's network": {func(r *Routes) {
			r.seen.Covered = []nexthop.Covered{{Interface: eth0, Family: unix.AF_INET}}
		}, nil},
		"eth0 only observes, and enforcing would make a fallback route": {func(r *Routes) {
			r.host.Enforces = func(int) bool { return false }
			r.seen.families, r.seen.planned = nil, []int{unix.AF_INET}
		}, []int{eth0}},
		"eth0 only observes, and enforcing would make none": {func(r *Routes) { r.host.Enforces = func(int) bool { return false } }, nil},
		"no default route, and eth1 gave way last": {func(r *Routes) {
			r.seen.Defaults = nil
			r.host.Journal.Sysctls = []pins.SysctlRecord{{Interface: eth1, Key: "net.ipv4.conf.eth1." + ignoreLinkDown}}
		}, []int{eth1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestRoutes()
			c.change(r)
			var got []int
			for _, device := range []int{eth0, eth1} {
				if r.GivesWay(device, unix.AF_INET) {
					got = append(got, device)
				}
			}
			await.Same(t, "routes", c.want, got)
		})
	}
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
		"covered": {func(r *Routes) {
			r.seen.Covered = []nexthop.Covered{{Interface: eth0, Family: unix.AF_INET}}
		}, "when the carrier is lost of eth0 (ipv4) only while a daemon runs"},
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
