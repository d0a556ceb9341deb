// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// The networks of the tunnels of TestL3.
const (
	replicationTunnel = 50
	productionTunnel  = 51
)

// tunnelled is the address of a host in the network of a tunnel, in both families.
func tunnelled(network, host int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", network, host)),
		netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", network, host)),
	}
}

// addTun lays a tunnel without Ethernet header from the server to a router of its, by
// which the client's way to the server's address there leads.
func addTun(t *testing.T, n *topology.TwoNIC, name string, router *topology.Router, network int) *topology.Interface {
	t.Helper()
	end, _, err := n.ConnectTun(
		topology.NIC{Host: n.Server.Host, Name: name, Addresses: tunnelled(network, 100)},
		topology.NIC{Host: router.Host, Name: name, Addresses: tunnelled(network, 1)})
	await.Must(t, err)
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	core := await.Must1[*topology.Interface](t)(router.Interface("core"))
	for i, f := range n.Families() {
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: tunnelled(network, 0)[i].Masked(), Via: core.Address(f)}))
		traffic.Serve(t, n.Server.Host, end.Address(f))
	}
	return end
}

// l3 is a server that is asked by one device and whose default route is by another, at least one of which has no
// Ethernet header. They stand for eth1 and eth0 in what this package wants.
type l3 struct {
	*topology.TwoNIC
	server *topology.Server
}

// defaultBy has the server's only default route lead over a device.
func (l l3) defaultBy(t *testing.T, i *topology.Interface) {
	t.Helper()
	for _, f := range l.Families() {
		testhost.Shell(t, l.Server.Host, fmt.Sprintf("ip -%[1]d route del default dev eth0; ip -%[1]d route add default via %[2]s dev %[3]s", int(f), i.Gateway(f), i.Name))
	}
}

// l3Networks are all combinations of devices with and without a header.
var l3Networks = map[string]func(*testing.T, *topology.TwoNIC) l3{
	"ethernet to tun": func(t *testing.T, n *topology.TwoNIC) l3 {
		tun := addTun(t, n, "tun1", n.Replication, replicationTunnel)
		return l3{n, &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: tun}}
	},
	"tun to ethernet": func(t *testing.T, n *topology.TwoNIC) l3 {
		tun := addTun(t, n, "tun0", n.Production, productionTunnel)
		l := l3{n, &topology.Server{Host: n.Server.Host, Eth0: tun, Eth1: n.Server.Eth1}}
		l.defaultBy(t, tun)
		return l
	},
	"tun to tun": func(t *testing.T, n *topology.TwoNIC) l3 {
		asked := addTun(t, n, "tun1", n.Replication, replicationTunnel)
		routed := addTun(t, n, "tun0", n.Production, productionTunnel)
		l := l3{n, &topology.Server{Host: n.Server.Host, Eth0: routed, Eth1: asked}}
		l.defaultBy(t, routed)
		return l
	},
}

// TestL3 moves answers between devices with and without an Ethernet header, as whole
// packets and in fragments, errors as well: byte by byte as they were, with the right
// header where there is one, and counted. What the server asks itself stays.
func TestL3(t *testing.T) {
	for name, build := range l3Networks {
		t.Run(name, func(t *testing.T) {
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{
				Policy: topology.StrictSource, Offloads: topology.Offloads{NoChecksum: true},
			})
			l := build(t, n)
			asked := func(t *testing.T, f topology.Family, kind traffic.Kind) *traffic.Conversation {
				t.Helper()
				return traffic.NewConversation(t, kind, n.ClientEth0, l.server.Eth1.Address(f))
			}
			wantAllLost(t, n, l.server)
			p := product.On(t, n.Server.Host)
			p.Start()
			for _, nic := range []*topology.Interface{l.server.Eth0, l.server.Eth1} {
				if i := p.Status().Interface(nic.Name); i == nil || !i.Attached {
					t.Errorf("%s is not managed: %+v", nic.Name, i)
				}
			}
			wantAllByEth1(t, n, l.server)
			traffic.EachQuestion(t, "byte by byte", func(t *testing.T, f topology.Family, kind traffic.Kind) {
				l.wantExact(t, p.In(t), asked(t, f, kind))
			})
			for _, f := range n.Families() {
				t.Run("refused/"+f.String(), func(t *testing.T) { l.wantRefused(t, f) })
			}
			p.WaitGrace()
			traffic.ServeNICs(t, n.ClientEth0)
			traffic.EachQuestion(t, "the server asks", func(t *testing.T, f topology.Family, kind traffic.Kind) {
				c := traffic.NewConversation(t, kind, l.server.Eth0, n.ClientEth0.Address(f))
				wires := wire.Tap(t, l.server)
				traffic.AskSizes(t, c)
				wires.WantEth0(c.String(), c.Questions())
			})
			p.Expect(0, "mode", "observe")
			traffic.EachQuestion(t, "in mode observe", func(t *testing.T, f topology.Family, kind traffic.Kind) {
				wire.WantLost(t, l.server, asked(t, f, kind))
			})
			t.Logf("%s: ping, TCP and UDP of both families lost without replypath and in mode observe, right with it", name)
		})
	}
}

// wantExact asks with packets of several sizes, of which large ones come in fragments, and wants every packet of the
// answers to be whole and unaltered, and to be counted as it leaves.
func (l l3) wantExact(t *testing.T, p *product.Product, c *traffic.Conversation) {
	t.Helper()
	from, to := "from_interface="+l.server.Eth0.Name, "to_interface="+l.server.Eth1.Name
	protocol := "protocol=" + c.Protocol() // SYN-ACKs of before may be sent again at any time
	before := p.Metrics()
	wires := wire.Tap(t, l.server)
	for _, size := range []int{40, 100, 1000, 8000} { // all of which fill an Ethernet frame
		await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), size))
	}
	await.Must(t, c.Close())
	answers := wholeAnswers(c)
	if c.Kind == traffic.TCP {
		fin := topology.All(answers, topology.Flags(topology.FIN, topology.FIN))
		await.Must1[*topology.Frame](t)(wires.Eth1.Wait(await.Within(t, await.AnswerTime), fin))
	}
	frames := wires.WantEth1(c.String(), answers)
	compared := 0
	for _, frame := range frames {
		if len(frame.Data) < frame.Length {
			continue // more than was captured
		}
		compared++
		if again := encodedAgain(t, frame); !bytes.Equal(again, frame.Data) {
			t.Errorf("%s:\n%x, not\n%x", frame, frame.Data, again)
		}
	}
	if compared == 0 {
		t.Errorf("none of %s is short enough", wire.Describe(frames))
	}
	if c.Kind == traffic.TCP {
		return // a frame may stand for several
	}
	after := p.Metrics()
	for name, want := range map[string]float64{
		"replypath_corrected_packets_total": float64(len(frames)), "replypath_corrected_bytes_total": float64(wire.Bytes(frames)),
		"replypath_asymmetric_packets_total": float64(len(frames)), "replypath_uncorrected_packets_total": 0,
	} {
		if got := after.Sum(name, from, to, protocol) - before.Sum(name, from, to, protocol); got != want {
			t.Errorf("%s: %s rose by %v, not by %v", c, name, got, want)
		}
	}
}

// wholeAnswers matches the answers with their later fragments, which have no ports. The
// SYN-ACK of a connection that came to nothing is sent again for a minute.
func wholeAnswers(c *traffic.Conversation) topology.Filter {
	if c.Kind == traffic.TCP {
		return c.Answers()
	}
	return topology.All(topology.From(c.Self.Addr()), topology.To(c.Peer.Addr()), topology.Not(topology.TCP))
}

// encodedAgain encodes what a frame says anew, with the lengths and checksums that it has to have.
func encodedAgain(t *testing.T, frame *topology.Frame) []byte {
	t.Helper()
	var parts []gopacket.SerializableLayer
	for _, layer := range frame.Packet().Layers() {
		part, ok := layer.(gopacket.SerializableLayer)
		if !ok {
			parts = append(parts, gopacket.Payload(append(bytes.Clone(layer.LayerContents()), layer.LayerPayload()...)))
			break
		}
		parts = append(parts, part)
		if layer.LayerType() == layers.LayerTypeICMPv6 { // the layer of an echo leaves out its payload
			parts = append(parts, gopacket.Payload(layer.LayerPayload()))
			break
		}
	}
	network := frame.Packet().NetworkLayer()
	for _, part := range parts {
		if transport, ok := part.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			await.Must(t, transport.SetNetworkLayerForChecksum(network))
		}
	}
	buffer := gopacket.NewSerializeBuffer()
	await.Must(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...))
	return buffer.Bytes()
}

// wantRefused asks by UDP where nobody listens, and wants the client to learn it.
func (l l3) wantRefused(t *testing.T, f topology.Family) {
	t.Helper()
	const closedPort = 9
	wires := wire.Tap(t, l.server)
	at := netip.AddrPortFrom(l.server.Eth1.Address(f), closedPort).String()
	conn := await.Must1[net.Conn](t)(l.Client.Dial(t.Context(), "udp", at))
	defer conn.Close()
	await.Must1[int](t)(conn.Write([]byte("question")))
	await.Must(t, conn.SetReadDeadline(time.Now().Add(await.AnswerTime)))
	if _, err := conn.Read(make([]byte, 100)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("read %v", err)
	}
	// SYN-ACKs to whom nobody answered before the start may still be sent again.
	isError := topology.OneOf(topology.Protocol(layers.IPProtocolICMPv4), topology.Protocol(layers.IPProtocolICMPv6))
	wires.WantEth1("the error", topology.All(isError, topology.From(l.server.Eth1.Address(f)), topology.To(l.ClientEth0.Address(f))))
}
