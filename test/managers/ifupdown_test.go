// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// ifupdown configures eth1 by /etc/network/interfaces.
type ifupdown struct {
	*machine
	n *topology.TwoNIC
}

// interfacesFile is eth1's part of it, without any rule or route.
func interfacesFile(n *topology.TwoNIC) (text string) {
	for f, family := range map[topology.Family]string{topology.IPv4: "inet", topology.IPv6: "inet6"} {
		for _, a := range n.Server.Eth1.Addresses {
			if topology.FamilyOf(a.Addr()) == f {
				text += fmt.Sprintf("iface eth1 %s static\n\taddress %s\n", family, a)
			}
		}
	}
	return text
}

// newIfupdown writes the file and has eth1 brought up by it.
func newIfupdown(t *testing.T, n *topology.TwoNIC, interfaces string) *ifupdown {
	t.Helper()
	u := &ifupdown{machine: newMachine(t, n.Server.Host), n: n}
	// Without duplicate address detection, which the real one would wait for.
	u.write("/etc/network/interfaces", strings.ReplaceAll(interfaces, "inet6 static\n", "inet6 static\n\tdad-attempts 0\n"))
	for _, a := range n.Server.Eth1.Addresses {
		await.Must(t, n.Server.Eth1.RemoveAddress(a))
	}
	u.run("ifup", "eth1")
	u.waitReady()
	return u
}

func (u *ifupdown) waitReady() {
	u.t.Helper()
	await.Must(u.t, u.n.Server.Eth1.WaitReady(await.Within(u.t, await.AnswerTime)))
}

// restart is `ifdown eth1; ifup eth1`.
func (u *ifupdown) restart() {
	u.t.Helper()
	u.run("ifdown", "eth1")
	u.run("ifup", "eth1")
	u.waitReady()
}

// TestIfupdownLosesRoutes sets up rules and routes by hand: the routes go with the interface.
func TestIfupdownLosesRoutes(t *testing.T) {
	n, recipe := newServer(t)
	u := newIfupdown(t, n, interfacesFile(n))
	recipe.Run(n.Server.Host, "By hand")
	eachQuestion(t, n, "before", wire.WantByEth1)
	u.restart()
	eachQuestion(t, n, "after", wire.WantLost)
}

// TestIfupdown takes eth1 down and up under replypath: once it is up again, nothing has changed, for what is new and
// for a connection that stayed open.
func TestIfupdown(t *testing.T) {
	n, _ := newServer(t)
	u := newIfupdown(t, n, interfacesFile(n))
	p, _ := product.StartOn(t, n.Server.Host)
	wires := wire.Tap(t, n.Server)
	var long []*traffic.Conversation
	for _, f := range n.Families() {
		c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
		traffic.Ask(t, c)
		long = append(long, c)
	}
	for range 2 {
		began := time.Now()
		u.restart()
		await.Eventually(t, "eth1 is managed again", func() error {
			if i := p.Status().Interface("eth1"); i == nil || !i.Attached || !i.Up {
				return fmt.Errorf("status of eth1: %+v", i)
			}
			return nil
		})
		for _, f := range n.Families() { // its addresses have come back, and are read a moment later
			p.AwaitOwn(n.Server.Eth1.Address(f), true, began)
		}
		t.Logf("down, up and managed again within %s", time.Since(began).Round(time.Millisecond))
		eachQuestion(t, n, "after", wire.WantByEth1)
		for _, c := range long {
			traffic.Ask(t, c)
		}
	}
	for _, c := range long {
		byEth1 := wires.WantEth1("a connection that stayed open", c.Answers())
		t.Logf("%s, open all the time: %d frames by eth1", c, len(byEth1))
	}
	wantManaged(t, p)
}

// TestIfupdownRules is what the recipe shows for ifupdown alone. Beside replypath plan calls the rules needless.
func TestIfupdownRules(t *testing.T) {
	n, recipe := newServer(t)
	newIfupdown(t, n, recipe.Text("With ifupdown", "interfaces")).restart()
	eachQuestion(t, n, "rules in the file", wire.WantByEth1)
	p, _ := product.StartOn(t, n.Server.Host)
	eachQuestion(t, n, "beside them", wire.WantByEth1)
	wantNeedless(t, p, "from 10.2.0.100 lookup 102", "from 2001:db8:2::100 lookup 102")
}
