// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/status"
	"replypath/test/await"
)

func (b *server) wantMode(when, want string) {
	b.Helper()
	await.Same(b, when+" the mode", want, b.mode())
	traffic := read(b, func() (*status.Traffic, error) { return status.ReadTraffic(b.dir, b.maps()) })
	for _, i := range traffic.Interfaces {
		await.Same(b, when+" top's mode of "+i.Name, want, i.Mode)
	}
}

// TestModeByHandStays: who switched to observe had a reason that another layout of the maps does not change.
func TestModeByHandStays(t *testing.T) {
	for _, upgrade := range upgrades {
		t.Run(upgrade.what, func(t *testing.T) {
			b := newServer(t)
			r := b.start()
			b.setMode("observe")
			r.stop()
			upgrade.prepare(b)
			b.start(upgrade.options)
			b.wantMode("after the start", "observe")
			t.Logf("%s: by hand observe, after the start %s", upgrade.what, b.mode())
		})
	}
}

// wantByHand wants what is set by hand, which may be that what is configured holds.
func (b *server) wantByHand(when string, want bpf.DatapathMode) {
	b.Helper()
	if got, err := datapath.ReadMode(b.maps()); err != nil || got != want {
		b.Errorf("%s, set by hand is %d: %v, want %d", when, got, err, want)
	}
}

// TestObserveByHandIsMoreThanConfigured: observe by hand holds for what the configuration wants enforced later, be it an
// interface that comes or a reload, also where all that is there now is configured to observe.
func TestObserveByHandIsMoreThanConfigured(t *testing.T) {
	b := newServer(t)
	of := func(mode config.Mode) func(*config.Config) {
		return func(c *config.Config) {
			c.Mode = mode
			c.Interfaces = []config.Interface{{Name: "eth0"}, {Name: "eth1"}, {Name: "eth2", Mode: config.ModeEnforce}}
		}
	}
	r := b.start(func(o *Options) { of(config.ModeObserve)(o.Config) })
	b.setMode("observe")
	b.addEth2(0)
	b.awaitAttached("eth2")
	b.wantByHand("once eth2 has come", bpf.DatapathModeMODE_OBSERVE)
	await.Must(t, r.reload(of(config.ModeEnforce)))
	b.wantMode("after a reload with enforce", "observe")
	r.stop()
	b.start(func(o *Options) { of(config.ModeEnforce)(o.Config) })
	b.wantMode("after a start with enforce", "observe")
	b.setMode("enforce")
}
