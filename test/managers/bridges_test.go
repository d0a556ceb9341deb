// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// composeUp is what `docker compose up` does to the host's network for one project: a bridge, a container's cable in
// it, and rules for its addresses.
func composeUp(project int) (links, rules string) {
	bridge, cable := fmt.Sprintf("br-%012x", project), fmt.Sprintf("veth%07x", project)
	links = fmt.Sprintf(`link add %[1]s type bridge
link set %[1]s up
address add 172.20.%[3]d.1/24 dev %[1]s
address add fd00:20:%[3]x::1/64 dev %[1]s nodad
link add %[2]s type veth peer name c%[2]s
link set %[2]s master %[1]s
link set %[2]s up
link set c%[2]s up
`, bridge, cable, project)
	rules = fmt.Sprintf(`add rule ip nat post ip saddr 172.20.%[2]d.0/24 oifname != "%[1]s" masquerade
add rule ip nat pre iifname != "%[1]s" tcp dport %[3]d dnat to 172.20.%[2]d.2:80
add rule ip6 nat post ip6 saddr fd00:20:%[2]x::/64 oifname != "%[1]s" masquerade
add rule ip6 nat pre iifname != "%[1]s" tcp dport %[3]d dnat to [fd00:20:%[2]x::2]:80
`, bridge, project, 8000+project)
	return links, rules
}

// composeDown takes it away again.
func composeDown(project int) string {
	return fmt.Sprintf("link del veth%07x\nlink del br-%012x\n", project, project)
}

const dockerTables = `table ip nat {
	chain pre { type nat hook prerouting priority -100; }
	chain post { type nat hook postrouting priority 100; }
}
flush table ip nat
table ip6 nat {
	chain pre { type nat hook prerouting priority -100; }
	chain post { type nat hook postrouting priority 100; }
}
flush table ip6 nat
`

// TestContainerNetworks makes and deletes container networks under conversations: none of them notices, no such bridge
// is managed, and nothing is left of them.
func TestContainerNetworks(t *testing.T) {
	rounds, projects := 5, 20
	if short.Run(t) {
		rounds, projects = 2, 5
	}
	n, _ := newServer(t)
	testhost.Nft(t, n.Server.Host, dockerTables)
	p, d := product.StartOn(t, n.Server.Host)
	wires := wire.Tap(t, n.Server)
	conversations := make(map[*traffic.Conversation]*traffic.Talk)
	for _, f := range n.Families() {
		for _, kind := range traffic.Kinds {
			c := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
			conversations[c] = c.Keep(t)
		}
	}
	began := time.Now()
	for range rounds {
		changeNetworks(t, n.Server.Host, projects)
		eachQuestion(t, n, "meanwhile", wire.WantByEth1)
	}
	took := time.Since(began)
	answers := 0
	for c, talk := range conversations {
		answers += talk.Stop()
		wires.WantEth1(c.String(), c.Answers())
	}
	t.Logf("%d bridges made and deleted within %s, %d questions answered, 0 frames by eth0",
		rounds*projects, took.Round(time.Millisecond), answers)
	wantManaged(t, p)
	if lines := append(d.Log.Lines("level=WARN"), d.Log.Lines("level=ERROR")...); len(lines) > 0 {
		t.Errorf("complaints in the log: %q", lines)
	}
	await.Eventually(t, "they are forgotten", func() error {
		if left := p.Expect(0, "status", "--verbose").Stdout; strings.Contains(left, "br-") || strings.Contains(left, "veth") {
			return fmt.Errorf("left: %s", left)
		}
		return nil
	})
}

// changeNetworks makes networks one after the other and deletes them.
func changeNetworks(t *testing.T, host *topology.Host, projects int) {
	t.Helper()
	for project := range projects {
		links, rules := composeUp(project + 1)
		testhost.IPBatch(t, host, links)
		testhost.Nft(t, host, rules)
	}
	for project := range projects {
		testhost.IPBatch(t, host, composeDown(project+1))
	}
	testhost.Nft(t, host, dockerTables)
}
