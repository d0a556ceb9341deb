// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// elsewhereName has an address of each family behind the default routes.
const elsewhereName = "elsewhere.test"

// looks are how other software looks for the default route, or for a way to somebody.
var looks = map[string]func(*bed) string{
	"flannel, docker (netlink, table main)": func(b *bed) string {
		var all []string
		routes := await.Must1[[]netlink.Route](b)(b.net.Server.Netlink().RouteList(nil, netlink.FAMILY_ALL))
		for _, r := range routes {
			if r.Dst == nil || r.Dst.IP.IsUnspecified() || r.Protocol == 114 {
				all = append(all, r.String())
			}
		}
		return fmt.Sprint(all)
	},
	"kubelet (/proc/net/route)":      shellLook("cat /proc/net/route"),
	"kubelet (/proc/net/ipv6_route)": shellLook(`awk '$1 ~ /^0+$/ && $5 !~ /^0+$/ { print $1, $5, $6, $10 }' /proc/net/ipv6_route`),
	"ip route":                       shellLook("ip route show default; ip -6 route show default"),
	"ansible (ip route get)":         shellLook("ip route get 8.8.8.8 2>&1 || true; ip -6 route get 2404:6800:400a:800::1012 2>&1 || true"),
	"getaddrinfo of glibc": func(b *bed) string {
		file := filepath.Join(b.TempDir(), "hosts")
		text := fmt.Sprintf("%s %s\n%s %s\n", elsewhere[topology.IPv6], elsewhereName, elsewhere[topology.IPv4], elsewhereName)
		await.Must(b, os.WriteFile(file, []byte(text), 0o600))
		return host.Shell(b, b.net.Server.Host, fmt.Sprintf("unshare -m sh -c 'mount --bind %s /etc/hosts && getent ahosts %s'", file, elsewhereName))
	},
	"connect": func(b *bed) string {
		var all []string
		for _, f := range traffic.Families {
			for _, kind := range []traffic.Kind{traffic.UDP, traffic.TCP} {
				conn, err := b.net.Server.Dial(await.Within(b, inVain), string(kind), netip.AddrPortFrom(elsewhere[f], discardPort).String())
				said := fmt.Sprint(err)
				if errno := unix.Errno(0); errors.As(err, &errno) {
					said = unix.ErrnoName(errno)
				} else if err == nil {
					said = netip.MustParseAddrPort(conn.LocalAddr().String()).Addr().String()
					conn.Close()
				}
				all = append(all, string(kind)+": "+said)
				if kind == traffic.UDP && err == nil {
					break // there is a route: what its router says of TCP differs from time to time
				}
			}
		}
		return fmt.Sprint(all)
	},
}

func shellLook(script string) func(*bed) string {
	return func(b *bed) string { return host.Shell(b, b.net.Server.Host, script) }
}

func (b *bed) look() map[string]string {
	b.Helper()
	seen := map[string]string{}
	for name, look := range looks {
		seen[name] = look(b)
	}
	return seen
}

// lacks are the families that a host has no default route of.
var lacks = map[string][]topology.Family{
	"no default route":        traffic.Families,
	"no IPv4 default route":   {topology.IPv4},
	"no IPv6 default route":   {topology.IPv6},
	"a default route of each": nil,
}

// TestUnseen has other software look for default routes, and choose by them, before the start, afterwards, while flows are
// served, and after detach: it finds and does the same. Before, replypath0, eth0 and eth1 appeared as default routes, and getaddrinfo put
// IPv6 first.
func TestUnseen(t *testing.T) {
	t.Parallel()
	quick := short.Run(t)
	for name, families := range lacks {
		if quick && len(families) == 1 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, topology.IPv4, anySource)
			beds := b.inBoth()
			for _, f := range families {
				beds[slices.Index(traffic.Families, f)].removeDefault()
			}
			before := b.look()
			whole := host.TakeSnapshot(t, b.net.Server.Host, "eth0", "eth1")
			b.start()
			b.wantSeen("after the start", before)
			wires, answers := wire.Tap(t, b.net.Server), 0
			for _, each := range beds {
				each.product = b.product
				for _, c := range each.fresh() {
					each.ask(c)
					answers += len(wires.WantEth1(c.String(), c.Answers()))
				}
			}
			b.wantSeen("while flows are served", before)
			b.product.Expect(0, "detach", "--stop")
			b.wantSeen("after detach", before)
			b.wantSnapshot(whole)
			t.Logf("%s: %d looks see the same three times, %d answers by eth1", name, len(before), answers)
		})
	}
}

func (b *bed) wantSeen(when string, before map[string]string) {
	b.Helper()
	now := b.look()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if now[name] != before[name] {
			b.Errorf("%s, %s:\n%s\nbefore:\n%s", when, name, now[name], before[name])
		}
	}
}

// TestNoRuleBesideADefaultRoute: each lookup pays for rules, so that there are none on a host with default routes, until IPv6
// sockets are bound to an interface, and none any more once a default route is back.
func TestNoRuleBesideADefaultRoute(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, anySource)
		before := b.ip("rule")
		b.start()
		if now := b.ip("rule"); now != before {
			t.Errorf("beside a default route there are the rules\n%s", now)
		}
		b.removeDefault()
		b.awaitRules(true)
		b.askFresh("without a default route")
		host.Shell(t, b.net.Server.Host, fmt.Sprintf("ip -%c rule flush protocol 114", f.String()[3]))
		b.awaitRules(true)                           // they are put back
		b.ip("rule add prio 40000 fwmark 9 table 7") // somebody else's stays
		b.addDefault()
		b.awaitRules(false)
		if now := b.ip("rule"); strings.Contains(now, "114114") || !strings.Contains(now, "fwmark") {
			t.Errorf("afterwards there are the rules\n%s", now)
		}
		b.askFresh("with a default route again")
	})
}
