// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// virtualMAC is that of VRRP's virtual router (RFC 9568, 7.3) with the number that keepalived is given here.
var virtualMAC = map[topology.Family]net.HardwareAddr{
	topology.IPv4: {0, 0, 0x5e, 0, 1, 51}, topology.IPv6: {0, 0, 0x5e, 0, 2, 51},
}

// sharedGateway is the address that routers share by VRRP.
var sharedGateway = addresses("192.168.1.254", "2001:db8:1::254")

// TestVRRP has two routers share eth1's gateway by VRRP (keepalived), with their own MACs and with the virtual one, alone
// and beside a third router, which brings questions for an address of its own. When the master dies, what came through it
// goes to the other one, and what comes through the third router stays with that.
//
// With the routers' own MACs the shared gateway gets another one, and connections in which only the server speaks follow at
// once, without a word from their client. A virtual MAC stays: where it is the only gateway's, answers go on to it. It is
// not the one that routers send from: with several gateways nothing tells whose frames they are, so that answers go to the
// MAC that asked, and follow the client's next word.
func TestVRRP(t *testing.T) {
	for _, beside := range []bool{false, true} {
		for _, virtual := range []bool{false, true} {
			if short.Run(t) && beside != virtual {
				continue
			}
			t.Run(fmt.Sprintf("beside a router %t, virtual mac %t", beside, virtual), func(t *testing.T) {
				t.Parallel() // keepalived waits more than it works
				testVRRP(t, virtual, beside)
			})
		}
	}
}

func testVRRP(t *testing.T, virtual, beside bool) {
	r := newRouters(t)
	third := &lane{routers: r} // of no address
	gateways := `192.168.1.254, "2001:db8:1::254"`
	if beside {
		third = r.addThirdLane(t)
		gateways += `, 192.168.1.3, "2001:db8:1::3"`
	}
	keepalived := r.share(t, virtual)
	r.bring(t, 0)
	shared := &lane{routers: r, asked: addressesOf(r.Server.Eth1)}
	shared.wantAsRouted(t)
	third.wantAsRouted(t)
	p := product.On(t, r.Server.Host)
	config := fmt.Sprintf("interfaces: [{name: eth0}, {name: eth1, gateways: [%s]}]\n", gateways)
	p.Start("--config", product.WriteConfig(t, product.SmallTables+config))
	own := func(router int) func(topology.Family) net.HardwareAddr {
		return func(topology.Family) net.HardwareAddr { return r.Inside[router].MAC }
	}
	gatewayMAC := func(master int) func(topology.Family) net.HardwareAddr {
		if virtual {
			return func(f topology.Family) net.HardwareAddr { return virtualMAC[f] }
		}
		return own(master)
	}
	answered := gatewayMAC
	if beside {
		answered = own
	}
	waitMaster := func(master int) {
		t.Helper()
		for _, f := range traffic.Families {
			waitGatewayMAC(t, p, "eth1", sharedGateway[f], gatewayMAC(master)(f))
			if beside {
				waitGatewayMAC(t, p, "eth1", r.Inside[2].Address(f), r.Inside[2].MAC)
			}
		}
	}
	waitMaster(0)
	shared.open(t)
	third.open(t)
	shared.want(t, answered(0))
	third.want(t, own(2))

	died := time.Now()
	r.powerOff(t, keepalived)
	waitMaster(1)
	t.Logf("the gateway is the other router's %s after the first one has died", time.Since(died).Round(time.Millisecond))
	for f, push := range shared.pushes {
		if virtual && beside {
			r.wantUnheard(t, push, r.Inside[0].MAC)
		} else {
			r.to(answered(1)(f)).wantPush(t, push)
		}
	}
	third.want(t, own(2))
	r.bring(t, 1)
	for _, push := range shared.pushes {
		talk(t, push.Client, push.Server)
	}
	if virtual && beside { // nothing tells whose frames these are, so that datagrams follow after a while
		for range 2 {
			for _, c := range shared.talks {
				if c.Kind != traffic.TCP {
					r.to(r.Inside[0].MAC).wantLost(t, c, c.Answers())
				}
			}
			p.Age(6 * time.Second)
		}
	}
	p.Age(2 * time.Second) // flows choose their gateway anew
	shared.want(t, answered(1))
	third.want(t, own(2))
}

// lane is what the client asks one of eth1's addresses of each family.
type lane struct {
	routers
	asked  map[topology.Family]netip.Addr
	pushes map[topology.Family]*traffic.Push
	talks  []*traffic.Conversation
}

// addThirdLane gives eth1 other addresses, to which the third router alone brings what the client sends.
func (r routers) addThirdLane(t *testing.T) *lane {
	t.Helper()
	l := &lane{routers: r, asked: addresses("192.168.1.101", "2001:db8:1::101")}
	for f, bits := range map[topology.Family]int{topology.IPv4: 24, topology.IPv6: 64} {
		await.Must(t, r.Server.Eth1.AddAddress(netip.PrefixFrom(l.asked[f], bits)))
		traffic.Serve(t, r.Server.Host, l.asked[f])
	}
	testhost.Shell(t, r.Client, `
		ip -4 route add 192.168.1.101/32 via 10.9.0.3
		ip -6 route add 2001:db8:1::101/128 via 2001:db8:9::3`)
	return l
}

// wantAsRouted asks and wants the answers by eth0, as without replypath.
func (l *lane) wantAsRouted(t *testing.T) {
	t.Helper()
	for _, asked := range l.asked {
		c := traffic.NewConversation(t, traffic.TCP, l.ClientEth0, asked)
		exitBy(l.Server, l.Server.Eth0).wantAnswers(t, c, c.Answers())
	}
}

// open begins flows of all kinds, and connections in which only the server will speak.
func (l *lane) open(t *testing.T) {
	t.Helper()
	l.pushes = make(map[topology.Family]*traffic.Push)
	for f, asked := range l.asked {
		l.pushes[f] = traffic.NewPush(t, l.Client, l.Server.Host, asked, asked)
		for _, kind := range traffic.Kinds {
			l.talks = append(l.talks, traffic.NewConversation(t, kind, l.ClientEth0, asked))
		}
	}
}

// want wants all that the server sends in them to go to the MAC of their family.
func (l *lane) want(t *testing.T, mac func(topology.Family) net.HardwareAddr) {
	t.Helper()
	for f, push := range l.pushes {
		l.to(mac(f)).wantPush(t, push)
	}
	for _, c := range l.talks {
		l.to(mac(topology.FamilyOf(c.Self.Addr()))).askBy(t, c)
	}
}

// share has the first two routers share a gateway by VRRP, of which the first is the master.
func (r routers) share(t *testing.T, virtual bool) (keepalived [2]*product.Program) {
	t.Helper()
	for i := range keepalived {
		// Else the device of IPv6's virtual MAC may answer for IPv4's address.
		await.Must(t, r.At[i].SetSysctl("net/ipv4/conf/all/arp_ignore", "1"))
		keepalived[i] = keepAlive(t, r.At[i].Host, 200-i*100, virtual)
		if i == 0 {
			keepalived[i].WaitLog(2, "Entering MASTER STATE")
		} else {
			keepalived[i].WaitLog(2, "Entering BACKUP STATE")
		}
	}
	return keepalived
}

// powerOff has the master say nothing any more, and waits until the other one takes its place.
func (r routers) powerOff(t *testing.T, keepalived [2]*product.Program) {
	t.Helper()
	const isMaster = "Entering MASTER STATE"
	before := len(keepalived[1].Log.Lines(isMaster))
	await.Must(t, r.Inside[0].Peer().SetDown())
	keepalived[0].Signal(unix.SIGKILL)
	keepalived[1].WaitLog(before+2, isMaster)
}

// wantUnheard has the server speak, and wants that to go to a MAC that nobody has any more.
func (r routers) wantUnheard(t *testing.T, p *traffic.Push, mac net.HardwareAddr) {
	t.Helper()
	exits := wire.TapAll(t, r.Server.NICs()...)
	await.Must1[int](t)(p.Server.Write([]byte("push")))
	wait(t, exits.At(r.Server.Eth1), topology.All(p.Segments, topology.Going(topology.Received)))
	r.to(mac).want(exits, "what nobody hears", p.Segments)
}

// keepAlive runs keepalived on a router.
func keepAlive(t *testing.T, host *topology.Host, priority int, virtualMAC bool) *product.Program {
	t.Helper()
	extra := ""
	if virtualMAC {
		extra = "use_vmac vrrp%d\nvmac_xmit_base"
	}
	text := "global_defs {\n vrrp_version 3\n vrrp_garp_master_repeat 2\n}\n"
	for f, addresses := range map[int]string{4: "192.168.1.254/24", 6: "fe80::254/64\n2001:db8:1::254/64"} {
		more := extra
		if virtualMAC {
			more = fmt.Sprintf(extra, f)
		}
		text += fmt.Sprintf(`
vrrp_instance gateway%d {
	interface inside
	virtual_router_id 51
	priority %d
	advert_int 0.5
	%s
	virtual_ipaddress {
		%s
	}
}
`, f, priority, more, addresses)
	}
	return testhost.StartKeepalived(t, host, text)
}

// waitGatewayMAC returns when the status shows an interface's gateway with a MAC, and the programs know it. The status
// asks the kernel, whom the programs follow a moment later.
func waitGatewayMAC(t *testing.T, p *product.Product, nic string, address netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	await.Eventually(t, "the gateway has its new mac", func() error {
		gateways := p.Status().Interface(nic).Gateways
		for _, g := range gateways {
			if g.Address == address.String() && g.MAC != nil && *g.MAC == mac.String() {
				return nil
			}
		}
		return fmt.Errorf("gateways %+v", gateways)
	})
	maps := await.Must1[*bpf.Maps](t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	index := uint32(p.Status().Interface(nic).Index)
	await.Eventually(t, "the programs know its new mac", func() error {
		var (
			id    uint32
			known bpf.DatapathGateway
		)
		entries := maps.Gateways.Iterate()
		for entries.Next(&id, &known) {
			isIt := known.Ifindex == index && datapath.Address(known.Address) == address
			if isIt && known.Usable != 0 && bytes.Equal(known.Mac[:], mac) {
				return nil
			}
		}
		return errors.Join(errors.New("they do not"), entries.Err())
	})
}
