// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/loader/status"
	"replypath/test/await"
)

func (b *server) wantMode(when, want string) {
	b.Helper()
	if got := b.mode(); got != want {
		b.Errorf("%s the mode is %s, want %s", when, got, want)
	}
}

// wantByHand wants what is set by hand, which may be that what is configured holds.
func (b *server) wantByHand(when string, want bpf.DatapathMode) {
	b.Helper()
	if got, err := datapath.ReadMode(b.maps()); err != nil || got != want {
		b.Errorf("%s, set by hand is %d: %v, want %d", when, got, err, want)
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

// TestEffectIsThatOfHooksAndModes: an interface's own mode gives way to the one that is set by hand, and nothing is
// corrected where a program is missing.
func TestEffectIsThatOfHooksAndModes(t *testing.T) {
	b := newServer(t)
	want := func(l *Loader, corrected, observed []string) {
		t.Helper()
		e, err := l.Effect()
		await.Must(t, err)
		await.Same(t, "(-want +got)", [][]string{corrected, observed}, [][]string{e.Corrected, e.Observed})
	}
	switchTo := func(mode config.Mode) {
		_, err := status.SetMode(b.dir, string(mode))
		await.Must(t, err)
	}
	_, err := b.tryStartBy(func(o Options) (*Loader, error) { // while nobody puts anything back
		l, err := New(o)
		await.Must(t, err)
		want(l, []string{"eth0"}, []string{"eth1"})
		if got := b.status().of("eth1").Mode; got != "observe" {
			t.Errorf("mode of eth1 is %s", got)
		}
		if got := b.entry(b.idsOf("eth1")[0]).Mode; got != uint8(bpf.DatapathModeMODE_OBSERVE) {
			t.Errorf("entry of eth1 has mode %d", got)
		}
		switchTo(config.ModeObserve)
		want(l, nil, []string{"eth0", "eth1"})
		switchTo(config.ModeEnforce)
		b.wantByHand("which eth1's own gives way to", bpf.DatapathModeMODE_ENFORCE)
		want(l, []string{"eth0", "eth1"}, nil)
		for _, served := range l.interfaces.All() {
			await.Must(t, l.attacher.DetachFrom(served.Target(), attach.Egress))
		}
		want(l, nil, nil)
		return l, nil
	}, func(o *Options) { o.Config = parsed(t, "interfaces: [{name: eth0}, {name: eth1, mode: observe}]") })
	await.Must(t, err)
}

// TestEffectOfADetach: one that is announced is seen until the last one that announced it ends.
func TestEffectOfADetach(t *testing.T) {
	b := newServer(t)
	r := b.start()
	want := func(want bool) {
		t.Helper()
		e, err := r.Effect()
		if await.Must(t, err); e.Detaching != want {
			t.Errorf("detaching: %t, not %t", e.Detaching, want)
		}
	}
	want(false)
	first, second := detach.Announce(b.dir), detach.Announce(b.dir)
	await.Must(t, first.Close())
	want(true)
	await.Must(t, second.Close())
	want(false)
}
