// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
)

// runners run the commands of a page on the host that it speaks of, by the page's path.
var runners = map[string]func(*testing.T, *page){
	"README.md":                   runReadme,
	"docs/guide/install.md":       runInstall,
	"docs/guide/roll-out.md":      runRollOut,
	"docs/guide/commands.md":      runCommandsPage,
	"docs/guide/configuration.md": runConfiguration,
	"docs/guide/metrics.md":       runMetrics,
}

// ready is what the daemon logs when it has attached.
const ready = "ready"

// onTrial is what a trial says when it waits for Enter.
const onTrial = "on trial"

func runReadme(t *testing.T, p *page) {
	p.ways = map[string]way{
		"make test":               {step: "test"},
		"replypath run --observe": {until: ready, stays: true},
		"replypath try":           {until: onTrial, enter: "\n"},
	}
	p.run(newHost(t))
}

func runInstall(t *testing.T, p *page) {
	p.ways = map[string]way{
		"apt remove replypath": {answer: "y\n"},
		"apt purge replypath":  {answer: "y\n"},
	}
	h := newHost(t)
	p.run(h, "Packages", "Service", "Stop", "Undo", "Remove")
	p.run(h, "Without a package manager")
	p.elsewhere("Container image", "packaging/image_test.go")
}

func runRollOut(t *testing.T, p *page) {
	p.ways = map[string]way{
		"replypath run --observe":            {until: ready, stays: true},
		"replypath try":                      {until: onTrial, enter: "\n"},
		"replypath try --timeout 10m":        {until: onTrial, stays: true},
		"replypath try confirm":              {confirms: true},
		"replypath top":                      {until: "eth1"},
		"replypath trace --peer 10.1.0.0/24": {until: "corrected"},
	}
	h := newInstalled(t)
	p.run(h, "1. Look", "2. Observe", "3. Read what would change")
	h.wantMode("observe")
	p.run(h, "4. Try over SSH")
	h.wantMode("enforce")
	p.run(h, "5. Enforce")
	h.wantMode("observe")
	h.typed("replypath mode enforce", "", 0)
	for _, mode := range []string{"observe", "enforce", "observe"} { // which a reload applies, as step 5 has it
		h.m.Write("/etc/replypath/replypath.yaml", "mode: "+mode+"\n")
		h.typed("systemctl reload replypath", "", 0)
		h.wantSaid("replypath mode", mode)
	}
	h.typed("ip route add default via 10.4.0.1 dev eth1 table 101\nip rule add from 10.4.0.100 lookup 101", "", 0)
	h.wantSaid("replypath plan", "from 10.4.0.100")
	h.typed("ip rule del from 10.4.0.100 lookup 101", "", 0)
	// Packets of open connections are looked at again, too.
	h.typed("sysctl -w net.ipv4.conf.eth1.rp_filter=1\nip route flush cache", "", 0)
	p.run(h, "Strict rp_filter")
	h.wantSaid("nstat -az TcpExtIPReversePathFilter | grep -v ' 0 '", "TcpExtIPReversePathFilter")
}

// wantSaid wants a line of a command to contain some words, at last.
func (h *host) wantSaid(command string, words ...string) {
	h.t.Helper()
	await.Eventually(h.t, command, func() error {
		said := h.typed(command, "", 0)
		for line := range strings.Lines(said) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				return nil
			}
		}
		return fmt.Errorf("no line with %q:\n%s", words, said)
	})
}

// wantMode wants a mode to be in force.
func (h *host) wantMode(mode string) {
	h.t.Helper()
	if got := h.typed("replypath mode", "", 0); !strings.HasPrefix(got, mode) {
		h.t.Errorf("the mode is not %s: %s", mode, got)
	}
}

func runCommandsPage(t *testing.T, p *page) {
	p.ways = map[string]way{
		"replypath run": {until: ready, stays: true},
		"replypath run --observe --interface eth0 --interface eth1":        {until: ready, stays: true},
		`replypath run --config /etc/replypath/replypath.yaml --listen ""`: {until: ready, stays: true},
		"replypath try":                             {until: onTrial, enter: "\n"},
		"replypath try --timeout 30s":               {until: onTrial, stays: true},
		"replypath try confirm":                     {confirms: true},
		"replypath flows --follow --interface eth1": {until: "10.1.0.100"},
		"replypath trace --peer 10.1.0.0/24":        {until: "corrected"},
		"replypath top":                             {until: "eth1"},
		"replypath plan --watch 1d":                 {until: "watch"},
	}
	h := newInstalled(t)
	p.run(h, "doctor", "plan", "check", "run", "try", "detach")
	// The others need what is attached.
	h.typed("systemctl start replypath", "", 0)
	p.run(h, "status", "mode", "flows", "explain", "trace", "top", "version, completion")
}

func runConfiguration(t *testing.T, p *page) {
	h := newInstalled(t)
	h.typed("systemctl start replypath", "", 0)
	h.m.Write("/etc/replypath/replypath.yaml", p.text("An example", "yaml"))
	p.run(h)
}

func runMetrics(t *testing.T, p *page) {
	h := newInstalled(t)
	h.typed("systemctl start replypath", "", 0)
	p.run(h)
	h.m.Write("/etc/replypath/web.yaml", "{}\n")
	h.m.Write("/etc/replypath/replypath.yaml", p.text("Let a Prometheus elsewhere scrape", "yaml"))
	h.typed("systemctl restart replypath", "", 0)
	h.wantSaid("curl --silent --fail http://10.4.0.100:9945/metrics", "replypath_flows")
}
