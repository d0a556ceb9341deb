// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"testing"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/traffic"
)

// TestBystanders: an event about an interface passes only where a scan would leave that out before and after.
func TestBystanders(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name far0
addr add 10.1.0.1/24 dev eth0
link add cali7 type veth peer name far7
addr add 10.7.0.1/24 dev cali7
link add br0 type bridge
link add port0 type veth peer name far1
addr add 10.8.0.1/24 dev port0
link set port0 master br0
`)
	indexOf := func(name string) int {
		link, err := h.Netlink().LinkByName(name)
		await.Must(t, err)
		return link.Attrs().Index
	}
	const unknown = 9999
	for _, test := range []struct {
		what    string
		index   int
		name    string
		kind    string
		altName bool
		removed bool
		only    string // the configuration names this one; empty: it names none
		want    bool
	}{
		{what: "a container's, new", index: unknown, name: "c1", kind: "veth", want: true},
		{what: "a machine's, new", index: unknown, name: "tap1", kind: "tun", want: true},
		{what: "it goes before a scan", index: unknown, name: "c1", kind: "veth", removed: true, want: true},
		{what: "left out", index: indexOf("far0"), name: "far0", kind: "veth", want: true},
		{what: "left out, of a message without a kind", index: indexOf("far0"), name: "far0", want: true},
		{what: "left out, it goes", index: indexOf("far0"), name: "far0", kind: "veth", removed: true, want: true},
		{what: "ignored, with an address", index: indexOf("cali7"), name: "cali7", kind: "veth", want: true},
		{what: "ignored, renamed", index: indexOf("cali7"), name: "lan7", kind: "veth"},
		{what: "managed", index: indexOf("eth0"), name: "eth0", kind: "veth"},
		{what: "managed, it goes", index: indexOf("eth0"), name: "eth0", kind: "veth", removed: true},
		{what: "a port with an address, which may have left its bridge", index: indexOf("port0"), name: "port0", kind: "veth"},
		{what: "a bridge", index: indexOf("br0"), name: "br0", kind: "bridge"},
		{what: "a bond, new", index: unknown, name: "bond0", kind: "bond"},
		{what: "hardware, new", index: unknown, name: "eth9"},
		{what: "our own device", index: unknown, name: OwnDevice, kind: "veth"},
		{what: "not named", index: unknown, name: "c1", kind: "veth", only: "eth*", want: true},
		{what: "named", index: unknown, name: "eth7", kind: "veth", only: "eth*"},
		{what: "perhaps named", index: unknown, name: "c1", kind: "veth", altName: true, only: "eth*"},
		{what: "was named", index: indexOf("far7"), name: "c1", kind: "veth", only: "far7"},
	} {
		t.Run(test.what, func(t *testing.T) {
			cfg := config.Default()
			if test.only != "" {
				cfg = named(config.Interface{Name: "eth0"}, config.Interface{Name: test.only})
			}
			found := scan(t, h, cfg)
			if test.what == "was named" { // and could not be managed
				delete(found.Bystanders.chosen, test.index)
				found.Bystanders.left[test.index] = bystander{name: "far7", kind: "veth"}
			}
			link := dump.Link{Index: test.index, Name: test.name, Kind: test.kind, HasAltNames: test.altName}
			if got := found.Bystanders.Note(link, test.removed); got != test.want {
				t.Errorf("it is a bystander: %v", got)
			}
		})
	}
}
