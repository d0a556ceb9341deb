// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/detach"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

// TestEffectIsThatOfHooksAndModes: what was attached once does not count, nor what is configured
// where another mode was set by hand.
func TestEffectIsThatOfHooksAndModes(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	want := func(l *Loader, corrected, observed []string) {
		t.Helper()
		e, err := l.Effect()
		harness.Must(t, err)
		if diff := cmp.Diff([][]string{corrected, observed}, [][]string{e.Corrected, e.Observed}); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	switchTo := func(mode config.Mode) {
		_, err := status.SetMode(b.dir, string(mode))
		harness.Must(t, err)
	}
	_, err := b.tryStartBy(func(o Options) (*Loader, error) { // while nobody puts anything back
		l, err := New(o)
		harness.Must(t, err)
		want(l, []string{"eth0"}, []string{"eth1"})
		switchTo(config.ModeObserve)
		want(l, nil, []string{"eth0", "eth1"})
		switchTo(config.ModeEnforce)
		want(l, []string{"eth0", "eth1"}, nil)
		for _, served := range l.interfaces.All() {
			harness.Must(t, l.attacher.DetachFrom(served.Target(), attach.Egress))
		}
		want(l, nil, nil)
		return l, nil
	}, func(o *Options) {
		o.Config = parsed(t, "interfaces: [{name: eth0}, {name: eth1, mode: observe}]")
	})
	harness.Must(t, err)
}

// TestEffectOfADetach: who detaches lets it be known for as long as it waits.
func TestEffectOfADetach(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	checkDetaching(t, r.Loader, false)
	first, second := detach.Announce(b.dir), detach.Announce(b.dir)
	harness.Must(t, first.Close())
	checkDetaching(t, r.Loader, true)
	harness.Must(t, second.Close())
	checkDetaching(t, r.Loader, false)
}

func checkDetaching(t *testing.T, l *Loader, want bool) {
	t.Helper()
	e, err := l.Effect()
	harness.Must(t, err)
	if e.Detaching != want {
		t.Errorf("detaching: %t, not %t", e.Detaching, want)
	}
}
