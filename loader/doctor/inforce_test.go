package doctor

import (
	"testing"
)

func TestConfigurations(t *testing.T) {
	const at = "at 2026-03-01 12:30:00"
	runTable(t, configurations, []wants{
		{"nothing is attached", nil, nil},
		{"a file and flags", inForce(flags), []string{"ok: in force: /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at}},
		{"neither", inForce(func(f *InForce) { f.Path = "" }), []string{"ok: in force: the defaults, loaded " + at}},
		{"not written down", inForce(func(f *InForce) { f.Config = nil }), []string{"ok: in force: /etc/replypath/replypath.yaml, loaded " + at}},
		{"no daemon", inForce(func(f *InForce) { flags(f); f.Running = false }), []string{
			"warning: no daemon runs: what is attached goes on by /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at +
				", and follows neither new interfaces and addresses nor gateways => systemctl start replypath",
		}},
		{"refused", inForce(func(f *InForce) { f.Refused = "x:1: mode" }), []string{
			"warning: a later configuration was refused, the one before stays: x:1: mode ?? replypath check --config /etc/replypath/replypath.yaml",
		}},
		{"changed", inForce(func(f *InForce) { f.File = "it has changed since it was loaded" }), []string{
			"warning: /etc/replypath/replypath.yaml: it has changed since it was loaded: in force is what was loaded " + at + " => kill -HUP 7",
		}},
		{"gone", inForce(func(f *InForce) { f.File, f.Wrong = "it is gone: put it back", true }), []string{
			"warning: /etc/replypath/replypath.yaml: it is gone: put it back: in force is what it said " + at +
				", and the next start fails ?? replypath check --config /etc/replypath/replypath.yaml",
		}},
	})
}
