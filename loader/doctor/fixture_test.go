package doctor

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
	"replypath/test/harness"
)

// newHost is B of scenario S1, with nothing wrong about it.
func newHost() *Host {
	h := &Host{Settings: Settings{}}
	h.Config, h.ConfigPath = config.Default(), "/etc/replypath/replypath.yaml"
	h.Devices = []Device{
		{Index: lo, Name: "lo"},
		{Index: eth0, Name: "eth0", Addresses: prefixes("10.3.0.100/24", "2001:db8:3::100/64")},
		{Index: eth1, Name: "eth1", Addresses: prefixes("10.4.0.100/24", "2001:db8:4::100/64")},
	}
	h.TCX = true
	h.Rules = []Rule{
		{Family: unix.AF_INET, Priority: 32766, Table: unix.RT_TABLE_MAIN},
		{Family: unix.AF_INET6, Priority: 32766, Table: unix.RT_TABLE_MAIN},
	}
	h.Routes = []Route{via("10.3.0.1", eth0), via("2001:db8:3::1", eth0)}
	h.Gateways = []nexthop.Gateway{
		{Interface: eth0, Address: address("10.3.0.1"), State: nexthop.StateReachable, IPv4: true},
		{Interface: eth1, Address: address("10.4.0.1"), State: nexthop.StateReachable, IPv4: true},
	}
	for _, d := range h.Devices[1:] {
		h.Interfaces = append(h.Interfaces, discover.Interface{
			Index: d.Index, Name: d.Name, MTU: 1500, Up: true, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(d.Index)},
			Addresses: d.Addresses, Settings: config.Interface{Name: d.Name, NextHop: config.NextHopAuto},
		})
		for _, p := range d.Addresses {
			h.OnLink = append(h.OnLink, discover.OnLink{Interface: d.Index, Prefix: p.Masked()})
			h.Own = append(h.Own, discover.OwnAddress{Address: p.Addr()})
		}
		for _, leaf := range leaves["ipv4"] {
			h.Settings["net.ipv4.conf."+d.Name+"."+leaf] = 0
			h.Settings["net.ipv4.conf.all."+leaf] = 0
		}
		for _, leaf := range leaves["ipv6"] {
			h.Settings["net.ipv6.conf."+d.Name+"."+leaf] = 0
			h.Settings["net.ipv6.conf.all."+leaf] = 0
		}
	}
	return h
}

// addVirtual puts an address on lo.
func addVirtual(h *Host, text string) {
	h.Devices[0].Addresses = append(h.Devices[0].Addresses, prefix(text+"/32"))
	h.Own = append(h.Own, discover.OwnAddress{Address: address(text), LoopbackOnly: true})
}

// via is a default route in the main table.
func via(gateway string, device int) Route {
	r := Route{Family: unix.AF_INET, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: prefix("0.0.0.0/0"), Device: device}
	if gateway != "" {
		r.Gateway = address(gateway)
		r.Family = familyOf(netip.PrefixFrom(r.Gateway, r.Gateway.BitLen()))
	}
	if r.Family == unix.AF_INET6 {
		r.Dst = prefix("::/0")
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func address(text string) netip.Addr { return netip.MustParseAddr(text) }

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, prefix(text))
	}
	return list
}

// lines writes findings as "error eth1: found => fix ?? inspect @ owner".
func lines(findings []Finding) []string {
	var list []string
	for _, f := range findings {
		line := string(f.Severity)
		if f.Interface != nil {
			line += " " + *f.Interface
		}
		line += ": " + f.Found
		for _, part := range []struct {
			sign string
			text *string
		}{{" => ", f.Fix}, {" ?? ", f.Inspect}, {" @ ", f.Owner}} {
			if part.text != nil {
				line += part.sign + *part.text
			}
		}
		list = append(list, line)
	}
	return list
}

// wants is a snapshot with what a check finds in it.
type wants struct {
	name   string
	change func(*Host)
	want   []string
}

func runTable(t *testing.T, check func(*Host) []Finding, table []wants) {
	t.Helper()
	for _, test := range table {
		t.Run(test.name, func(t *testing.T) {
			h := newHost()
			if test.change != nil {
				test.change(h)
			}
			found := check(h)
			if diff := cmp.Diff(test.want, lines(found)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			wantForm(t, found)
		})
	}
}

// wantForm wants what every finding has to keep.
func wantForm(t *testing.T, findings []Finding) {
	t.Helper()
	for _, f := range findings {
		if f.Found == "" || strings.ContainsAny(f.Found, "\n\t") {
			t.Errorf("not one line: %q", f.Found)
		}
		if f.Severity == OK && f.Fix != nil {
			t.Errorf("in order, and yet to be mended: %+v", f)
		}
		if f.Severity != OK && f.Fix == nil && f.Inspect == nil {
			t.Errorf("a problem, and nothing says what to do or where to look: %+v", f)
		}
		for _, text := range []*string{f.Fix, f.Inspect, f.Owner} {
			if text != nil && (*text == "" || *text != strings.TrimSpace(*text) || strings.ContainsAny(*text, "\n\t")) {
				t.Errorf("not one line: %q", *text)
			}
		}
		if word := harness.TakesAway(orEmpty(f.Fix)); word != "" {
			t.Errorf("a fix that takes traffic away, by %q: %+v", word, f)
		}
		if f.Automatic && len(f.sysctls) == 0 {
			t.Errorf("mended by itself, and there is nothing to set: %+v", f)
		}
	}
}

func samePrefix(a, b netip.Prefix) bool { return a == b }

// The indices of the fixture's interfaces.
const (
	lo   = 1
	eth0 = 2
	eth1 = 3
)
