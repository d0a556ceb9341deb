package scenario

import (
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// routers is a server whose eth1 has several routers.
type routers struct {
	*topology.Routers
	nics []*topology.Interface
}

func newRouters(t *testing.T) routers {
	t.Helper()
	r := routers{Routers: harness.Build(t, topology.NewRouters)}
	r.nics = []*topology.Interface{r.Server.Eth0, r.Server.Eth1}
	for _, f := range r.Families() {
		harness.Serve(t, r.Server.Host, r.Server.Eth1.Address(f))
	}
	return r
}

// bring has one of the routers bring what the client sends to eth1.
func (r routers) bring(t *testing.T, router int) {
	t.Helper()
	harness.Shell(t, r.Client, fmt.Sprintf(`
		ip -4 route replace 192.168.1.0/24 via 10.9.0.%[1]d
		ip -6 route replace 2001:db8:1::/64 via 2001:db8:9::%[1]d`, router+1))
}

// to is the exit by eth1 to a MAC.
func (r routers) to(mac net.HardwareAddr) exit { return exit{r.nics, r.Server.Eth1, mac} }

// TestSeveralRouters has three routers bring questions by eth1, all of which stand
// in routes: each flow goes back through its own, also when the next question of
// another flow comes by another. A flow whose questions come by another router
// from then on goes there.
func TestSeveralRouters(t *testing.T) {
	r := newRouters(t)
	for i := range r.At {
		harness.Shell(t, r.Server.Host, fmt.Sprintf(`
			ip -4 route add default via 192.168.1.%[1]d metric 500%[1]d
			ip -6 route add default via 2001:db8:1::%[1]d metric 500%[1]d`, i+1))
	}
	harness.On(t, r.Server.Host).Start()
	var begun []*harness.Conversation
	var by []int
	for i := range r.At {
		r.bring(t, i)
		for _, f := range both {
			for _, kind := range harness.Kinds {
				c := harness.NewConversation(t, kind, r.ClientEth0, r.Server.Eth1.Address(f))
				exits := harness.TapAll(t, r.nics...)
				harness.Must(t, c.Ask(harness.Within(t, harness.AnswerTime)))
				r.to(r.Inside[i].MAC).want(exits, c.String(), c.Answers())
				begun, by = append(begun, c), append(by, i)
			}
		}
	}
	for n, c := range begun {
		r.bring(t, by[n])
		r.to(r.Inside[by[n]].MAC).wantAnswers(t, c, c.Answers())
	}
}

// TestPeerChangesRouter has a connection's questions come by another router of the
// same NIC: the answer to the first of them goes there.
func TestPeerChangesRouter(t *testing.T) {
	r := newRouters(t)
	harness.On(t, r.Server.Host).Start()
	for _, f := range both {
		c := harness.NewConversation(t, harness.TCP, r.ClientEth0, r.Server.Eth1.Address(f))
		for _, router := range []int{0, 1, 2, 0} {
			r.bring(t, router)
			exits := harness.TapAll(t, r.nics...)
			harness.Must(t, c.Ask(harness.Within(t, harness.AnswerTime)))
			r.to(r.Inside[router].MAC).want(exits, c.String(), c.Answers())
		}
	}
}

// virtualMAC is that of VRRP's virtual router (RFC 9568, 7.3) with the number that
// keepalived is given here.
var virtualMAC = map[topology.Family]net.HardwareAddr{
	topology.IPv4: {0, 0, 0x5e, 0, 1, 51}, topology.IPv6: {0, 0, 0x5e, 0, 2, 51},
}

// TestVRRP has two routers share eth1's gateway by VRRP (keepalived), with their
// own MACs and with the virtual one. When the master dies, connections in which
// only the server speaks go to the other one, without a word from their client.
func TestVRRP(t *testing.T) {
	for _, virtual := range []bool{false, true} {
		t.Run(fmt.Sprintf("virtual mac %t", virtual), func(t *testing.T) { testVRRP(t, virtual) })
	}
}

func testVRRP(t *testing.T, virtual bool) {
	r := newRouters(t)
	var keepalived [2]*harness.Program
	for i := range keepalived {
		keepalived[i] = keepAlive(t, r.At[i].Host, 200-i*100, virtual)
		if i == 0 {
			keepalived[i].WaitLog(2, "Entering MASTER STATE")
		} else {
			keepalived[i].WaitLog(2, "Entering BACKUP STATE")
		}
	}
	mac := func(f topology.Family, master int) net.HardwareAddr {
		if virtual {
			return virtualMAC[f]
		}
		return r.Inside[master].MAC
	}
	p := harness.On(t, r.Server.Host)
	p.Start("--config", harness.WriteConfig(t, `
interfaces:
  - name: eth0
  - name: eth1
    gateways: [192.168.1.254, "2001:db8:1::254"]
`))
	gateway := addresses("192.168.1.254", "2001:db8:1::254")
	r.bring(t, 0)
	pushes := make(map[topology.Family]*push)
	var talks []*harness.Conversation
	for _, f := range both {
		waitGatewayMAC(t, p, "eth1", gateway[f], mac(f, 0))
		asked := r.Server.Eth1.Address(f)
		pushes[f] = newPush(t, r.Client, r.Server.Host, asked, asked)
		r.wantPush(t, pushes[f], mac(f, 0))
		for _, kind := range harness.Kinds {
			c := harness.NewConversation(t, kind, r.ClientEth0, asked)
			harness.Must(t, c.Ask(harness.Within(t, harness.AnswerTime)))
			talks = append(talks, c)
		}
	}

	// Power off: it says nothing any more.
	harness.Must(t, r.Inside[0].Peer().SetDown())
	keepalived[0].Signal(unix.SIGKILL)
	keepalived[1].WaitLog(2, "Entering MASTER STATE")
	for _, f := range both {
		waitGatewayMAC(t, p, "eth1", gateway[f], mac(f, 1))
		r.wantPush(t, pushes[f], mac(f, 1))
	}
	r.bring(t, 1)
	for _, c := range talks {
		r.to(mac(topology.FamilyOf(c.Self.Addr()), 1)).wantAnswers(t, c, c.Answers())
	}
}

// wantPush has the server speak and wants that to go to a MAC.
func (r routers) wantPush(t *testing.T, p *push, mac net.HardwareAddr) {
	t.Helper()
	exits := harness.TapAll(t, r.nics...)
	p.push()
	r.to(mac).want(exits, "what the server pushes", topology.All(p.segments, topology.Flags(topology.PSH, topology.PSH)))
}

// keepAlive runs keepalived on a router.
func keepAlive(t *testing.T, host *topology.Host, priority int, virtualMAC bool) *harness.Program {
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
	advert_int 0.1
	%s
	virtual_ipaddress {
		%s
	}
}
`, f, priority, more, addresses)
	}
	return harness.StartKeepalived(t, host, text)
}
