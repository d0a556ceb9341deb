// SPDX-License-Identifier: Apache-2.0

package bigtables

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/harness"
	"replypath/test/topology"
)

const (
	containers   = 500
	comeEach     = 20 // a second, each for one that goes
	mostBusyHost = 0.5
)

// TestContainers has interfaces come and go, as those of containers do.
func TestContainers(t *testing.T) {
	needFigures(t)
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{})
	host := n.Server.Host
	for c := range containers {
		harness.Must(t, start(host, c))
	}
	conversation := harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	begun := time.Now()
	d := harness.On(t, host).Launch()
	answered := timeToAnswer(t, conversation) // no router lets the reply through that leaves by eth0
	d.WaitReady()
	ctx, cancel := context.WithTimeout(t.Context(), changesFor)
	defer cancel()
	settled, before := time.Now(), processorTime(t, d)
	comeAndGo(ctx, t, host)
	busy := (processorTime(t, d) - before).Seconds() / time.Since(settled).Seconds()
	t.Logf("%d interfaces: first corrected reply after %.2f s, ready after %.2f s, %.1f %% of a processor while %d a second come and go",
		containers, answered.Seconds(), settled.Sub(begun).Seconds(), 100*busy, comeEach)
	if answered > mostReady || busy > mostBusyHost {
		t.Errorf("wanted: %s, %.0f %%", mostReady, 100*mostBusyHost)
	}
}

// start makes the interface of a container.
func start(host *topology.Host, container int) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.Flags = fmt.Sprintf("c%d", container), 1 // up
	return host.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: fmt.Sprintf("p%d", container)})
}

// comeAndGo has the oldest container end for each that starts, until ctx ends.
func comeAndGo(ctx context.Context, t *testing.T, host *topology.Host) {
	t.Helper()
	tick := time.NewTicker(time.Second / comeEach)
	defer tick.Stop()
	for c := containers; ; c++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		link := harness.Must1[netlink.Link](t)(host.Netlink().LinkByName(fmt.Sprintf("c%d", c-containers)))
		harness.Must(t, host.Netlink().LinkDel(link))
		harness.Must(t, start(host, c))
	}
}
