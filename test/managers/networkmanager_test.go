package managers

import (
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// reactivate does over netlink what NetworkManager does at `nmcli connection up
// eth1`: it takes the interface's addresses away, with which its routes go, and
// sets it up anew. DHCP clients do the same when they get another lease. In between
// it waits for whoever has to see the interface without them.
func reactivate(t *testing.T, i *topology.Interface, between func(netip.Addr)) {
	t.Helper()
	for _, a := range i.Addresses {
		harness.Must(t, i.RemoveAddress(a))
	}
	for _, a := range i.Addresses {
		between(a.Addr())
	}
	for _, a := range i.Addresses {
		harness.Must(t, i.AddAddress(a))
	}
	harness.Must(t, i.WaitReady(harness.Within(t, harness.AnswerTime)))
}

// TestNetworkManagerLosesRoutes sets up rules and routes by hand: the routes go
// with the addresses.
func TestNetworkManagerLosesRoutes(t *testing.T) {
	n, recipe := newServer(t)
	recipe.Run(n.Server.Host, "By hand")
	eachKind(t, n, "before", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
	// The kernel keeps routes of other tables; NetworkManager does not.
	runOn(t, n.Server.Host, "ip", "route", "flush", "dev", "eth1", "table", "102")
	runOn(t, n.Server.Host, "ip", "-6", "route", "flush", "dev", "eth1", "table", "102")
	reactivate(t, n.Server.Eth1, func(netip.Addr) {})
	eachKind(t, n, "after", func(t *testing.T, c *harness.Conversation) { harness.WantLost(t, n.Server, c) })
}

// TestNetworkManager activates eth1 anew under replypath: once it is up again,
// nothing has changed.
func TestNetworkManager(t *testing.T) {
	n, _ := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	for range 2 {
		reactivate(t, n.Server.Eth1, p.WaitNotOwn)
		waitManaged(t, p)
		eachKind(t, n, "after", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
	}
	wantManaged(t, p)
}

// runOn runs a command on a host and wants success.
func runOn(t *testing.T, host *topology.Host, command ...string) {
	t.Helper()
	output, err := host.Command(harness.Within(t, harness.AnswerTime), command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", command, err, output)
	}
}
