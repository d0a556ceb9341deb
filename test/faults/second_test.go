// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestSecondDefaultWhileWaiting has an answer by eth1 sent in the moment in which the kernel has given eth0's router up and the
// daemon does not know yet: it waits for that router's MAC. The moment is made longer here.
func TestSecondDefaultWhileWaiting(t *testing.T) {
	b := newBed(t, topology.IPv6, secondDefault)
	d := b.start()
	open := b.conversation(traffic.TCP)
	b.ask(open)
	b.cutCable()
	d.WaitLog(1, `msg="interface is down" interface=eth0`) // the kernel has dropped the entry before
	b.ask(b.conversation(traffic.UDP))                     // the daemon has let go what waited for the dropped entry
	d.Signal(unix.SIGSTOP)
	b.awaitStopped(d)
	b.ask(b.conversation(traffic.UDP))
	b.awaitEntry(netlink.NUD_FAILED)
	await.Must(t, b.net.Server.SetSysctl("net/ipv6/neigh/eth0/retrans_time_ms", "1000"))
	release := product.Quiet(t)
	asked := make(chan error, 1)
	go func() { asked <- open.Ask(await.Within(t, await.AnswerTime)) }()
	b.awaitEntry(netlink.NUD_INCOMPLETE)
	b.wantLetGoAtOnce("the router was given up", d, asked)
	release()
	b.askForSomeTime("after it", open)
}

// awaitEntry returns when the kernel's entry of eth0's gateway is in a state, which it may be in for moments only.
func (b *bed) awaitEntry(state int) {
	b.Helper()
	eth0 := b.net.Server.Eth0
	gateway := net.IP(eth0.Peer().Address(b.family).AsSlice())
	b.Eventually(fmt.Sprintf("the entry is in state %#x", state), func() error {
		entries, err := b.net.Server.Netlink().NeighList(eth0.Index, netlink.FAMILY_ALL)
		if slices.ContainsFunc(entries, func(n netlink.Neigh) bool { return n.IP.Equal(gateway) && n.State == state }) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("entries %+v", entries))
	})
}
