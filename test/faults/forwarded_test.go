// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// masks are how a host gives what its containers start an address of its own, and the family by which
// that is tried: nothing in it is one family's.
var masks = []struct {
	name, rule string
	family     topology.Family
}{
	{"by eth0", `oifname "eth0" masquerade`, topology.IPv4},
	{"by all but the bridge", `oifname != "docker0" masquerade`, topology.IPv6},
	{"by eth0 with a port at random", `oifname "eth0" masquerade fully-random`, topology.IPv6},
	{"by all but the bridge with a port at random", `oifname != "docker0" masquerade fully-random`, topology.IPv4},
}

// outage is how long a fault lasts for them: longer than several retransmissions of a segment.
var outage = 2 * time.Second

// askEvery is how often they ask, and askFor for how long afterwards: TCP repeats a segment twice until then.
const askEvery = 100 * time.Millisecond

var askFor = await.Patient(5 * time.Second)

// newContainerBed is a server with a container, which begins what leaves by eth0, masqueraded.
func newContainerBed(t testing.TB, f topology.Family, rule string) (*bed, *topology.S7) {
	t.Helper()
	s := traffic.NewS7(t, anySource)
	b := &bed{TB: t, family: f, net: s.TwoNIC}
	b.quicken("neigh/eth0")
	b.routes = b.showRoutes()
	traffic.Serve(t, s.Client, b.clientAddress())
	host.Nft(t, s.Server.Host, fmt.Sprintf(`table inet masked {
	chain postrouting {
		type nat hook postrouting priority srcnat
		%s
	}
}`, rule))
	return b, s
}

// hideContainers has the core router know no way to the containers: what is not masqueraded is not answered.
func (b *bed) hideContainers(s *topology.S7) {
	b.Helper()
	for _, address := range s.ContainerEth0.Addresses {
		if topology.FamilyOf(address.Addr()) == b.family {
			host.Shell(b, s.Core.Host, fmt.Sprintf("ip route del %s", address.Masked()))
		}
	}
}

// carries has a container keep a TCP connection and a UDP conversation with the client, and ask while a fault
// lasts. It tells after how long each is answered again, with the error where it is not.
func (b *bed) carries(s *topology.S7, fault fault) map[traffic.Kind]failure {
	b.Helper()
	conns := map[traffic.Kind]net.Conn{}
	for _, kind := range []traffic.Kind{traffic.TCP, traffic.UDP} {
		client := netip.AddrPortFrom(b.clientAddress(), traffic.EchoPort)
		conn := await.Must1[net.Conn](b)(s.Container.Dial(await.Within(b, await.AnswerTime), string(kind), client.String()))
		b.Cleanup(func() { conn.Close() })
		await.Must(b, exchange(conn, await.AnswerTime))
		conns[kind] = conn
	}
	fault.begin(b)
	if b.product != nil {
		b.awaitRules(true) // what IPv4 forwards before, connection tracking notes without its mask
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < outage; <-tick.C {
		for kind, conn := range conns {
			if err := exchange(conn, askEvery); err == nil {
				b.Errorf("%s: a container was answered by %s", fault.name, kind)
			}
		}
	}
	fault.end(b)
	b.Eventually("the host reaches the client", func() error { return b.reach(traffic.TCP) })
	back := map[traffic.Kind]failure{}
	for began := time.Now(); len(conns) > 0; <-tick.C {
		for kind, conn := range conns {
			err := exchange(conn, askEvery)
			if back[kind] = (failure{time.Since(began), err}); err == nil || back[kind].took >= askFor {
				delete(conns, kind)
			}
		}
	}
	return back
}

// TestMasqueraded has the default route go while a container has conversations by it, on two hosts, one of them
// with replypath: what outlives the fault on the other does so on this one. Where the link goes, the kernel forgets
// what it masquerades, so that a connection goes on only if its port stays.
func TestMasqueraded(t *testing.T) {
	quick, all := short.Run(t), short.Long(t, "every other combination")
	for n, mask := range masks {
		for k, fault := range gone() {
			if quick && (k != n || n%3 != 0) || !all && (k+n)%2 != 0 {
				continue
			}
			t.Run(mask.name+"/"+fault.name, func(t *testing.T) {
				t.Parallel()
				alone, sa := newContainerBed(t, mask.family, mask.rule)
				alone.hideContainers(sa)
				beside, sb := newContainerBed(t, mask.family, mask.rule)
				beside.hideContainers(sb)
				beside.start()
				var without, with map[traffic.Kind]failure
				var carrying sync.WaitGroup
				carrying.Go(func() { without = alone.carries(sa, fault) })
				carrying.Go(func() { with = beside.carries(sb, fault) })
				carrying.Wait()
				if without[traffic.TCP].err != nil && without[traffic.UDP].err != nil {
					t.Errorf("%s: without replypath nothing goes on: %v", fault.name, without)
				}
				for kind := range with {
					t.Logf("%s: %s: %v, without replypath %v", fault.name, kind, with[kind], without[kind])
					if with[kind].err != nil && without[kind].err == nil {
						t.Errorf("%s: %s of a container: %v, without replypath it goes on", fault.name, kind, with[kind])
					}
				}
			})
		}
	}
}

// published has the server publish a container's echo server at its own addresses.
const published = `table inet published {
	chain prerouting {
		type nat hook prerouting priority dstnat
		fib daddr type local meta l4proto { tcp, udp } th dport 80 dnat ip to 10.17.0.100:7
		fib daddr type local meta l4proto { tcp, udp } th dport 80 dnat ip6 to [2001:db8:17::100]:7
	}
}`

// publishedPort is where they are published, and where a container listens itself.
const publishedPort = 80

// TestContainerAnswers asks a container by eth1 while a fault lasts, at an address of the server's and at its
// own: it answers as the server does.
func TestContainerAnswers(t *testing.T) {
	t.Parallel()
	each(t, gone(), func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b, s := newContainerBed(t, f, masks[1].rule)
		host.Nft(t, s.Server.Host, published)
		b.start("--config", product.WriteConfig(t, "scope: all\n"))
		conversations := func() map[string]*traffic.Conversation {
			all := map[string]*traffic.Conversation{}
			for _, kind := range []traffic.Kind{traffic.TCP, traffic.UDP} {
				all["published "+string(kind)] = b.conversation(kind)
				all["published "+string(kind)].Self = netip.AddrPortFrom(b.net.Server.Eth1.Address(f), publishedPort)
				all["routed "+string(kind)] = traffic.NewConversation(t, kind, s.ClientEth0, s.ContainerEth0.Address(f))
			}
			return all
		}
		open := conversations()
		for _, c := range open {
			b.ask(c)
		}
		b.begin(fault)
		for name, c := range open {
			b.askForSomeTime(fault.name+": "+name, c)
		}
		for name, c := range conversations() {
			b.askPromptly(fault.name+": new "+name, c)
		}
	})
}
