// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

const multusPage = "multi-nic-pods"

// newPod builds a node with two interfaces and a pod as Multus makes one: its eth0 is a veth pair to the node, with the
// default route, and its net1 is a macvlan of the node's eth1, with an address of that network and no route but its own.
func newPod(t *testing.T) (pod *topology.Server, client *topology.Interface) {
	t.Helper()
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	node := n.Server
	host := harness.Must1[*topology.Host](t)(n.Host("pod"))
	eth0, _, err := n.Connect(
		topology.NIC{Host: host, Name: "eth0", Addresses: prefixes("10.244.1.100/24", "2001:db8:244:1::100/64")},
		topology.NIC{Host: node.Host, Name: "cali1", Addresses: prefixes("10.244.1.1/24", "2001:db8:244:1::1/64")})
	harness.Must(t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = "net1", node.Eth1.Index, netlink.NsFd(host.Namespace())
	harness.Must(t, node.Netlink().LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	harness.Shell(t, node.Host, "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	harness.IPBatch(t, host, "address add 10.2.0.101/24 dev net1\naddress add 2001:db8:2::101/64 dev net1 nodad\n"+
		"link set net1 up\nroute add default via 10.244.1.1\nroute add default via 2001:db8:244:1::1")
	net1 := harness.Must1[*topology.Interface](t)(host.Interface("net1"))
	net1.PeerWith(node.Eth1.Peer())
	harness.Must(t, n.WaitReady(harness.Within(t, harness.AnswerTime)))
	for _, f := range harness.Families {
		harness.Serve(t, host, net1.Address(f))
	}
	return &topology.Server{Host: host, Eth0: eth0, Eth1: net1}, n.ClientEth0
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestMultus asks a pod at its second interface. Without replypath the answers leave by eth0 and are lost. With it, in the
// pod, each leaves by net1, also while its container starts again. Beside the rules of the sbr plugin the same holds.
func TestMultus(t *testing.T) {
	pod, client := newPod(t)
	each := func(name string, want func(testing.TB, *topology.Server, *harness.Conversation)) {
		harness.EachQuestion(t, name, func(t *testing.T, f topology.Family, kind harness.Kind) {
			want(t, pod, harness.NewConversation(t, kind, client, pod.Eth1.Address(f)))
		})
	}
	page := harness.ReadRecipe(t, multusPage)
	p := harness.On(t, pod.Host)
	start := func() *harness.Daemon { return p.Start("--config", page.Config("With replypath")) }
	each("without replypath", harness.WantLost)
	start().Stop(unix.SIGTERM) // as the kubelet ends it
	each("between two containers", harness.WantByEth1)
	start()
	each("in the pod", harness.WantByEth1)
	p.Expect(0, "detach", "--stop")
	each("after detach", harness.WantLost)
	page.Run(pod.Host, "With the sbr plugin")
	each("sbr alone", harness.WantByEth1)
	start()
	each("beside sbr", harness.WantByEth1)
}
