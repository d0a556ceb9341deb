// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// redirectedPort is redirected to a server of the host's own.
const redirectedPort = 82

// redirectPort has a server redirect a port to another one, on which somebody listens.
func redirectPort(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	const port = 8082
	host.Nft(t, n.Server.Host, fmt.Sprintf(`
		table inet redirected {
			chain prerouting {
				type nat hook prerouting priority dstnat
				meta l4proto { tcp, udp } th dport %d redirect to :%d
			}
		}`, redirectedPort, port))
	for _, f := range traffic.Families {
		traffic.ServeAt(t, n.Server.Host, netip.AddrPortFrom(n.Server.Eth1.Address(f), port))
	}
}

// askRedirected is a conversation with the port that is redirected.
func askRedirected(t *testing.T, n *topology.TwoNIC, kind traffic.Kind, f topology.Family) *traffic.Conversation {
	t.Helper()
	c := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
	c.Self = netip.AddrPortFrom(c.Self.Addr(), redirectedPort)
	return c
}

// TestProxies has the host redirect a port to a server of its own, and a proxy on it answer for others (nftables'
// tproxy): for the host's own address, and for one behind it, which is a forwarded flow unless `addresses` names it.
func TestProxies(t *testing.T) {
	n := newProxied(t)
	redirectPort(t, n.TwoNIC)
	eachRedirected := func(t *testing.T, want func(*traffic.Conversation)) {
		for _, f := range traffic.Families {
			for _, kind := range traffic.Kinds[1:] { // a ping is redirected nowhere
				want(askRedirected(t, n.TwoNIC, kind, f))
			}
		}
	}
	eachRedirected(t, func(c *traffic.Conversation) { wantLost(t, n.Server, c, n.ClientEth0) })
	eachProxied(t, n, "without replypath", func(t *testing.T, c *traffic.Conversation, _ bool) {
		wantLost(t, n.Server, c, n.ClientEth0)
	})
	_, d := product.StartOn(t, n.Server.Host, "--config", product.WriteConfig(t, "scope: local\n"))
	t.Run("redirected", func(t *testing.T) {
		eachRedirected(t, func(c *traffic.Conversation) { wantAnswers(t, n.Server, c, true) })
	})
	eachProxied(t, n, "local", func(t *testing.T, c *traffic.Conversation, own bool) {
		if own {
			wantAnswers(t, n.Server, c, true)
		} else {
			wantLost(t, n.Server, c, n.ClientEth0)
		}
	})
	d.Reconfigure("addresses: [10.50.0.0/28, \"2001:db8:50::/64\"]\n")
	eachProxied(t, n, "addresses", func(t *testing.T, c *traffic.Conversation, _ bool) {
		wantAnswers(t, n.Server, c, true)
	})
	d.Reconfigure("scope: all\n")
	eachProxied(t, n, "all", func(t *testing.T, c *traffic.Conversation, _ bool) {
		wantAnswers(t, n.Server, c, true)
	})
}

// behind are addresses that are reached through the server, for which its proxy
// answers.
var behind = addresses("10.50.0.1", "2001:db8:50::1")

// proxied is the network with a proxy on the server.
type proxied struct {
	*topology.TwoNIC
	t        *testing.T
	connects atomic.Bool // the proxy answers datagrams by sockets that it connects to who asked
}

func newProxied(t *testing.T) *proxied {
	t.Helper()
	n := &proxied{t: t, TwoNIC: traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})}
	core := await.Must1[*topology.Interface](t)(n.Replication.Interface("core"))
	for _, f := range traffic.Families {
		to := netip.PrefixFrom(behind[f], behind[f].BitLen())
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: to, Via: core.Address(f)}))
		await.Must(t, n.Replication.AddRoute(topology.Route{Destination: to, Via: n.Server.Eth1.Address(f)}))
	}
	host.Nft(t, n.Server.Host, `
		table inet proxy {
			chain prerouting {
				type filter hook prerouting priority mangle
				meta l4proto { tcp, udp } th dport 80 tproxy to :8081 meta mark set 1 accept
			}
		}`)
	host.Shell(t, n.Server.Host, `
		sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		for f in -4 -6; do ip $f rule add fwmark 1 lookup 100; ip $f route add local default dev lo table 100; done`)
	n.serveTransparently(t)
	return n
}

// eachProxied runs a subtest for TCP, UDP, and UDP that is answered by connected sockets, to the
// server's own address and to one behind it.
func eachProxied(t *testing.T, n *proxied, name string, run func(t *testing.T, c *traffic.Conversation, own bool)) {
	for _, f := range traffic.Families {
		for what, to := range map[string]netip.Addr{"own address": n.Server.Eth1.Address(f), "address behind": behind[f]} {
			for _, how := range []string{"tcp", "udp", "udp, connected"} {
				t.Run(name+"/"+what+"/"+f.String()+"/"+how, func(t *testing.T) {
					n.connects.Store(how == "udp, connected")
					kind, _, _ := strings.Cut(how, ",")
					c := traffic.NewConversation(t, traffic.Kind(kind), n.ClientEth0, to)
					c.Self = netip.AddrPortFrom(to, publishedPort)
					run(t, c, to != behind[f])
				})
			}
		}
	}
}

// transparent has a socket take what is for other addresses, and answer from
// these.
func transparent(_, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		for _, option := range []struct{ level, name int }{
			{unix.SOL_SOCKET, unix.SO_REUSEADDR},
			{unix.SOL_IPV6, unix.IPV6_TRANSPARENT},
			{unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR},
			{unix.SOL_IP, unix.IP_TRANSPARENT},
			{unix.SOL_IP, unix.IP_RECVORIGDSTADDR},
		} {
			// An IPv4 socket has none of IPv6's options.
			if e := unix.SetsockoptInt(int(fd), option.level, option.name, 1); e != nil && option.level != unix.SOL_IPV6 {
				err = errors.Join(err, e)
			}
		}
	})
	return errors.Join(controlErr, err)
}

// serveTransparently echoes TCP and UDP as a transparent proxy does.
func (n *proxied) serveTransparently(t *testing.T) {
	t.Helper()
	config := net.ListenConfig{Control: transparent}
	config.SetMultipathTCP(false)
	for _, at := range []string{"0.0.0.0:8081", "[::]:8081"} {
		version := "4"
		if at[0] == '[' {
			version = "6"
		}
		await.Must(t, n.Server.Do(func() error {
			l, err := config.Listen(t.Context(), "tcp"+version, at)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() { _ = traffic.ServeStreams(l) }()
			conn, err := config.ListenPacket(t.Context(), "udp"+version, at)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			go n.echoTransparently(config, conn.(*net.UDPConn))
			return nil
		}))
	}
}

// echoTransparently answers each datagram from the address that it was for.
func (n *proxied) echoTransparently(config net.ListenConfig, conn *net.UDPConn) {
	buffer, control := make([]byte, 1<<16), make([]byte, 256)
	for {
		size, c, _, from, err := conn.ReadMsgUDPAddrPort(buffer, control)
		if err != nil {
			return
		}
		asked, err := originalDestination(control[:c])
		if err != nil {
			continue // the asker notices
		}
		_ = n.Server.Do(func() error {
			return n.answer(config, asked, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buffer[:size])
		})
	}
}

func (n *proxied) answer(config net.ListenConfig, from, to netip.AddrPort, data []byte) error {
	if n.connects.Load() {
		return n.converse(from, to, data)
	}
	conn, err := config.ListenPacket(context.Background(), "udp", from.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.WriteTo(data, net.UDPAddrFromAddrPort(to))
	return err
}

// converse answers by a connected socket, which takes and answers what the client asks next.
func (n *proxied) converse(from, to netip.AddrPort, data []byte) error {
	dialer := net.Dialer{Control: transparent, LocalAddr: net.UDPAddrFromAddrPort(from)}
	conn, err := dialer.Dial("udp", to.String())
	if err != nil {
		return err
	}
	n.t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write(data); err != nil {
		return err
	}
	go func() { _, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) }()
	return nil
}

// originalDestination is the address that IP_RECVORIGDSTADDR brings.
func originalDestination(control []byte) (netip.AddrPort, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := range messages {
		switch to, _ := unix.ParseOrigDstAddr(&messages[i]); to := to.(type) {
		case *unix.SockaddrInet4:
			return netip.AddrPortFrom(netip.AddrFrom4(to.Addr), uint16(to.Port)), nil
		case *unix.SockaddrInet6:
			return netip.AddrPortFrom(netip.AddrFrom16(to.Addr), uint16(to.Port)), nil
		}
	}
	return netip.AddrPort{}, errors.New("no original destination")
}

// forwards has a host forward packets, or stop it.
func forwards(t *testing.T, h *topology.Host, on int) {
	t.Helper()
	host.Shell(t, h, fmt.Sprintf("sysctl -q -w net.ipv4.ip_forward=%d net.ipv6.conf.all.forwarding=%[1]d", on))
}

// TestUnknownAddress asks addresses that no interface has, for which a proxy answers (TPROXY) or the firewall translates.
// Where the host forwards nothing they are its own, and the answers leave by eth1. Once it forwards they may be anybody's.
func TestUnknownAddress(t *testing.T) {
	n := newProxied(t)
	redirectPort(t, n.TwoNIC)
	forwards(t, n.Server.Host, 0)
	each := func(name string, want func(*testing.T, *traffic.Conversation)) {
		eachProxied(t, n, name, func(t *testing.T, c *traffic.Conversation, own bool) {
			if !own {
				want(t, c)
			}
		})
		traffic.EachQuestion(t, name+"/redirected", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			if kind != traffic.Ping {
				c := traffic.NewConversation(t, kind, n.ClientEth0, behind[f])
				c.Self = netip.AddrPortFrom(behind[f], redirectedPort)
				want(t, c)
			}
		})
	}
	lost := func(t *testing.T, c *traffic.Conversation) { wantLost(t, n.Server, c, n.ClientEth0) }
	right := func(t *testing.T, c *traffic.Conversation) { wantAnswers(t, n.Server, c, true) }
	each("without replypath", lost)
	p, _ := product.StartOn(t, n.Server.Host)
	each("nothing is forwarded", right)
	for on, want := range []func(*testing.T, *traffic.Conversation){1: lost, 0: right} {
		forwards(t, n.Server.Host, on)
		for _, f := range n.Families() {
			await.Eventually(t, "the daemon knows what is forwarded", func() error {
				e := p.Explain("--peer", n.ClientEth0.Address(f).Next().String(), "--self", behind[f].String(), "--interface", "eth1")
				if isForeign := product.OrEmpty(e.Reason) == "not_own"; isForeign != (on == 1) {
					return fmt.Errorf("%s", e)
				}
				return nil
			})
		}
		each(fmt.Sprintf("ip_forward %d", on), want)
	}
}
