// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"cmp"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// secondary is eth1's second address, which its subnet assigns but no lease has.
var secondary = netip.MustParsePrefix("10.2.0.101/32")

// serveMetadata is the cloud's metadata service, at the address where agents ask for it.
func serveMetadata(t *testing.T, n *topology.TwoNIC, service http.Handler) {
	t.Helper()
	at := netip.MustParsePrefix("169.254.169.254/32")
	fabric := n.Server.Eth0.Peer()
	await.Must(t, fabric.AddAddress(at))
	listener := await.Must1[net.Listener](t)(fabric.Host.Listen(t.Context(), "tcp", at.Addr().String()+":80"))
	server := &http.Server{Handler: service, ReadHeaderTimeout: await.AnswerTime}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { await.Must(t, server.Close()) })
}

// ec2Metadata are the texts of EC2's service by their paths, without the version that comes first.
type ec2Metadata map[string]string

// newEC2Metadata says of both interfaces what amazon-ec2-net-utils and cloud-init ask for.
func newEC2Metadata(n *topology.TwoNIC) ec2Metadata {
	eth0, eth1 := n.Server.Eth0, n.Server.Eth1
	texts := ec2Metadata{
		"api/token":                          "token",
		"meta-data/mac":                      eth0.MAC.String(),
		"meta-data/instance-id":              "i-1",
		"dynamic/instance-identity/document": `{"instanceId": "i-1"}`,
	}
	for number, i := range []*topology.Interface{eth0, eth1} {
		of := "meta-data/network/interfaces/macs/" + i.MAC.String() + "/"
		texts[of+"device-number"] = string(rune('0' + number))
		texts[of+"interface-id"] = "eni-" + i.Name
		texts[of+"vpc-id"] = "vpc-1"
		texts[of+"local-ipv4s"] = i.Address(topology.IPv4).String()
		texts[of+"ipv6s"] = i.Address(topology.IPv6).String()
		texts[of+"subnet-ipv4-cidr-block"] = i.Addresses[0].Masked().String()
	}
	texts["meta-data/network/interfaces/macs/"+eth1.MAC.String()+"/local-ipv4s"] += "\n" + secondary.Addr().String()
	return texts
}

func (m ec2Metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, path, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	if text := cmp.Or(m[path], m.list(path+"/")); text != "" {
		_, _ = io.WriteString(w, text)
		return
	}
	http.NotFound(w, r) // as the cloud's does for prefixes that are not assigned
}

// list names what is below a path, one on a line: what has something below it ends in a slash.
func (m ec2Metadata) list(path string) string {
	names := make(map[string]bool)
	for full := range m {
		if below, ok := strings.CutPrefix(full, path); ok {
			name, _, isDir := strings.Cut(below, "/")
			if isDir {
				name += "/"
			}
			names[name] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), "\n")
}

// serveLeases gives an interface its addresses and routes, as the cloud does: by DHCP, and by router advertisements.
func serveLeases(t *testing.T, i *topology.Interface) {
	t.Helper()
	v4, v6 := i.Address(topology.IPv4), i.Address(topology.IPv6).String()
	subnet := await.Must1[netip.Prefix](t)(v4.Prefix(24))
	dnsmasq(t, i, "--enable-ra",
		"--dhcp-range="+subnet.Addr().String()+",static,255.255.255.0,2m", "--dhcp-host="+i.MAC.String()+","+v4.String(),
		"--dhcp-range="+v6+","+v6+",64,2m").WaitLog(1, "DHCPv6, IP range")
}

// dnsmasq runs a DHCP server at the other end of an interface's cable.
func dnsmasq(t *testing.T, i *topology.Interface, args ...string) *product.Program {
	t.Helper()
	args = append([]string{"--keep-in-foreground", "--conf-file=/dev/null",
		"--port=0", "--user=root", "--pid-file=", "--log-facility=-", "--log-dhcp", "--no-ping", "--interface=" + i.Peer().Name,
		"--bind-interfaces", "--dhcp-authoritative", "--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases")}, args...)
	return product.StartProgram(t, i.Peer().Host.Command(context.Background(), "dnsmasq", args...), unix.SIGTERM)
}
