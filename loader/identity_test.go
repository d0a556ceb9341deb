// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/traffic"
)

// heirs are interfaces that have got the index of eth2, which we had changed, while nobody watched.
var heirs = map[string]func(b *server, index int) (name string){
	"another name": func(b *server, index int) string {
		b.ip("link del eth2")
		return b.addVeth("eth3", index)
	},
	"another mac": func(b *server, index int) string {
		b.ip("link del eth2")
		return b.addVeth("eth2", index)
	},
	"another's mac": func(b *server, index int) string {
		mac := b.linkOf("eth2").Attrs().HardwareAddr
		b.ip("link del eth2")
		b.addVeth("eth3", index)
		await.Must(b.T, b.host.Netlink().LinkSetHardwareAddr(b.linkOf("eth3"), mac))
		return "eth3"
	},
	"eth2 in another namespace": func(b *server, index int) string {
		await.Must(b.T, b.host.Netlink().LinkSetNsFd(b.linkOf("eth2"), int(traffic.NewHost(b.T).Namespace())))
		return b.addVeth("eth3", index)
	},
}

// addVeth adds an interface that nobody manages, as it has no address.
func (b *server) addVeth(name string, index int) string {
	b.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, index
	await.Must(b.T, b.host.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far3"}))
	return name
}

// changed starts and ends a daemon that has made eth2's rp_filter loose, and added the clsact qdisc, and returns the index
// of eth2.
func (b *server) changed(changes ...func(*Options)) (index int) {
	b.Helper()
	b.addEth2(0)
	b.setRPFilter("eth2", 1)
	b.start(append(changes, byClsact)...).stop()
	b.wantRPFilter("to begin with", "eth2", "2")
	return b.linkOf("eth2").Attrs().Index
}

// takeAway are the ways to take everything away.
var takeAway = map[string]struct {
	changes []func(*Options)
	do      func(*server)
}{
	"detach":             {nil, func(b *server) { b.detach() }},
	"the end of a trial": {[]func(*Options){onTrial}, func(b *server) { b.takeBack() }},
}

// TestHeirIsLeftAlone: an index that has become another interface's is no reason to touch that one's sysctl, nor its qdisc,
// though they are what ours were.
func TestHeirIsLeftAlone(t *testing.T) {
	for what, inherit := range heirs {
		for how, away := range takeAway {
			t.Run(what+"/"+how, func(t *testing.T) {
				b := newServer(t)
				heir := inherit(b, b.changed(away.changes...))
				b.setRPFilter(heir, 2)
				b.tc("qdisc add dev " + heir + " clsact")
				changes := b.status().HostChanges
				for _, c := range changes {
					if strings.Contains(c.Object, "eth2") || strings.Contains(c.Undo, heir) {
						t.Errorf("status has what is not going to be undone: %+v", c)
					}
				}
				away.do(b)
				b.wantRPFilter("afterwards", heir, "2")
				if !slices.Contains(b.trace(), heir+" qdisc clsact") {
					t.Errorf("%s has lost its clsact qdisc", heir)
				}
				t.Logf("%d changes of the host in the status, none of eth2 or its heir %s; afterwards its rp_filter and its qdisc are there",
					len(changes), heir)
			})
		}
	}
}

// TestRenamedIsRestored: what was changed is put back under the name that the interface has got, also with another MAC, and
// its old name is another's.
func TestRenamedIsRestored(t *testing.T) {
	for how, away := range takeAway {
		t.Run(how, func(t *testing.T) {
			b := newServer(t)
			b.changed(away.changes...)
			b.rename("eth2", "eth3")
			await.Must(t, b.host.Netlink().LinkSetHardwareAddr(b.linkOf("eth3"), net.HardwareAddr{2, 0, 0, 7, 7, 7}))
			b.addVeth("eth2", 0)
			b.setRPFilter("eth2", 2)
			away.do(b)
			b.wantRPFilter("afterwards", "eth3", "1")
			b.wantRPFilter("afterwards", "eth2", "2")
			if slices.Contains(b.trace(), "eth3 qdisc clsact") {
				t.Error("the clsact qdisc of eth3 is left")
			}
			t.Log("rp_filter is put back under the new name, that of another eth2 is left; our clsact qdisc is gone")
		})
	}
}

func (b *server) rename(from, to string) {
	b.Helper()
	b.ip(fmt.Sprintf("link property add dev %s altname first\nlink set %s name %s", from, from, to))
}

// awaitName waits until the journal has the name that an interface has got.
func (b *server) awaitName(name string) {
	b.Helper()
	eventually(b.T, "the name is seen", func() bool { return len(b.idsOf(name)) > 0 })
}

// TestStatusNamesTheRenamed: what detach is going to undo stands in the status by the name that the interface has now,
// whether or not a daemon has seen that.
func TestStatusNamesTheRenamed(t *testing.T) {
	for _, daemon := range []bool{true, false} {
		t.Run(fmt.Sprintf("daemon: %t", daemon), func(t *testing.T) {
			b := newServer(t)
			b.addEth2(0)
			b.setRPFilter("eth2", 1)
			r := b.start(byClsact)
			if !daemon {
				r.stop()
			}
			before := b.status().HostChanges
			b.rename("eth2", "eth3")
			want := make([]status.HostChange, len(before))
			for i, c := range before {
				c.Object, c.Undo = strings.ReplaceAll(c.Object, "eth2", "eth3"), strings.ReplaceAll(c.Undo, "eth2", "eth3")
				want[i] = c
			}
			await.Same(b, "changes", want, b.status().HostChanges)
			if cmp.Equal(want, before) {
				t.Errorf("nothing of eth2 among %+v", before)
			}
			if daemon {
				b.awaitName("eth3")
				r.stop()
			}
			for _, c := range want {
				if command, is := strings.CutPrefix(c.Undo, "sysctl -w "); is {
					host.Shell(t, b.host, "sysctl -qw '"+command+"'")
				}
			}
			b.wantRPFilter("when all is undone by hand", "eth3", "1")
		})
	}
}
