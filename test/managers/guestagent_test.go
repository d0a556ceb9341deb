// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// forwarded is the address of a load balancer that hands packets on to eth1 unchanged.
var forwarded = netip.MustParseAddr("10.2.0.200")

// gceMetadata is GCE's service: one document, for whose next version the agent waits.
type gceMetadata struct {
	n *topology.TwoNIC

	mu        sync.Mutex
	version   int
	forwarded []netip.Addr
	changed   chan struct{} // is closed when the version is not the last any more
}

// forward hands on what is for some addresses to eth1, and for no others.
func (m *gceMetadata) forward(addresses ...netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.version, m.forwarded, m.changed = m.version+1, addresses, make(chan struct{})
}

func (m *gceMetadata) last() (version string, addresses []netip.Addr, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strconv.Itoa(m.version), m.forwarded, m.changed
}

func (m *gceMetadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	version, addresses, changed := m.last()
	if r.FormValue("wait_for_change") == "true" && r.FormValue("last_etag") == version {
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		version, addresses, _ = m.last()
	}
	type nic struct {
		MAC          string       `json:"mac"`
		ForwardedIPs []netip.Addr `json:"forwardedIps"`
	}
	w.Header().Set("ETag", version)
	_ = json.NewEncoder(w).Encode(map[string]any{"instance": map[string]any{
		"id": 1, "networkInterfaces": []nic{{MAC: m.n.Server.Eth0.MAC.String()}, {m.n.Server.Eth1.MAC.String(), addresses}},
	}})
}

// guestAgentUnit is the agent's.
const guestAgentUnit = "/usr/lib/systemd/system/google-guest-agent.service"

// guestAgentConfig leaves the agent the addresses of load balancers alone.
const guestAgentConfig = `[Daemons]
accounts_daemon = false
clock_skew_daemon = false
[InstanceSetup]
network_enabled = false
optimize_local_ssd = false
set_multiqueue = false
[NetworkInterfaces]
setup = false
`

// startGuestAgent boots a machine with networkd, and starts the agent there.
func startGuestAgent(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	m := host.NewMachine(t, n.Server.Host)
	m.Write("/etc/systemd/network/10-eth0.network", eth0File(n))
	m.Write("/etc/systemd/network/10-eth1.network", eth1File(n))
	m.Write("/etc/default/instance_configs.cfg", guestAgentConfig)
	m.Write(guestAgentUnit, string(await.Must1[[]byte](t)(os.ReadFile(guestAgentUnit))))
	// It sets the scheduler of every disk.
	m.Write("/etc/systemd/system/google-guest-agent.service.d/test.conf", "[Service]\nReadOnlyPaths=/sys\n")
	m.Enable("systemd-networkd.service", "/usr/lib/systemd/system/systemd-networkd.service")
	forgetAddresses(t, n)
	m.Boot()
	m.WaitBooted()
	waitConfigured(t, n)
	m.Run("systemctl", "start", "google-guest-agent.service")
}

// awaitForwarded returns when the agent has made the address local, or foreign.
func awaitForwarded(t *testing.T, n *topology.TwoNIC, there bool) {
	t.Helper()
	await.Eventually(t, "the agent follows the metadata", func() error {
		routes := host.Shell(t, n.Server.Host, "ip route show table local proto 66")
		if want := fmt.Sprintf("local %s dev eth1 scope host", forwarded); strings.Contains(routes, want) != there {
			return errors.New("routes of the agent: " + routes)
		}
		return nil
	})
}

// TestGuestAgent runs the agent of GCE with a metadata service in the place of the cloud's, which hands a load
// balancer's address on to eth1, takes it away and gives it again. The agent makes it local by a route, and no rule.
func TestGuestAgent(t *testing.T) {
	n, _ := newServer(t)
	metadata := &gceMetadata{n: n, forwarded: []netip.Addr{forwarded}, changed: make(chan struct{})}
	serveMetadata(t, n, metadata)
	startGuestAgent(t, n)
	awaitForwarded(t, n, true)
	traffic.Serve(t, n.Server.Host, forwarded)
	each := func(name string, want func(testing.TB, *topology.Server, *traffic.Conversation)) {
		t.Helper()
		for _, kind := range traffic.Kinds {
			t.Run(name+"/"+string(kind), func(t *testing.T) {
				want(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, forwarded))
			})
		}
	}
	each("the agent alone", wire.WantLost)
	p, _ := product.StartOn(t, n.Server.Host)
	each("with replypath", wire.WantByEth1)
	wantNothingFound(t, p)
	metadata.forward()
	awaitForwarded(t, n, false)
	p.AwaitOwn(forwarded, false, time.Now())
	metadata.forward(forwarded)
	awaitForwarded(t, n, true)
	p.AwaitOwn(forwarded, true, time.Now())
	each("it is back", wire.WantByEth1)
}
