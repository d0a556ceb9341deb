// SPDX-License-Identifier: Apache-2.0

// Package testhost is a host that doctor has nothing to say of, changes that are problems, and what tests want of
// findings.
package testhost

import (
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/nexthop"
	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// The indices of the fixture's interfaces.
const (
	lo   = 1
	Eth0 = 2
	Eth1 = 3
)

// New is B of scenario S1, with nothing wrong about it.
func New() *snapshot.Host {
	h := &snapshot.Host{Settings: snapshot.Settings{}}
	h.Config, h.ConfigPath = config.Default(), "/etc/replypath/replypath.yaml"
	h.Devices = []snapshot.Device{
		{Index: lo, Name: "lo"},
		{Index: Eth0, Name: "eth0", Addresses: Prefixes("10.3.0.100/24", "2001:db8:3::100/64")},
		{Index: Eth1, Name: "eth1", Addresses: Prefixes("10.4.0.100/24", "2001:db8:4::100/64")},
	}
	h.TCX, h.HasUnit = true, true
	h.Rules = []snapshot.Rule{
		{Family: unix.AF_INET, Priority: 32766, Table: unix.RT_TABLE_MAIN},
		{Family: unix.AF_INET6, Priority: 32766, Table: unix.RT_TABLE_MAIN},
	}
	h.Routes = []snapshot.Route{Via("10.3.0.1", Eth0), Via("2001:db8:3::1", Eth0)}
	h.Gateways = []nexthop.Gateway{
		{Interface: Eth0, Address: Address("10.3.0.1"), State: nexthop.StateReachable, IPv4: true},
		{Interface: Eth1, Address: Address("10.4.0.1"), State: nexthop.StateReachable, IPv4: true},
	}
	for _, d := range h.Devices[1:] {
		h.Interfaces = append(h.Interfaces, discover.Interface{
			Index: d.Index, Name: d.Name, MTU: 1500, Up: true, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(d.Index)},
			Addresses: d.Addresses, Settings: config.Interface{Name: d.Name, NextHop: config.NextHopAuto},
		})
		for _, p := range d.Addresses {
			h.OnLink = append(h.OnLink, discover.OnLink{Interface: d.Index, Prefix: p.Masked()})
			h.Own = append(h.Own, discover.OwnAddress{Address: p.Addr(), Interface: d.Index})
		}
		for _, leaf := range snapshot.Leaves["ipv4"] {
			h.Settings["net.ipv4.conf."+d.Name+"."+leaf] = 0
			h.Settings["net.ipv4.conf.all."+leaf] = 0
		}
		for _, leaf := range snapshot.Leaves["ipv6"] {
			h.Settings["net.ipv6.conf."+d.Name+"."+leaf] = 0
			h.Settings["net.ipv6.conf.all."+leaf] = 0
		}
	}
	return h
}

// Does has a datapath be there, whose daemon runs and which does what a status is changed to.
func Does(change func(*status.Status)) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		h.Status = &status.Status{Daemon: status.Daemon{Running: true}}
		for _, i := range h.Interfaces {
			h.Status.Interfaces = append(h.Status.Interfaces, status.Interface{Name: i.Name, Index: i.Index, Attached: true, Up: true, Mode: "enforce"})
		}
		change(h.Status)
	}
}

// AddVirtual puts an address on lo.
func AddVirtual(h *snapshot.Host, text string) {
	h.Devices[0].Addresses = append(h.Devices[0].Addresses, Prefix(text+"/32"))
	h.Own = append(h.Own, discover.OwnAddress{Address: Address(text), LoopbackOnly: true})
}

// Via is a default route in the main table.
func Via(gateway string, device int) snapshot.Route {
	r := snapshot.Route{Family: unix.AF_INET, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: Prefix("0.0.0.0/0"), Device: device}
	if gateway != "" {
		r.Gateway = Address(gateway)
		r.Family = snapshot.FamilyOf(netip.PrefixFrom(r.Gateway, r.Gateway.BitLen()))
	}
	if r.Family == unix.AF_INET6 {
		r.Dst = Prefix("::/0")
	}
	return r
}

// Limited has the routes of a table limit what goes by them.
func Limited(table int, limits dump.Limits) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		for n := range h.Routes {
			if h.Routes[n].Table == table {
				h.Routes[n].Limits = limits
			}
		}
	}
}

// Address parses an address.
func Address(text string) netip.Addr { return netip.MustParseAddr(text) }

// Prefix parses a prefix.
func Prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// Prefixes parses several.
func Prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, Prefix(text))
	}
	return list
}

// Lines writes findings as "error eth1: found => fix ?? inspect @ owner".
func Lines(findings []finding.Finding) []string {
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

// Wants is a snapshot with what a check finds in it. As an alias it may be written without keys elsewhere.
type Wants = struct {
	Name   string
	Change func(*snapshot.Host)
	Want   []string
}

// Check wants of a check what the table says.
func Check(t *testing.T, check func(*snapshot.Host) []finding.Finding, table []Wants) {
	t.Helper()
	for _, test := range table {
		t.Run(test.Name, func(t *testing.T) {
			h := New()
			if test.Change != nil {
				test.Change(h)
			}
			found := check(h)
			await.Same(t, "(-want +got)", test.Want, Lines(found))
			WantForm(t, found)
			wantMended(t, h, check, found)
		})
	}
}

// wantMended sets the sysctls of fixes in a snapshot, and wants none left to be set.
func wantMended(t *testing.T, h *snapshot.Host, check func(*snapshot.Host) []finding.Finding, found []finding.Finding) {
	t.Helper()
	for _, f := range found {
		if setting, is := strings.CutPrefix(finding.OrEmpty(f.Fix), "sysctl -w "); is {
			key, value, _ := strings.Cut(setting, "=")
			h.Settings[key] = await.Must1[int](t)(strconv.Atoi(value))
		}
	}
	if left := Lines(check(h)); strings.Contains(strings.Join(left, "\n"), "sysctl -w ") {
		t.Errorf("still there when they are set: %q", left)
	}
}

// WantForm wants what every finding has to keep.
func WantForm(t *testing.T, findings []finding.Finding) {
	t.Helper()
	for _, f := range findings {
		if f.Found == "" || strings.ContainsAny(f.Found, "\n\t") {
			t.Errorf("not one line: %q", f.Found)
		}
		if f.Severity == finding.OK && f.Fix != nil {
			t.Errorf("in order, and yet to be mended: %+v", f)
		}
		if f.Severity != finding.OK && f.Fix == nil && f.Inspect == nil {
			t.Errorf("a problem, and nothing says what to do or where to look: %+v", f)
		}
		for _, text := range []*string{f.Fix, f.Inspect, f.Owner} {
			if text != nil && (*text == "" || *text != strings.TrimSpace(*text) || strings.ContainsAny(*text, "\n\t")) {
				t.Errorf("not one line: %q", *text)
			}
		}
		wantShell(t, finding.OrEmpty(f.Fix))
		wantShell(t, finding.OrEmpty(f.Inspect))
		if word := product.TakesAway(finding.OrEmpty(f.Fix)); word != "" {
			t.Errorf("a fix that takes traffic away, by %q: %+v", word, f)
		}
	}
}

// wantShell wants a command that the shell can read, or a change of the configuration.
func wantShell(t *testing.T, command string) {
	t.Helper()
	if strings.Contains(command, " in /etc/replypath/replypath.yaml, then systemctl reload replypath") {
		return
	}
	if output, err := exec.Command("sh", "-nc", command).CombinedOutput(); command != "" && err != nil {
		t.Errorf("%q: %v\n%s", command, err, output)
	}
}

// NewNetwork returns a host with interfaces in a namespace of its own.
func NewNetwork(t *testing.T) (*topology.Network, *topology.Host) {
	t.Helper()
	n := traffic.NewNetwork(t)
	h := await.Must1[*topology.Host](t)(n.Host("host"))
	far := await.Must1[*topology.Host](t)(n.Host("far"))
	for _, name := range []string{"eth0", "eth1"} {
		if _, _, err := n.Connect(topology.NIC{Host: h, Name: name}, topology.NIC{Host: far, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	return n, h
}

// Run runs a program on a host.
func Run(t *testing.T, h *topology.Host, stdin, name string, args ...string) {
	t.Helper()
	c := h.Command(t.Context(), name, args...)
	c.Stdin = strings.NewReader(stdin)
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, stdin, output)
	}
}
