package guide

import (
	"strings"
	"testing"
)

// runners run the commands of a page on the host that it speaks of, by the page's path.
var runners = map[string]func(*testing.T, *page){
	"README.md":              runReadme,
	"docs/guide/install.md":  runInstall,
	"docs/guide/roll-out.md": runRollOut,
	"docs/guide/commands.md": runCommandsPage,
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
	}
	h := newInstalled(t)
	p.run(h, "doctor", "check", "run", "try", "detach")
	// The others need what is attached.
	h.typed("systemctl start replypath", "", 0)
	p.run(h, "status", "mode", "flows", "explain", "trace", "top", "demo", "version, completion")
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
}
