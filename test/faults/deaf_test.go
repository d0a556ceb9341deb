// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// deafFor is longer than it takes until a silent gateway is held by the kernel's timers.
const deafFor = 15 * time.Second

// TestDeafGateway has a gateway answer neither ARP nor ND while it goes on to forward, as one does
// whose control plane starts anew, and the host keep a connection busy that leads by it. It is not
// noticed by that connection, nor by those of eth1, and what the host begins meanwhile works.
func TestDeafGateway(t *testing.T) {
	t.Parallel()
	for _, with := range []bool{false, true} {
		t.Run(fmt.Sprintf("replypath %t", with), func(t *testing.T) {
			t.Parallel()
			b := newPatientBed(t, topology.IPv4, anySource)
			if with {
				b.start()
			}
			beds := b.inBoth()
			var talks []*traffic.Talk
			if with {
				for _, b := range beds {
					c := b.conversation(traffic.TCP)
					b.ask(c)
					talks = append(talks, c.KeepThrough(t))
				}
			}
			if slowest := deafen(t, promptly, beds); slowest >= oneRetransmission {
				t.Errorf("an open connection of the host's paused for %s", slowest)
			}
			for _, talk := range talks {
				talk.Stop()
				if talk.Pause() >= oneRetransmission {
					t.Errorf("an open connection by eth1 paused for %s", talk.Pause())
				}
			}
		})
	}
}

// deafen has the gateway answer nobody for a while, and returns how long the host's open connections had to wait. None that
// it begins within that time may be refused, and each has to work within some time.
func deafen(t *testing.T, within time.Duration, beds []*bed) (slowest time.Duration) {
	t.Helper()
	eth0 := beds[0].net.Server.Eth0
	open := make([]net.Conn, len(beds))
	for k, b := range beds {
		open[k] = b.connectBy(traffic.TCP)
		// It does not have to ask for the server, whose answers it would not hear either.
		await.Must(t, eth0.Peer().AddNeighbour(eth0.Address(b.family), eth0.MAC))
	}
	host.Nft(t, beds[0].net.Production.Host, silence)
	began := time.Now()
	var worked, refused int
	for time.Since(began) < deafFor {
		for k, b := range beds {
			asked := time.Now()
			await.Must(t, exchange(open[k], await.AnswerTime))
			slowest = max(slowest, time.Since(asked))
			switch err := b.reachWithin(within, traffic.TCP); {
			case err == nil:
				worked++
			case errors.Is(err, syscall.ECONNREFUSED):
				refused++
				t.Errorf("%s: a connection of the host's was refused after %s", b.family, since(began))
			default:
				t.Errorf("%s: a new connection of the host's: %v", b.family, err)
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	t.Logf("within %s: the host's open connections wait %s at most, of its new ones %d work and %d are refused",
		deafFor, slowest.Round(time.Millisecond), worked, refused)
	for _, b := range beds {
		if b.product != nil && !b.isHeld() {
			t.Errorf("%s: the gateway is %s, its entry %q, and was to be held", b.family, b.gatewayState(), b.neighbour())
		}
	}
	beds[0].wakeGateway()
	woken := time.Now()
	for _, b := range beds {
		b.Eventually("what the host begins works", func() error { return b.reachWithin(within, traffic.TCP) })
	}
	t.Logf("what the host begins works %s after the gateway answers again", since(woken))
	return slowest
}

// otherWays are connections of an address of eth0's that make progress, and lead by other ways than its gateway.
var otherWays = map[string]func(*bed) net.Conn{
	"a peer that asks by eth1":             (*bed).askedByEth1,
	"another router of the same interface": (*bed).leadsByAnother,
}

// askedByEth1 has the routers bring by eth1 what is for eth0's address, and a client connect to it.
func (b *bed) askedByEth1() net.Conn {
	b.Helper()
	asked := b.net.Server.Eth0.Address(b.family)
	traffic.Serve(b, b.net.Server.Host, asked)
	via := map[topology.Family]string{topology.IPv4: "10.12.0.2", topology.IPv6: "2001:db8:12::2"}[b.family]
	host.Shell(b, b.net.Core.Host, fmt.Sprintf("ip route replace %s via %s", asked, via))
	host.Shell(b, b.net.Replication.Host,
		fmt.Sprintf("ip route replace %s via %s", asked, b.net.Server.Eth1.Address(b.family)))
	at := netip.AddrPortFrom(asked, traffic.EchoPort).String()
	conn := await.Must1[net.Conn](b)(b.net.Client.Dial(await.Within(b, await.AnswerTime), "tcp", at))
	b.Cleanup(func() { conn.Close() })
	return conn
}

// leadsByAnother has the host connect to the client by another router than the gateway.
func (b *bed) leadsByAnother() net.Conn {
	b.Helper()
	b.addRouter()
	b.ip("route add " + b.clientAddress().String() + " via " + backups[b.family].Addr().String() + " dev eth0")
	return b.connectBy(traffic.TCP)
}

// TestProgressElsewhere has a gateway be gone while a connection from an address of its interface
// goes on another way: what the host begins is refused as promptly as without that connection.
func TestProgressElsewhere(t *testing.T) {
	t.Parallel()
	for name, open := range otherWays {
		for _, f := range traffic.Families {
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				b := newBed(t, f, anySource)
				b.start()
				b.progressElsewhere(open)
			})
		}
	}
}

func (b *bed) progressElsewhere(open func(*bed) net.Conn) {
	b.Helper()
	conn := open(b)
	await.Must(b, exchange(conn, await.AnswerTime))
	host.Nft(b, b.net.Production.Host, booting) // drops what it is to forward, too
	b.awaitHeld()
	// Through the gateway that is gone, whatever else there is.
	nobody := map[topology.Family]string{topology.IPv4: "203.0.113.1:9", topology.IPv6: "[2001:db8:113::1]:9"}[b.family]
	var slowest time.Duration
	refused := 0
	const tries = 10
	for range tries {
		await.Must(b, exchange(conn, await.AnswerTime))
		began := time.Now()
		_, err := b.net.Server.Dial(await.Within(b, promptly), "tcp", nobody)
		slowest = max(slowest, time.Since(began))
		if errors.Is(err, syscall.ECONNREFUSED) {
			refused++
		} else {
			b.Errorf("a new connection of the host's: %v", err)
		}
		<-time.After(100 * time.Millisecond)
	}
	b.Logf("of %d connections that the host begins %d are refused, the last after %s at most", tries, refused, slowest.Round(time.Microsecond))
}
