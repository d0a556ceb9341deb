// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

func (b *bed) mode() string {
	b.Helper()
	return read(b, func() (string, error) { return status.Mode(b.dir) })
}

func (b *bed) setMode(mode string) (undone []string) {
	b.Helper()
	b.inside(func() (err error) {
		undone, err = status.SetMode(b.dir, mode)
		return err
	})
	if got := b.mode(); got != mode {
		b.Errorf("mode is %s, not %s", got, mode)
	}
	return undone
}

func TestMode(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	observe := func(o *Options) { o.Config.Mode = config.ModeObserve }

	r := b.start(nil)
	if got := b.mode(); got != "enforce" {
		t.Errorf("at first the mode is %s", got)
	}
	b.setMode("observe")
	harness.Must(t, r.reload(func(*config.Config) {}))
	if got := b.mode(); got != "observe" {
		t.Errorf("after a reload the mode is %s", got)
	}
	r.stop()

	r = b.start(nil)
	if got := b.status().Mode; got != "observe" || b.log.count("level=WARN msg=\"mode observe") != 1 {
		t.Errorf("after a start the mode is %s", got)
	}
	b.setMode("enforce")
	if got, err := datapath.ReadMode(b.maps().ModeByHand); err != nil || got != bpf.DatapathModeMODE_CONFIGURED {
		t.Errorf("the mode that is configured is set by hand, %d: %v", got, err)
	}
	r.stop()
	b.setMode("observe")
	b.setMode("enforce")
	pingB(t, s)

	r = b.start(observe)
	if got := b.mode(); got != "observe" {
		t.Errorf("with observe configured the mode is %s", got)
	}
	b.setMode("enforce")
	pingB(t, s)
	r.stop()
	b.start(observe)
	if got := b.mode(); got != "observe" {
		t.Errorf("after a start with observe configured the mode is %s", got)
	}
	if _, err := status.SetMode(b.dir, "perhaps"); err == nil {
		t.Error("a mode that there is not was accepted")
	}
}

// An interface's own mode gives way to the one that is set by hand.
func TestModeOfInterfaces(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(func(o *Options) {
		o.Config.Interfaces = []config.Interface{{Name: "eth0"}, {Name: "eth1", Mode: config.ModeObserve}}
	})
	if got := b.status().of("eth1").Mode; got != "observe" {
		t.Errorf("mode of eth1 is %s", got)
	}
	if got := b.entry(b.idsOf("eth1")[0]).Mode; got != uint8(bpf.DatapathModeMODE_OBSERVE) {
		t.Errorf("entry of eth1 has mode %d", got)
	}
	b.setMode("enforce")
	if got, err := datapath.ReadMode(b.maps().ModeByHand); err != nil || got != bpf.DatapathModeMODE_ENFORCE {
		t.Errorf("mode set by hand %d: %v", got, err)
	}
	pingB(t, s)
}

// TestObserveByHandIsMoreThanConfigured: observe by hand holds for what the configuration wants
// enforced later, be it an interface that comes or a reload, also where all that is there now is
// configured to observe.
func TestObserveByHandIsMoreThanConfigured(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
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
	if got, err := datapath.ReadMode(b.maps().ModeByHand); err != nil || got != bpf.DatapathModeMODE_OBSERVE {
		t.Errorf("eth2, which has come, goes by what is configured: mode set by hand %d: %v", got, err)
	}
	harness.Must(t, r.reload(of(config.ModeEnforce)))
	if got := b.mode(); got != "observe" {
		t.Errorf("after a reload with enforce the mode is %s", got)
	}
	r.stop()
	b.start(func(o *Options) { of(config.ModeEnforce)(o.Config) })
	if got := b.mode(); got != "observe" {
		t.Errorf("after a start with enforce the mode is %s", got)
	}
	b.setMode("enforce")
}
