// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestContainerHost wants discovery to manage the NICs of a host full of what
// container engines make, and nothing else, and to say why.
func TestContainerHost(t *testing.T) {
	s := traffic.NewS7(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	address := netip.MustParsePrefix
	for name, prefixes := range map[string][]netip.Prefix{
		"web0":        {address("10.18.0.1/24")}, // another engine's, by no known name
		"web6":        {address("2001:db8:18::1/64")},
		"br-01234567": {address("10.19.0.1/24")},
		"cni0":        {address("10.20.0.1/24"), address("2001:db8:20::1/64")},
	} {
		bridge := await.Must1[*topology.Bridge](t)(s.Server.AddBridge(name, prefixes...))
		guest := await.Must1[*topology.Host](t)(s.Host("guest of " + name))
		await.Must1[*topology.Interface](t)(bridge.Connect(topology.NIC{Host: guest, Name: "eth0"}))
	}
	await.Must1[*topology.Bridge](t)(s.Server.AddBridge("empty0", address("10.21.0.1/24")))
	for _, v := range []struct {
		topology.VXLAN
		outer topology.Family
	}{
		{topology.VXLAN{Name: "flannel.1", ID: 1, Addresses: []netip.Prefix{address("10.244.0.0/32")}}, topology.IPv4},
		{topology.VXLAN{Name: "flannel-v6.1", ID: 1, Addresses: []netip.Prefix{address("2001:db8:244::/128")}}, topology.IPv6},
		{topology.VXLAN{Name: "overlay1", ID: 2}, topology.IPv4},
		{topology.VXLAN{Name: "overlay1v6", ID: 2, Addresses: []netip.Prefix{address("fe80::1/64")}}, topology.IPv6},
		{topology.VXLAN{Name: "overlay2", ID: 3, Addresses: []netip.Prefix{address("10.245.0.1/24")}}, topology.IPv4},
		{topology.VXLAN{Name: "overlay2v6", ID: 3, Addresses: []netip.Prefix{address("2001:db8:245::1/64")}}, topology.IPv6},
	} {
		v.Local, v.Remote = s.Server.Eth1.Address(v.outer), s.Server.Eth1.Gateway(v.outer)
		await.Must1[*topology.Interface](t)(s.Server.AddVXLAN(v.VXLAN))
	}

	p := product.On(t, s.Server.Host)
	p.Start()
	status := p.Status()
	await.Eventually(t, "our own device is seen", func() error {
		if status = p.Status(); !slices.ContainsFunc(status.Unmanaged, func(u struct{ Name, Reason string }) bool { return u.Name == "replypath0" }) {
			return fmt.Errorf("%+v", status.Unmanaged)
		}
		return nil
	})
	var managed []string
	for _, i := range status.Interfaces {
		managed = append(managed, i.Name)
		if !i.Attached {
			t.Errorf("%s is not attached", i.Name)
		}
	}
	// The second overlays have an address: somebody may be asked by it.
	if diff := cmp.Diff([]string{"eth0", "eth1", "overlay2", "overlay2v6"}, managed); diff != "" {
		t.Errorf("managed (-want +got):\n%s", diff)
	}
	unmanaged := make(map[string]string)
	for _, i := range status.Unmanaged {
		unmanaged[i.Name] = i.Reason
	}
	if diff := cmp.Diff(map[string]string{
		"lo":            "loopback",
		"docker0":       `ignore_interfaces "docker*"`,
		"docker0p1":     "a port of docker0, which counts in its place",
		"br-01234567":   "bridge with no port but veth or tap",
		"br-01234567p1": "a port of br-01234567, which counts in its place",
		"cni0":          `ignore_interfaces "cni*"`,
		"cni0p1":        "a port of cni0, which counts in its place",
		"web0":          "bridge with no port but veth or tap",
		"web0p1":        "a port of web0, which counts in its place",
		"web6":          "bridge with no port but veth or tap",
		"web6p1":        "a port of web6, which counts in its place",
		"empty0":        "bridge with no port but veth or tap",
		"flannel.1":     `ignore_interfaces "flannel*"`,
		"flannel-v6.1":  `ignore_interfaces "flannel*"`,
		"overlay1":      "no global address",
		"overlay1v6":    "no global address",
		"replypath0":    "replypath's own device",
	}, unmanaged); diff != "" {
		t.Errorf("unmanaged, and why (-want +got):\n%s", diff)
	}
	for _, f := range s.Families() {
		wantAnswers(t, s.Server, traffic.NewConversation(t, traffic.TCP, s.ClientEth0, s.Server.Eth1.Address(f)), true)
	}
}
