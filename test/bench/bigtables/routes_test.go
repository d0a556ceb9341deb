// SPDX-License-Identifier: Apache-2.0

package bigtables

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
)

// speaker enters routes as a BGP speaker does, by a process that goes on.
type speaker struct {
	t        testing.TB
	commands io.Writer
	said     *bufio.Reader
	device   string
	via      map[topology.Family]netip.Addr
}

// newSpeaker returns one whose routes lead by an interface's gateways.
func newSpeaker(t testing.TB, host *topology.Host, nic *topology.Interface, via ...netip.Addr) *speaker {
	t.Helper()
	s := &speaker{t: t, device: nic.Name, via: make(map[topology.Family]netip.Addr)}
	for _, gateway := range via {
		s.via[topology.FamilyOf(gateway)] = gateway
	}
	c := host.Command(context.Background(), "ip", "-force", "-batch", "-")
	commands, said := await.Must1[io.WriteCloser](t)(c.StdinPipe()), await.Must1[io.ReadCloser](t)(c.StdoutPipe())
	await.Must(t, c.Start())
	t.Cleanup(func() { commands.Close(); _ = c.Wait() }) // what is there already, or is not, is no matter
	s.commands, s.said = commands, bufio.NewReader(said)
	return s
}

// network is the nth of those that the speaker knows of a family.
func network(family topology.Family, n int) string {
	if family == topology.IPv4 {
		return fmt.Sprintf("%d.%d.%d.0/24", 20+n>>16, n>>8&0xff, n&0xff)
	}
	return fmt.Sprintf("2a00:%x:%x::/48", n>>16, n&0xffff)
}

// send enters routes to networks, or takes them away, and returns when that is done: how is add or del.
func (s *speaker) send(how string, family topology.Family, from, to int) {
	s.t.Helper()
	w := bufio.NewWriter(s.commands)
	for n := from; n < to; n++ {
		fmt.Fprintf(w, "route %s %s via %s dev %s proto bgp\n", how, network(family, n), s.via[family], s.device)
	}
	fmt.Fprintln(w, "link show dev lo")
	await.Must(s.t, w.Flush())
	for line := ""; !strings.Contains(line, "link/loopback"); {
		line = await.Must1[string](s.t)(s.said.ReadString('\n'))
	}
}

// change has routes come and go, so many a second, until ctx ends. It returns how many changes there were.
func (s *speaker) change(ctx context.Context, each int) (changes int) {
	tick := time.NewTicker(time.Second / time.Duration(each))
	defer tick.Stop()
	const first = 2_000_000 // above those that stay
	for {
		select {
		case <-ctx.Done():
			return changes
		case <-tick.C:
		}
		family, how := topology.IPv4, "add"
		if changes/20%2 == 1 {
			family = topology.IPv6
		}
		if changes/10%2 == 1 {
			how = "del"
		}
		s.send(how, family, first+changes%10, first+changes%10+1)
		changes++
	}
}
