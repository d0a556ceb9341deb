// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
)

// Neighbour is what a program of others makes on a host with two interfaces, by its public sources and in the words of
// commands: it is typed in, as Debian 12 has not the program.
type Neighbour struct {
	Name string // as doctor has it
	// Device leads to a guest, a pod or another machine, whose other end Install makes. A tun's has no Ethernet header.
	Device string
	tun    bool
	// The addresses of the device itself and of the guest, of both families.
	own, guestAt []netip.Prefix
	script       string
	// Devices are those that it makes beside.
	Devices []string
	// SourceEth1 tells that what a guest opens leaves by eth1 and from its address, else by eth0.
	SourceEth1 bool
	// Ways are those of what the host itself sends.
	Ways []Way
}

// Way is the device by which packets with a mark leave for an address. Over is the port of the datagrams that carry
// them, by eth0 to the client's host; 0 for none.
type Way struct {
	Mark, To, Device string
	Over             uint16
}

// Install makes it on a server, and returns the guest's interface.
func (b *Neighbour) Install(t testing.TB, n *topology.TwoNIC) *topology.Interface {
	t.Helper()
	connect := n.Connect
	if b.tun {
		connect = n.ConnectTun
	}
	guest := await.Must1[*topology.Host](t)(n.Host("guest of " + b.Name))
	near, far, err := connect(topology.NIC{Host: n.Server.Host, Name: b.Device, Addresses: b.own},
		topology.NIC{Host: guest, Name: "eth0", Addresses: b.guestAt})
	await.Must(t, err)
	Shell(t, guest, "ip route add default dev eth0; ip -6 route add default dev eth0")
	if !b.tun { // What answers for everybody to a guest's questions is the neighbour's own; this is what it says.
		Shell(t, guest, `
ip route replace default via 169.254.1.1 dev eth0 onlink; ip -6 route replace default via fe80::1 dev eth0
ip neigh add 169.254.1.1 lladdr `+near.MAC.String()+` dev eth0; ip neigh add fe80::1 lladdr `+near.MAC.String()+" dev eth0")
	}
	Shell(t, n.Server.Host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n"+b.script)
	return far
}

func prefixes(texts ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, text := range texts {
		p = append(p, netip.MustParsePrefix(text))
	}
	return p
}

// Tailscale is what tailscaled installs beside its device (wgengine/router/osrouter/router_linux.go,
// util/linuxfw/iptables_runner.go). Its own datagrams have the mark 0x80000, by which they pass table 52.
var Tailscale = &Neighbour{
	Name: "Tailscale", Device: "tailscale0", tun: true,
	own:     prefixes("100.101.102.103/32", "fd7a:115c:a1e0::1/128"),
	guestAt: prefixes("100.101.102.104/32", "fd7a:115c:a1e0::2/128"),
	script: `
ip link set tailscale0 mtu 1280
for family in -4 -6; do
	ip $family rule add pref 5210 fwmark 0x80000/0xff0000 table main
	ip $family rule add pref 5230 fwmark 0x80000/0xff0000 table default
	ip $family rule add pref 5250 fwmark 0x80000/0xff0000 type unreachable
	ip $family rule add pref 5270 table 52
done
ip route add 100.100.100.100/32 dev tailscale0 table 52
ip route add 100.101.102.104/32 dev tailscale0 table 52
ip -6 route add fd7a:115c:a1e0::/48 dev tailscale0 table 52
for tables in iptables ip6tables; do
	for chain in input forward; do $tables -N ts-$chain; done
	$tables -t nat -N ts-postrouting
	$tables -I INPUT -j ts-input
	$tables -I FORWARD -j ts-forward
	$tables -t nat -I POSTROUTING -j ts-postrouting
	$tables -A ts-input -i tailscale0 -j ACCEPT
	$tables -A ts-forward -i tailscale0 -j MARK --set-mark 0x40000/0xff0000
	$tables -A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT
	$tables -A ts-forward -o tailscale0 -j ACCEPT
	$tables -t nat -A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE
	$tables -t mangle -A PREROUTING -m conntrack --ctstate ESTABLISHED,RELATED -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000
	$tables -t mangle -A OUTPUT -m conntrack --ctstate NEW -m mark ! --mark 0x0/0xff0000 -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000
done
iptables -I ts-input ! -i tailscale0 -s 100.64.0.0/10 -j DROP
`,
	Ways: []Way{
		{To: "100.101.102.104", Device: "tailscale0"}, {To: "fd7a:115c:a1e0::2", Device: "tailscale0"},
		{To: "100.101.102.104", Device: "eth0", Mark: "0x80000"}, {To: "fd7a:115c:a1e0::2", Device: "eth0", Mark: "0x80000"},
	},
}

// Cilium is what cilium-agent installs where a pod's address is of a second network interface, with its proxy and IPsec
// (pkg/datapath/linux/linux_defaults, pkg/proxy/routes.go, pkg/datapath/iptables). Its BPF programs are not there:
// routes lead to the pod in their place.
var Cilium = &Neighbour{
	Name: "Cilium", Device: "lxc0123456789ab",
	guestAt: prefixes("10.66.0.7/32", "fd66::7/128"),
	Devices: []string{"cilium_host", "cilium_net", "cilium_vxlan"},
	script: `
ip link add cilium_host type veth peer name cilium_net
ip -6 address add fe80::66/64 dev cilium_net nodad
ip link set cilium_host arp off up; ip link set cilium_net arp off up
ip link add cilium_vxlan type vxlan external dstport 8472; ip link set cilium_vxlan up
ip address add 10.66.0.1/32 dev cilium_host
ip -6 address add fd66::1/128 dev cilium_host nodad
for family in -4 -6; do
	ip $family rule add pref 100 lookup local protocol kernel
	ip $family rule del pref 0
	ip $family rule add pref 1 fwmark 0xe00/0xf00 lookup 200 protocol kernel
	ip $family rule add pref 9 fwmark 0x200/0xf00 lookup 2004 protocol kernel
	ip $family rule add pref 10 fwmark 0xa00/0xf00 lookup 2005 protocol kernel
	ip $family rule add pref 10 fwmark 0xb00/0xf00 lookup 2005 protocol kernel
	ip $family rule add pref 109 iif eth0 fwmark 0x80/0x80 lookup main protocol kernel
	ip $family route add local default dev lo table 2004
done
ip rule add pref 20 to 10.66.0.7 lookup main protocol kernel
ip rule add pref 111 from 10.66.0.7 lookup 11 protocol kernel
ip -6 rule add pref 20 to fd66::7 lookup main protocol kernel
ip -6 rule add pref 111 from fd66::7 lookup 11 protocol kernel
ip route add 10.66.0.1 dev cilium_host table 2005 scope link
ip route add default via 10.66.0.1 dev cilium_host table 2005
ip -6 route add fe80::66 dev cilium_host table 2005
ip -6 route add default via fe80::66 dev cilium_host table 2005
ip route add 10.66.0.7 dev lxc0123456789ab
ip -6 route add fd66::7 dev lxc0123456789ab
ip route add default via 10.2.0.1 dev eth1 table 11
ip -6 route add default via 2001:db8:2::1 dev eth1 table 11
for tables in iptables ip6tables; do
	$tables -t mangle -N CILIUM_PRE_mangle
	$tables -t mangle -A PREROUTING -j CILIUM_PRE_mangle
	$tables -t mangle -A CILIUM_PRE_mangle -i eth0 -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
	$tables -t mangle -A CILIUM_PRE_mangle -i lxc+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
	$tables -t nat -N CILIUM_POST_nat
	$tables -t nat -A POSTROUTING -j CILIUM_POST_nat
done
iptables -t nat -A CILIUM_POST_nat -s 10.66.0.0/24 ! -d 10.66.0.0/16 -o eth+ -j MASQUERADE
ip6tables -t nat -A CILIUM_POST_nat -s fd66::/64 ! -d fd66::/48 -o eth+ -j MASQUERADE
`,
	SourceEth1: true,
	Ways: []Way{
		{To: "10.66.0.7", Device: "lxc0123456789ab"}, {To: "fd66::7", Device: "lxc0123456789ab"},
		{To: "10.66.0.7", Device: "cilium_host", Mark: "0xa00"}, {To: "fd66::7", Device: "cilium_host", Mark: "0xb00"},
	},
}

// Calico is what felix and BIRD install: a pod, a block of another node's by VXLAN, and one by BGP
// (felix/dataplane/linux, felix/rules, confd/etc/calico). Addresses stand here in the place of its sets. Its tunnels by
// WireGuard and IP in IP are left out, as not every kernel that runs tests has them.
var Calico = &Neighbour{
	Name: "Calico", Device: "cali0123456789a",
	guestAt: prefixes("10.244.0.7/32", "fd44::7/128"),
	Devices: []string{"vxlan.calico", "vxlan-v6.calico"},
	script: `
ip link add vxlan.calico type vxlan id 4096 dstport 4789 local 10.1.0.100 nolearning
ip link add vxlan-v6.calico type vxlan id 4097 dstport 4789 local 2001:db8:1::100 nolearning
ip address add 10.244.0.0/32 dev vxlan.calico
ip -6 address add fd44::/128 dev vxlan-v6.calico nodad
ip link set vxlan.calico up; ip link set vxlan-v6.calico up
ip neigh add 10.244.1.0 lladdr 66:00:00:00:00:01 dev vxlan.calico
ip neigh add fd44:0:0:1:: lladdr 66:00:00:00:00:01 dev vxlan-v6.calico
bridge fdb add 66:00:00:00:00:01 dev vxlan.calico dst 10.9.0.100
bridge fdb add 66:00:00:00:00:01 dev vxlan-v6.calico dst 2001:db8:9::100
ip route add 10.244.1.0/26 via 10.244.1.0 dev vxlan.calico onlink proto 80
ip -6 route add fd44:0:0:1::/122 via fd44:0:0:1:: dev vxlan-v6.calico onlink proto 80
ip route add 10.244.2.0/26 via 10.2.0.1 dev eth1 proto bird
ip -6 route add fd44:0:0:2::/122 via 2001:db8:2::1 dev eth1 proto bird
ip route add blackhole 10.244.0.0/26 proto bird
ip -6 route add blackhole fd44::/122 proto bird
ip route add 10.244.0.7 dev cali0123456789a scope link proto 80
ip -6 route add fd44::7 dev cali0123456789a proto 80
for tables in iptables ip6tables; do
	$tables -t raw -N cali-PREROUTING
	$tables -t raw -A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
	$tables -t raw -A cali-PREROUTING -p udp --dport 4789 -j NOTRACK
	$tables -t raw -A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000
	$tables -t raw -A cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP
	$tables -t raw -I PREROUTING -j cali-PREROUTING
	$tables -t mangle -N cali-PREROUTING
	$tables -t mangle -A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$tables -t mangle -I PREROUTING -j cali-PREROUTING
	$tables -N cali-FORWARD
	$tables -A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
	$tables -A cali-FORWARD -i cali+ -j MARK --set-xmark 0x10000/0x10000
	$tables -A cali-FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
	$tables -I FORWARD -j cali-FORWARD
	$tables -t nat -N cali-nat-outgoing
	$tables -t nat -I POSTROUTING -j cali-nat-outgoing
done
iptables -t nat -A cali-nat-outgoing -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
ip6tables -t nat -A cali-nat-outgoing -s fd44::/48 ! -d fd44::/48 -j MASQUERADE
`,
	Ways: []Way{
		{To: "10.244.0.7", Device: "cali0123456789a"}, {To: "fd44::7", Device: "cali0123456789a"},
		{To: "10.244.1.7", Device: "vxlan.calico", Over: 4789}, {To: "fd44:0:0:1::7", Device: "vxlan-v6.calico", Over: 4789},
		{To: "10.244.2.7", Device: "eth1"}, {To: "fd44:0:0:2::7", Device: "eth1"},
	},
}

// Flannel is what flanneld and its CNI plugin install with VXLAN (pkg/backend/vxlan, pkg/trafficmngr/iptables). The
// bridge has no other port than the guest's cable, whose end stands in its place.
var Flannel = &Neighbour{
	Name: "flannel", Device: "cni0",
	own:     prefixes("10.244.0.1/24", "fd44::1/64"),
	guestAt: prefixes("10.244.0.7/24", "fd44::7/64"),
	Devices: []string{"flannel.1", "flannel-v6.1"},
	script: `
ip link add flannel.1 type vxlan id 1 dstport 8472 local 10.1.0.100 nolearning
ip link add flannel-v6.1 type vxlan id 1 dstport 8472 local 2001:db8:1::100 nolearning
ip address add 10.244.0.0/32 dev flannel.1
ip -6 address add fd44::/128 dev flannel-v6.1 nodad
ip link set flannel.1 up; ip link set flannel-v6.1 up
ip neigh add 10.244.1.0 lladdr 66:00:00:00:00:01 dev flannel.1
ip neigh add fd44:0:0:1:: lladdr 66:00:00:00:00:01 dev flannel-v6.1
bridge fdb add 66:00:00:00:00:01 dev flannel.1 dst 10.9.0.100
bridge fdb add 66:00:00:00:00:01 dev flannel-v6.1 dst 2001:db8:9::100
ip route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
ip -6 route add fd44:0:0:1::/64 via fd44:0:0:1:: dev flannel-v6.1 onlink
masquerade() {
	$1 -N FLANNEL-FWD
	$1 -A FORWARD -j FLANNEL-FWD
	$1 -A FLANNEL-FWD -s $2 -j ACCEPT
	$1 -A FLANNEL-FWD -d $2 -j ACCEPT
	$1 -t nat -N FLANNEL-POSTRTG
	$1 -t nat -A POSTROUTING -j FLANNEL-POSTRTG
	$1 -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG -s $3 -d $2 -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG -s $2 -d $3 -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG ! -s $2 -d $3 -j RETURN
	$1 -t nat -A FLANNEL-POSTRTG -s $2 ! -d $4 -j MASQUERADE --random-fully
	$1 -t nat -A FLANNEL-POSTRTG ! -s $2 -d $2 -j MASQUERADE --random-fully
}
masquerade iptables 10.244.0.0/16 10.244.0.0/24 224.0.0.0/4
masquerade ip6tables fd44::/48 fd44::/64 ff00::/8
`,
	Ways: []Way{
		{To: "10.244.0.7", Device: "cni0"}, {To: "fd44::7", Device: "cni0"},
		{To: "10.244.1.7", Device: "flannel.1", Over: 8472}, {To: "fd44:0:0:1::7", Device: "flannel-v6.1", Over: 8472},
	},
}

// Made returns the rules, routes, devices, chains, filters and offloads of a server, without counters.
func Made(t testing.TB, host *topology.Host) string {
	t.Helper()
	return Shell(t, host, `
ip rule show; ip -6 rule show; ip route show table all; ip -6 route show table all; ip -details link show
nft --stateless list ruleset; for device in eth0 eth1; do tc filter show dev $device egress; ethtool -k $device; done
`)
}
