package guide

import "testing"

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
		"replypath run --observe": {until: ready, stays: true},
	}
	p.run(newInstalled(t))
}

func runCommandsPage(t *testing.T, p *page) {
	p.ways = map[string]way{
		"replypath run": {until: ready, stays: true},
	}
	p.run(newInstalled(t))
}
