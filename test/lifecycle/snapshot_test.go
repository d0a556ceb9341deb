// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/traffic"
)

// remains are what a product like this could leave on a host, with how it is taken away.
var remains = []struct{ name, leave, remove string }{
	{"a qdisc", "tc qdisc add dev eth0 clsact", "tc qdisc del dev eth0 clsact"},
	{"a link", "ip link add left type veth peer name right", "ip link del left"},
	{"an address", "ip address add 192.0.2.1/32 dev eth0", "ip address del 192.0.2.1/32 dev eth0"},
	{"a route", "ip route add 192.0.2.0/24 via 10.2.0.1", "ip route del 192.0.2.0/24"},
	{"an ipv6 route", "ip route add 2001:db8:ff::/64 dev eth1", "ip route del 2001:db8:ff::/64 dev eth1"},
	{"a rule", "ip rule add from 192.0.2.0/24 lookup main", "ip rule del from 192.0.2.0/24 lookup main"},
	{"a sysctl", "sysctl -q -w net.ipv4.conf.eth1.rp_filter=1", "sysctl -q -w net.ipv4.conf.eth1.rp_filter=0"},
	{"a fixed neighbour", fixed("nud permanent"), unfixed},
	{"a neighbour that was learned by somebody", fixed("nud reachable extern_learn"), unfixed},
	{"a neighbour of ipv6", "ip neighbour add 2001:db8:2::77 dev eth1 lladdr 02:00:00:00:ff:02 nud permanent",
		"ip neighbour del 2001:db8:2::77 dev eth1"},
	{"a proxy", "ip neighbour add proxy 192.0.2.1 dev eth1", "ip neighbour del proxy 192.0.2.1 dev eth1"},
}

func fixed(how string) string {
	return "ip neighbour add 10.2.0.77 dev eth1 lladdr 02:00:00:00:ff:01 " + how
}

const unfixed = "ip neighbour del 10.2.0.77 dev eth1"

// TestSnapshot shows that what other tests compare hosts by sees each of these, and
// nothing of what the kernel makes and drops by itself.
func TestSnapshot(t *testing.T) {
	n, _ := newServer(t)
	before := snapshot(t, n)
	for _, remains := range remains {
		host.Shell(t, n.Server.Host, remains.leave)
		if before.Diff(snapshot(t, n)) == "" {
			t.Errorf("%s is not seen", remains.name)
		}
		host.Shell(t, n.Server.Host, remains.remove)
		await.Same(t, remains.name+" is taken away", before, snapshot(t, n))
	}
	for _, f := range n.Families() {
		traffic.Ask(t, conversation(t, n, traffic.TCP, f)) // which has both sides ask for each other
	}
	host.Shell(t, n.Server.Host, "ip neighbour flush dev eth1; ip -6 neighbour flush dev eth1\n"+
		"ip neighbour add 10.2.0.78 dev eth1 lladdr 02:00:00:00:ff:03 nud stale")
	await.Same(t, "what the kernel does by itself is seen", before, snapshot(t, n))
	t.Logf("%d kinds of remains, each seen, 0 differences without them", len(remains))
}

// TestSnapshotOfControlGroups shows the same of the programs that repair source addresses, which stand in a control
// group that all hosts of the machine share: they are seen on their own host, and on no other.
func TestSnapshotOfControlGroups(t *testing.T) {
	n, p := newServer(t)
	other, empty := host.TakeSnapshot(t, n.Client), snapshot(t, n)
	without := "fallback_route: false\nmanage_rp_filter: false\n"
	d := p.Start("--config", product.WriteConfig(t, without+"repair_udp_source: false\n"))
	before := snapshot(t, n)
	d.Kill()
	p.Start("--config", product.WriteConfig(t, without+"repair_udp_source: true\n"))
	seen := 0
	for what := range snapshot(t, n) {
		if _, was := before[what]; !was {
			t.Logf("seen: %s", what)
			seen++
		}
	}
	if seen != 2 { // for each family
		t.Errorf("%d programs are seen", seen)
	}
	await.Same(t, "another host", other, host.TakeSnapshot(t, n.Client))
	p.Expect(0, "detach", "--stop")
	await.Same(t, "host after detach", empty, snapshot(t, n))
}

// TestSnapshotOfAnotherBuild shows the same as TestSnapshotOfControlGroups of programs of other builds, whose constants
// stand elsewhere: so many bytes before the one that tells the network namespace.
func TestSnapshotOfAnotherBuild(t *testing.T) {
	n, _ := newServer(t)
	mount := strings.TrimSpace(host.Shell(t, n.Server.Host, "findmnt --noheadings --first-only --output TARGET --types cgroup2"))
	group := filepath.Join(mount, "replypath-test-"+filepath.Base(t.TempDir()))
	await.Must(t, os.Mkdir(group, 0o755))
	t.Cleanup(func() { await.Must(t, unix.Rmdir(group)) })
	var namespace uint64
	await.Must(t, n.Server.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		namespace, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	}))
	for _, before := range []uint32{0, 64, 512} {
		other, empty := host.TakeSnapshot(t, n.Client), snapshot(t, n)
		value := make([]byte, before+8)
		binary.NativeEndian.PutUint64(value[before:], namespace)
		constants := await.Must1[*ebpf.Map](t)(ebpf.NewMap(&ebpf.MapSpec{
			Name: ".rodata", Type: ebpf.Array, KeySize: 4, ValueSize: before + 8, MaxEntries: 1, Flags: unix.BPF_F_RDONLY_PROG,
			Contents: []ebpf.MapKV{{Key: uint32(0), Value: value}},
		}))
		defer constants.Close()
		program := await.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "replypath_sendmsg4", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupUDP4Sendmsg, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.LoadMapValue(asm.R1, constants.FD(), before), asm.Mov.Imm(asm.R0, 1), asm.Return()},
		}))
		defer program.Close()
		attached := await.Must1[link.Link](t)(link.AttachCgroup(link.CgroupOptions{
			Path: group, Attach: ebpf.AttachCGroupUDP4Sendmsg, Program: program,
		}))
		seen := 0
		for what := range snapshot(t, n) {
			if strings.Contains(what, group) {
				seen++
			}
		}
		if seen != 1 {
			t.Errorf("%d programs are seen", seen)
		}
		await.Same(t, "another host", other, host.TakeSnapshot(t, n.Client))
		await.Must(t, attached.Close())
		await.Same(t, "host without it", empty, snapshot(t, n))
	}
}
