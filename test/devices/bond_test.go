// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestBond has one of the ways be a bond, whose MAC becomes another when its port
// in use loses the carrier. Answers have the MAC that it has at the time.
func TestBond(t *testing.T) {
	if !short.Run(t) {
		eachWays(t, []ways{{"production is a bond", bond, ethernet}})
	}
	t.Run("replication is a bond", func(t *testing.T) {
		s := newSite(t, ethernet, bond)
		traffic.EachQuestion(t, "without replypath", s.wantLost)
		p, _ := product.StartOn(t, s.Server)
		wantManaged(t, p.Status(), "eth0", "eth1")
		traffic.EachQuestion(t, "by the first port", s.wantRight)
		s.failOver(t)
		traffic.EachQuestion(t, "by the second port", s.wantRight)
	})
}

// failOver takes the carrier from the bond's port in use, and waits until an answer has left from the bond's new MAC.
func (s *site) failOver(t *testing.T) {
	t.Helper()
	port := await.Must1[*topology.Interface](t)(s.Server.Interface("eth1a"))
	lost := time.Now()
	host.Shell(t, s.Router.Host, "ip link set eth1p1 down")
	before := net.HardwareAddr(bytes.Clone(s.Replication.MAC))
	await.Eventually(t, "the bond takes the MAC of the other port", func() error {
		if readMAC(t, s.Replication); bytes.Equal(before, s.Replication.MAC) {
			return fmt.Errorf("it has still that of %s, %s", port.Name, port.MAC)
		}
		return nil
	})
	seen := wire.Capture(t, s.Replication.Peer())
	await.Eventually(t, "an answer from the new MAC", func() error {
		c := s.ask(t, traffic.Ping, s.Replication.Address(topology.IPv4))
		if err := c.Ask(await.Within(t, await.AnswerTime)); err != nil {
			return err
		}
		if seen.Count(topology.All(c.Answers(), topology.FromMAC(s.Replication.MAC))) == 0 {
			return fmt.Errorf("%s", wire.Describe(seen.Frames(c.Answers())))
		}
		return nil
	})
	t.Logf("the MAC has changed once, from %s to %s; an answer from the new one %s after its port lost the carrier",
		before, s.Replication.MAC, time.Since(lost).Round(time.Millisecond))
}

// wantManaged wants exactly these interfaces to be managed.
func wantManaged(t *testing.T, status *product.Status, names ...string) {
	t.Helper()
	var managed []string
	for _, i := range status.Interfaces {
		managed = append(managed, i.Name)
		if !i.Attached {
			t.Errorf("%s is not attached", i.Name)
		}
	}
	await.Same(t, "managed", names, managed)
}
