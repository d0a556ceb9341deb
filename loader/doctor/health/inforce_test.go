// SPDX-License-Identifier: Apache-2.0

package health

import (
	"testing"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

func TestConfigurations(t *testing.T) {
	const at = "at 2026-03-01 12:30:00"
	testhost.Check(t, Configurations, []testhost.Wants{
		{"nothing is attached", nil, nil},
		{"a file and flags", testhost.InForce(testhost.Flags), []string{"ok: in force: /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at}},
		{"neither", testhost.InForce(func(f *snapshot.InForce) { f.Path = "" }), []string{"ok: in force: the defaults, loaded " + at}},
		{"not written down", testhost.InForce(func(f *snapshot.InForce) { f.Config = nil }), []string{"ok: in force: /etc/replypath/replypath.yaml, loaded " + at}},
		{"no daemon", testhost.InForce(func(f *snapshot.InForce) { testhost.Flags(f); f.Running = false }), []string{
			"warning: no daemon runs: what is attached goes on by /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at +
				", and follows neither new interfaces and addresses nor gateways => systemctl start replypath",
		}},
		{"refused", testhost.InForce(func(f *snapshot.InForce) { f.Refused = "x:1: mode" }), []string{
			"warning: a later configuration was refused: the one before stays: x:1: mode ?? replypath check --config /etc/replypath/replypath.yaml",
		}},
		{"refused, and wrong still", testhost.InForce(func(f *snapshot.InForce) { f.Refused, f.File, f.Wrong = "x:1: mode", "x:1: mode", true }), []string{
			"warning: a later configuration was refused: the one before stays: x:1: mode, and the next start fails" +
				" ?? replypath check --config /etc/replypath/replypath.yaml",
		}},
		{"refused, and right by now", testhost.InForce(func(f *snapshot.InForce) { f.Refused, f.File = "x:1: mode", "it has changed since it was loaded" }), []string{
			"warning: /etc/replypath/replypath.yaml: it has changed since it was loaded: in force is what was loaded " + at + " => kill -HUP 7",
		}},
		{"changed", testhost.InForce(func(f *snapshot.InForce) { f.File = "it has changed since it was loaded" }), []string{
			"warning: /etc/replypath/replypath.yaml: it has changed since it was loaded: in force is what was loaded " + at + " => kill -HUP 7",
		}},
		{"gone", testhost.InForce(func(f *snapshot.InForce) { f.File, f.Wrong = "it is gone: put it back", true }), []string{
			"warning: /etc/replypath/replypath.yaml: it is gone: put it back: in force is what it said " + at +
				", and the next start fails ?? replypath check --config /etc/replypath/replypath.yaml",
		}},
	})
}
