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
)

const eth0, eth1 = 2, 3

// newTestRoutes are of a host with eth0 and eth1, whose default routes lead by eth0, and which has a fallback route of
// each family. They ask the kernel nothing.
func newTestRoutes(change func(interfaces []Interface)) *Routes {
	interfaces := []Interface{
		{Interface: discover.Interface{Index: eth0, Name: "eth0", Up: true, MTU: 1500}, Enforces: true},
		{Interface: discover.Interface{Index: eth1, Name: "eth1", Up: true, MTU: 1400}, Enforces: true},
	}
	for i := range interfaces {
		interfaces[i].Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}
	}
	if change != nil {
		change(interfaces)
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
		"no default route, and eth1 gave way last": {func(r *Routes) {
			r.seen.Defaults = nil
			r.host.Journal.Sysctls = []pins.SysctlRecord{{Interface: eth1, Key: "net.ipv4.conf.eth1." + ignoreLinkDown}}
		}, []int{eth1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestRoutes(nil)
			c.change(r)
			var got []int
			for _, device := range []int{eth0, eth1} {
				if r.GivesWay(device, unix.AF_INET) {
					got = append(got, device)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestGivesWayWhereObserved: of an interface that only observes it is told what enforcing would do.
func TestGivesWayWhereObserved(t *testing.T) {
	r := newTestRoutes(func(interfaces []Interface) { interfaces[0].Enforces = false })
	r.seen.families, r.seen.planned = nil, []int{unix.AF_INET}
	if !r.GivesWay(eth0, unix.AF_INET) || r.GivesWay(eth0, unix.AF_INET6) {
		t.Errorf("ipv4 %t, ipv6 %t", r.GivesWay(eth0, unix.AF_INET), r.GivesWay(eth0, unix.AF_INET6))
	}
}

// TestIsActive: a default route by an interface without a carrier is none.
func TestIsActive(t *testing.T) {
	if newTestRoutes(nil).IsActive(unix.AF_INET) {
		t.Error("active beside a default route")
	}
	if !newTestRoutes(func(interfaces []Interface) { interfaces[0].Up = false }).IsActive(unix.AF_INET) {
		t.Error("not active when eth0 is down")
	}
	r := newTestRoutes(nil)
	if r.seen.Defaults = nil; !r.IsActive(unix.AF_INET6) {
		t.Error("not active without a default route")
	}
	if r.seen.families = nil; r.IsActive(unix.AF_INET6) {
		t.Error("active without a fallback route")
	}
}

// TestFamilies: a family without an address has no route.
func TestFamilies(t *testing.T) {
	r := newTestRoutes(nil)
	all := r.host.Interfaces()
	if got := familiesOf(all); !slices.Equal(got, Families) {
		t.Errorf("families %v", got)
	}
	all[0].Addresses, all[1].Addresses = nil, all[1].Addresses[:1]
	if got := familiesOf(all); !slices.Equal(got, []int{unix.AF_INET}) {
		t.Errorf("with an IPv4 address alone %v", got)
	}
}

// TestBoundWanted: a route for bound sockets is wanted where no default route leads by the interface, but not in a VRF.
func TestBoundWanted(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]Interface)
		want   []int
	}{
		"beside the default route": {nil, []int{eth1}},
		"in a VRF":                 {func(interfaces []Interface) { interfaces[1].VRF = 7 }, nil},
		"without an address":       {func(interfaces []Interface) { interfaces[1].Addresses = nil }, nil},
		"without ARP":              {func(interfaces []Interface) { interfaces[1].NoARP = true }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestRoutes(func(interfaces []Interface) {
				for i := range interfaces {
					interfaces[i].MAC = []byte{2, 0, 0, 0, 0, byte(i)}
				}
				if c.change != nil {
					c.change(interfaces)
				}
			})
			var got []int
			for _, hop := range r.bound.hops(r.host.Interfaces(), []int{unix.AF_INET}) {
				got = append(got, hop.Interface)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
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
			r := newTestRoutes(nil)
			c.change(r)
			f := r.Feature()
			if !strings.Contains(f.Effect, c.want) || f.Available != !errors.Is(r.err, errNoKind) {
				t.Errorf("%+v, want %q", f, c.want)
			}
		})
	}
}
