// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"
	"testing"

	"replypath/cmd/replypath/output"
	"replypath/loader/doctor"
	"replypath/test/await"
)

// longFindings need more than a line of 80 characters each.
func longFindings() []doctor.Finding {
	const longest = "enp130s0f1np100" // as IFNAMSIZ allows
	return []doctor.Finding{
		{
			Check: "gateway", Severity: doctor.Error, Interface: new(longest),
			Found:   "gateway 2001:db8:1234:5678:9abc:def0:1234:5678 is failed: it does not answer neighbour discovery",
			Inspect: new("ip neigh show 2001:db8:1234:5678:9abc:def0:1234:5678 dev " + longest + "  # whether it answers, and by which MAC"),
			Owner:   new("a DHCP client"),
		},
		{
			Check: "rp-filter", Severity: doctor.Warning, Interface: new(longest), Found: "rp_filter of eth1 is strict (all 0, device 1)",
			Fix: new("sysctl -w net.ipv4.conf." + longest + ".rp_filter=2 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"),
		},
		{Check: "mtu", Severity: doctor.OK, Found: "all managed interfaces have the same mtu"},
	}
}

// TestDoctorFits: findings fill the width that there is, commands stay whole.
func TestDoctorFits(t *testing.T) {
	for width, want := range map[int]string{
		80: `error    gateway  enp130s0f1np100
  gateway 2001:db8:1234:5678:9abc:def0:1234:5678 is failed: it does not answer
  neighbour discovery
  inspect: ip neigh show 2001:db8:1234:5678:9abc:def0:1234:5678 dev enp130s0f1np100
  # whether it answers, and by which MAC
  owner: a DHCP client

warning  rp-filter  enp130s0f1np100
  rp_filter of eth1 is strict (all 0, device 1)
  fix: sysctl -w net.ipv4.conf.enp130s0f1np100.rp_filter=2 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0

in order: mtu
`,
		200: `error    gateway  enp130s0f1np100
  gateway 2001:db8:1234:5678:9abc:def0:1234:5678 is failed: it does not answer neighbour discovery
  inspect: ip neigh show 2001:db8:1234:5678:9abc:def0:1234:5678 dev enp130s0f1np100  # whether it answers, and by which MAC
  owner: a DHCP client

warning  rp-filter  enp130s0f1np100
  rp_filter of eth1 is strict (all 0, device 1)
  fix: sysctl -w net.ipv4.conf.enp130s0f1np100.rp_filter=2 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0

in order: mtu
`,
	} {
		page := output.Page{Width: width}
		showFindings(&page, longFindings(), false)
		await.Same(t, fmt.Sprintf("%d characters wide", width), want, page.String())
	}
}

// TestDoctorColour: what is to be done has a colour, commands that are pasted have none.
func TestDoctorColour(t *testing.T) {
	page := output.Page{Width: 80, Colour: true}
	showFindings(&page, longFindings(), false)
	for _, want := range []string{
		"\x1b[31merror    gateway  enp130s0f1np100\x1b[0m\n", "\x1b[33mwarning  rp-filter  enp130s0f1np100\x1b[0m\n", "\n  fix: sysctl ",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%q", want, page.String())
		}
	}
}
