// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/traffic"
)

// TestBystanders: they are the veth and tap devices that a scan has left out, and follow events.
func TestBystanders(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name far0
addr add 10.1.0.1/24 dev eth0
link add br0 type bridge
`)
	tap := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TAP}
	tap.Name = "tap0"
	await.Must(t, h.Do(func() error { return h.Netlink().LinkAdd(tap) }))
	b := scan(t, h, config.Default()).Bystanders
	for name, want := range map[string]bool{"eth0": false, "far0": true, "br0": false, "tap0": true} {
		link := await.Must1[netlink.Link](t)(h.Netlink().LinkByName(name))
		if got := b.Note(dump.Link{Index: link.Attrs().Index}, false); got != want {
			t.Errorf("%s is a bystander: %v", name, got)
		}
	}
	of := func(kind string) dump.Link { return dump.Link{Index: 7777, Name: "c7", Kind: kind} }
	if b.Note(of("bond"), false) || !b.Note(of("veth"), false) || !b.Note(of(""), false) {
		t.Error("the kind of an interface that has come is not known")
	}
	if !b.Note(of("veth"), true) || b.Note(of(""), false) {
		t.Error("the kind of one that has gone is still known")
	}
	if Bystanders(nil).Note(of("veth"), false) {
		t.Error("before the first scan there is one")
	}
}
