package loader

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/loader/source"
	"replypath/test/topology"
)

// doomed is a host whose network namespace ends before the test does. Its pin directory is the test's.
type doomed struct {
	*bed
	network *topology.S1
}

func newDoomed(t *testing.T) *doomed {
	t.Helper()
	network, err := topology.NewS1(within(t), topology.S1Options{})
	must(t, err)
	t.Cleanup(func() { network.Close() }) // if the test has not come that far
	return &doomed{bed: &bed{T: t, host: network.B.Host, dir: pinDir(t), log: new(log)}, network: network}
}

// die ends the namespace, which the kernel takes its time for.
func (d *doomed) die() {
	d.Helper()
	must(d.T, d.network.Close())
}

func repairSources(o *Options) { o.Config.RepairUDPSource = config.RepairTrue }

// afterTheEnd tries until the kernel has taken the namespace down.
func afterTheEnd(t *testing.T, try func() error) {
	t.Helper()
	var err error
	eventually(t, "what is pinned is nobody's", func() bool {
		err = try()
		return !errors.Is(err, pins.ErrForeignNamespace)
	})
	must(t, err)
}

// TestPinsOfAGoneNamespace: what worked for a network namespace that is gone keeps neither detach nor
// the next daemon, and what one does is not done to the host that it is run on.
func TestPinsOfAGoneNamespace(t *testing.T) {
	for mechanism, change := range map[string]func(*Options){"tcx": repairSources, "clsact": func(o *Options) { byClsact(o); repairSources(o) }} {
		for what, inherit := range map[string]func(*bed){
			"detach": func(b *bed) {
				before := b.snapshot()
				var removed []string
				afterTheEnd(b.T, func() (err error) { removed, err = b.tryDetach(); return err })
				if len(removed) != 2 || !strings.Contains(removed[1], "pins in "+b.dir+", of a network namespace that is gone") {
					b.Errorf("removed %q", removed)
				}
				if diff := before.Diff(b.snapshot()); diff != "" {
					b.Errorf("(-before +after):\n%s", diff)
				}
				if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
					b.Errorf("%s is left: %v", b.dir, err)
				}
			},
			"run": func(b *bed) {
				afterTheEnd(b.T, func() error { _, err := b.tryStart(nil); return err })
				if i := b.status().of("eth1"); i == nil || !i.Attached {
					b.Errorf("eth1 of the next: %+v", i)
				}
				if b.log.count("level=WARN msg=\"dropped ") != 2 {
					b.Error("it is not logged that pins and repairs were dropped")
				}
			},
		} {
			t.Run(mechanism+"/"+what, func(t *testing.T) {
				heir := newBed(t, newS1(t, topology.S1Options{}).B.Host)
				d := newDoomed(t)
				r := d.start(change)
				d.repairByDoctor("net.ipv4.conf.eth1.arp_ignore", "1")
				wantForeign(heir)
				r.stop()
				wantForeign(heir)
				d.die()
				inherit(heir)
				attached, err := source.Attached(filepath.Join(d.dir, "links"))
				if attached || err != nil {
					t.Errorf("the programs of the control group are left: %v, %v", attached, err)
				}
			})
		}
	}
}

// wantForeign wants that nothing is done to the pins of a namespace that is there.
func wantForeign(b *bed) {
	b.Helper()
	before := b.snapshot()
	_, detach := b.tryDetach()
	_, run := b.tryStart(nil)
	status := b.host.Do(func() error { _, err := ReadStatus(b.dir); return err })
	for what, err := range map[string]error{"detach": detach, "run": run, "status": status} {
		if what == "run" && errors.Is(err, pins.ErrOwned) {
			continue
		}
		if !errors.Is(err, pins.ErrForeignNamespace) || strings.Contains(err.Error(), "gone") {
			b.Errorf("%s beside who is there: %v", what, err)
		}
	}
	if diff := before.Diff(b.snapshot()); diff != "" {
		b.Errorf("(-before +after):\n%s", diff)
	}
}

// TestRepairsOfAGoneNamespace: so with what `replypath doctor --fix` alone has pinned.
func TestRepairsOfAGoneNamespace(t *testing.T) {
	for _, how := range []string{"detach", "run"} {
		t.Run(how, func(t *testing.T) {
			heir := newBed(t, newS1(t, topology.S1Options{}).B.Host)
			d := newDoomed(t)
			d.repairByDoctor("net.ipv4.conf.eth1.arp_ignore", "1")
			wantForeign(heir)
			_, err := heir.tryStart(nil)
			if err == nil || !strings.Contains(err.Error(), "nsenter --net=/proc/") || !strings.Contains(err.Error(), "replypath detach --pin-dir "+d.dir) {
				t.Errorf("which command undoes it is not told: %v", err)
			}
			d.die()
			if how == "detach" {
				var removed []string
				afterTheEnd(t, func() (err error) { removed, err = heir.tryDetach(); return err })
				if len(removed) != 1 || !strings.Contains(removed[0], "doctor --fix") {
					t.Errorf("removed %q", removed)
				}
				if _, err := os.Stat(d.dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is left: %v", d.dir, err)
				}
				return
			}
			afterTheEnd(t, func() error { _, err := heir.tryStart(nil); return err })
			if repairs, err := pins.ReadRepairs(d.dir); repairs != nil || err != nil {
				t.Errorf("left: %+v, %v", repairs, err)
			}
			if heir.log.count("doctor --fix") != 1 || heir.log.count("net.ipv4.conf.eth1.arp_ignore") == 0 {
				t.Error("what was dropped is not logged once")
			}
			if changes := heir.status().HostChanges; slices.ContainsFunc(changes, func(c HostChange) bool { return strings.Contains(c.Object, "arp_ignore") }) {
				t.Errorf("changes of the next: %+v", changes)
			}
		})
	}
}
