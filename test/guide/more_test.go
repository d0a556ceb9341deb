// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/traffic"
	"replypath/test/wire"
)

func init() {
	runners["docs/guide/alerts.md"] = runAlerts
	runners["docs/guide/host-model.md"] = runHostModel
	runners["docs/guide/plan.md"] = runPlan
	runners["docs/guide/troubleshooting.md"] = runTroubleshooting
}

// configFile is the packaged service's.
const configFile = "/etc/replypath/replypath.yaml"

// restart has the service run by a configuration.
func (h *host) restart(config string) {
	h.t.Helper()
	h.m.Write(configFile, config)
	h.typed("systemctl restart replypath", "", 0)
}

// strict has the kernel check sources at eth1.
func (h *host) strict() {
	h.t.Helper()
	h.typed("sysctl -w net.ipv4.conf.eth1.rp_filter=1", "", 0)
}

// runPlan has the host live by a rule, and lose it.
func runPlan(t *testing.T, p *page) {
	p.ways = map[string]way{"replypath run --observe": {until: ready, stays: true}, "replypath plan --watch 1d": {until: "watch"}}
	h := newInstalled(t)
	h.typed("ip route add default via 10.4.0.1 dev eth1 table 101\nip rule add from 10.4.0.100 lookup 101", "", 0)
	p.run(h, "Watch", "Read the plan")
	h.wantSaid("replypath plan", "ready: replypath mode enforce")
	h.wantSaid("replypath plan", "not-needed  rule")
	p.run(h, "Remove a rule")
	h.wantSaid("replypath plan", "ready: replypath enforces already")
}

func runAlerts(t *testing.T, p *page) {
	h := newInstalled(t)
	h.restart("")
	p.ways = map[string]way{"replypath trace --peer 10.1.0.100": {until: "corrected"}}
	p.run(h, "ReplypathDown", "ReplypathInterfaceGone", "ReplypathRequestsUnanswered", "ReplypathUncorrectedPackets", "ReplypathLostPackets", "ReplypathMovesRefused", "ReplypathGatewayUnreachable",
		"ReplypathNoDefaultRoute", "ReplypathRepairsFlap", "ReplypathFlowTableFull", "ReplypathFlowsEvicted", "ReplypathFlowsNotEntered",
		"ReplypathUnparsedPackets", "ReplypathNewAsymmetry")
	h.restart("mode: observe\n")
	p.run(h, "ReplypathOnlyObserves")
	h.strict()
	p.run(h, "ReplypathStrictReversePathFilter")
	h.m.Write(configFile, "# Mine.\ninterfaces:\n  - name: eth1\n    next_hop: lasthop\n")
	p.ways["replypath check"] = way{code: 2}
	p.run(h, "ReplypathConfigurationRefused")
	h.restart("interfaces:\n  - name: eth0\n  - {name: eth2, mode: observe, next_hop: last-hop}\n")
	p.ways["replypath status"] = way{code: 3}
	p.run(h, "ReplypathInterfaceNotAttached")
	h.restart("interfaces:\n  - name: eth0\n  - name: eth1\n  - name: eth2\n")
	p.ways["replypath doctor"] = way{code: 3}
	p.run(h, "ReplypathInterfaceMissing")
}

func runHostModel(t *testing.T, p *page) {
	h := newInstalled(t)
	h.restart("")
	p.run(h, "Do you need the strong host model?")
	h.restart(p.text("Turn it on", "yaml"))
	h.wantSaid("replypath explain --peer 10.2.0.100:5432 --self 10.4.0.100", "strong-host")
	p.run(h, "Turn it on")
}

func runTroubleshooting(t *testing.T, p *page) {
	p.ways = map[string]way{
		"replypath trace --peer 10.1.0.100": {until: "corrected"},
		"replypath top":                     {until: "eth1"},
	}
	h := newInstalled(t)
	h.restart("")
	p.run(h, "Where does this reply go?", "no-flow", "What happens to the packets?", "How much is corrected?")
	h.typed("systemctl stop replypath\nreplypath detach", "", 0)
	h.restart("mode: observe\n")
	h.strict()
	p.run(h, "Observing shows too little")
	h.restart("manage_rp_filter: false\n")
	p.run(h, "doctor")
	p.ways["replypath run"] = way{until: ready}
	p.run(h, "Programs of others in the TC hooks")
}

// others are commands of recipes that the tests of their networks do not run, and which test is there instead.
var others = map[string]string{
	"systemctl enable --now replypath":  "TestPages runs it, for the roll-out",
	"iperf3 --server --bind 10.4.0.100": "TestConnectedWildcard asks a socket that is bound so",
}

// sources are the test files of each directory of tests but this one.
type sources map[string]string

func readTests(t *testing.T) sources {
	t.Helper()
	all := make(sources)
	for _, path := range await.Must1[[]string](t)(filepath.Glob("../*/*_test.go")) {
		if dir := filepath.Dir(path); dir != "../guide" {
			all[dir] += string(await.Must1[[]byte](t)(os.ReadFile(path)))
		}
	}
	return all
}

// run tells whether some package reads a recipe and names one of its sections.
func (all sources) run(recipe, section string) bool {
	for _, text := range all {
		if strings.Contains(text, strconv.Quote(recipe)) && strings.Contains(text, strconv.Quote(section)) {
			return true
		}
	}
	return false
}

func init() { runners["docs/guide/kubernetes.md"] = runKubernetes }

// clusterVariable names the directory in which test/guide/cluster has put what a cluster consists of.
const clusterVariable = "REPLYPATH_CLUSTER"

// runKubernetes has the host be the only node of a cluster.
func runKubernetes(t *testing.T, p *page) {
	dir := os.Getenv(clusterVariable)
	if dir == "" {
		t.Skip("make test-kubernetes runs it")
	}
	h := newHost(t)
	h.joinCluster(dir)
	before := testhost.TakeSnapshot(t, h.s.B.Host, "eth0", "eth1")
	h.wantMended(false)
	p.run(h, "Install")
	h.wantMended(false)
	p.run(h, "Enforce")
	h.wantMended(true)
	h.wantSaid("cat /proc/$(pidof replypath)/status", "Seccomp:\t2") // a filter: that of the runtime
	p.run(h, "Take it away")
	h.wantUnchanged(before)
	p.run(h, "Without Helm")
	h.wantMended(true)
	p.run(h, "Take it away without Helm")
	h.wantUnchanged(before)
}

// wantUnchanged wants nothing to be left on the host of what replypath has changed.
func (h *host) wantUnchanged(before testhost.Snapshot) {
	h.t.Helper()
	h.wantMended(false)
	await.Same(h.t, "the node has changed", before, testhost.TakeSnapshot(h.t, h.s.B.Host, "eth0", "eth1"))
}

// wantMended wants replies to leave by eth1, or by eth0 as they do without the product.
func (h *host) wantMended(mended bool) {
	h.t.Helper()
	for _, f := range h.s.Families() {
		wire.WantBy(h.t, h.s.B, traffic.NewConversation(h.t, traffic.TCP, h.s.A.Eth0, h.s.B.Eth1.Address(f)), mended)
	}
}
