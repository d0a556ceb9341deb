// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	testproduct "replypath/test/product"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// againWithin is how soon replies are corrected again once somebody has removed pins.
const againWithin = 5 * time.Second

// What is logged then.
const (
	madeAgain     = "the pin directory had been removed, made again"
	pinnedAgain   = "pins had been removed, made again"
	attachedAgain = "programs had been taken off, attached again"
)

// removals are ways to remove the pin directory, or parts of it.
var removals = []struct {
	name, logged string
	clsact       bool   // it differs by clsact
	short        string // the mechanism that it is done by with -short
	remove       func(dir string) error
}{
	{"all of it", madeAgain, true, "clsact", removeAll},
	{"moved away", madeAgain, false, "", func(dir string) error { return os.Rename(dir, dir+"-moved") }},
	{"the links", attachedAgain, false, "", removeIn("links")},
	{"the maps", pinnedAgain, true, "", removeIn("maps")},
	{"single maps", pinnedAgain, false, "tcx", removeIn("maps/flows", "maps/interfaces", "maps/layout")},
	{"the programs", pinnedAgain, false, "", removeIn("maps/programs")},
	{"the journal", pinnedAgain, false, "", removeIn("journal")},
	{"all but the journal", pinnedAgain, false, "", removeIn("maps", "links")},
}

// removeAll is `rm -r`, as often as it takes where the daemon pins again what has just gone.
func removeAll(dir string) error {
	for deadline := time.Now().Add(againWithin); ; {
		err := os.RemoveAll(dir)
		if !errors.Is(err, unix.ENOTEMPTY) || time.Now().After(deadline) {
			return err
		}
	}
}

func removeIn(names ...string) func(dir string) error {
	return func(dir string) error {
		var errs []error
		for _, name := range names {
			errs = append(errs, removeAll(filepath.Join(dir, name)))
		}
		return errors.Join(errs...)
	}
}

// TestPinsRemoved has somebody remove the pins of a live daemon under conversations: they are back, and
// replies are corrected again, within five seconds, which is logged and counted; no flow and no count is lost, the lock is
// held, and the next start takes all over. Before, nothing was attached any more, for as long as the process lived.
func TestPinsRemoved(t *testing.T) {
	for _, mechanism := range mechanisms {
		for _, removal := range removals {
			if mechanism == "clsact" && !removal.clsact || short.Run(t) && removal.short != mechanism {
				continue
			}
			t.Run(mechanism+"/"+removal.name, func(t *testing.T) {
				t.Parallel()
				n, p := server.NewExact(t)
				d := start(p, mechanism)
				all := server.Talks{keepAsking(t, n, traffic.TCP, topology.IPv4), keepAsking(t, n, traffic.UDP, topology.IPv6)}
				before := p.Metrics()
				wantPinsBack(t, p, d, removal.logged, func() { await.Must(t, removal.remove(p.PinDir)) })
				wantAll(t, n, true)
				all.GoOn()
				all.Stop() // whichever way the answers went meanwhile
				after := p.Metrics()
				if went := before.Backwards(after); len(went) > 0 {
					t.Errorf("counters went backwards: %q", went)
				}
				await.Same(t, "flows that were lost and recorded again", 0, after.Sum("replypath_flow_readmissions_total"))
				for _, r := range all {
					findFlow(t, p, r.Conversation)
				}
				if _, err := os.Stat(p.PinDir + "-moved/maps"); err == nil {
					t.Error("what was moved away still holds pins")
				}
				wantOneLine(t, p.Expect(1, "run"), fmt.Sprint("pid ", d.PID()), p.PinDir)
				d.Kill()
				wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
				start(p, mechanism)
				if went := after.Backwards(p.Metrics()); len(went) > 0 {
					t.Errorf("after the next start counters went backwards: %q", went)
				}
			})
		}
	}
}

// wantPinsBack has somebody remove pins, and wants all of it back in time, with a warning and a count.
func wantPinsBack(t *testing.T, p *testproduct.Product, d *testproduct.Daemon, logged string, remove func()) {
	t.Helper()
	lines, counted := len(d.Log.Lines("level=WARN", logged)), p.Metrics().Sum("replypath_host_repairs_total", "object=program")
	began := time.Now()
	remove()
	d.WaitLog(lines+1, "level=WARN", logged)
	// What is made again while it is still being removed is made once more.
	await.Eventually(t, "both interfaces are attached, and what they need is pinned", func() error {
		if result := p.Run("status"); result.Code != 0 {
			return errors.New(result.String())
		}
		_, err := p.Get("/healthz")
		return err
	})
	took := time.Since(began)
	t.Logf("back after %s", took.Round(time.Millisecond))
	if took > await.Patient(againWithin) {
		t.Error("that is too late")
	}
	if now := p.Metrics().Sum("replypath_host_repairs_total", "object=program"); now <= counted {
		t.Errorf("%v repairs are counted, there were %v", now, counted)
	}
}

// TestBPFFSUnmounted unmounts the BPF file system of a live daemon: that is an error in the log, with the remedy, replies
// are still corrected, and once there is one again so are the pins.
func TestBPFFSUnmounted(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		t.Parallel()
		n, p := server.NewExact(t)
		mounted := t.TempDir()
		mount := func() { await.Must(t, unix.Mount("bpf", mounted, "bpf", 0, "")) }
		mount()
		t.Cleanup(func() { unix.Unmount(mounted, unix.MNT_DETACH) })
		p = p.WithPinDir(filepath.Join(mounted, "pins"))
		d := start(p, mechanism)
		t.Cleanup(func() { p.Expect(0, "detach", "--stop") })
		r := keepAsking(t, n, traffic.TCP, topology.IPv4)
		await.Must(t, unix.Unmount(mounted, unix.MNT_DETACH))
		d.WaitLog(1, "level=ERROR", mounted, "mount -t bpf")
		r.GoesOn()
		wantPinsBack(t, p, d, madeAgain, mount)
		wantAll(t, n, true)
		d.WaitLog(1, "no longer", "mount -t bpf")
		r.GoesOn()
		r.Stop()
	})
}
