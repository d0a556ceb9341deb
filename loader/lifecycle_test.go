// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/detach"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

// mechanisms are the ways to attach, with what a test needs to ask for them.
// TestMain takes out what the kernel does not have.
var mechanisms = map[attach.Mechanism]func(*Options){
	attach.TCX:    nil,
	attach.Clsact: byClsact,
}

func TestDetachLeavesTheHostAsItWas(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			b.setRPFilter("eth1", 1)
			before := b.trace()

			r := b.start(options)
			for _, name := range []string{"eth0", "eth1"} {
				i := b.status().of(name)
				if i == nil || !i.Attached || i.Mechanism == nil || *i.Mechanism != string(mechanism) || !i.Up {
					t.Errorf("status of %s: %+v", name, i)
				}
			}
			if got := b.rpFilter("eth1"); got != "2" {
				t.Errorf("rp_filter of eth1 is %s", got)
			}
			r.stop()
			if status := b.status(); !status.of("eth1").Attached || status.Daemon.Running {
				t.Errorf("after the end of the process: %+v", status)
			}
			if removed := b.detach(); len(removed) == 0 {
				t.Error("detach tells nothing")
			}
			if diff := cmp.Diff(before, b.trace()); diff != "" {
				t.Errorf("after detach (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the pin directory: %v", err)
			}
			if again := b.detach(); again != nil {
				t.Errorf("the second detach removed %v", again)
			}
		})
	}
}

func TestNothingIsPinned(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.inside(func() error {
		_, statusErr := status.Read(b.dir)
		_, modeErr := status.Mode(b.dir)
		_, setModeErr := status.SetMode(b.dir, "observe")
		for _, err := range []error{statusErr, modeErr, setModeErr} {
			if !errors.Is(err, ErrNotAttached) {
				t.Errorf("error %v", err)
			}
		}
		return nil
	})
}

// mapIDs tells the pinned maps apart from others of the same names.
func (b *bed) mapIDs() map[string]ebpf.MapID {
	b.Helper()
	ids := make(map[string]ebpf.MapID)
	files, err := filepath.Glob(filepath.Join(b.dir, "maps", "*"))
	harness.Must(b.T, err)
	for _, file := range files {
		switch filepath.Base(file) {
		case "programs", "layout", "verified": // pinned anew by every start
			continue
		}
		m, err := ebpf.LoadPinnedMap(file, nil)
		harness.Must(b.T, err)
		info, err := m.Info()
		harness.Must(b.T, err)
		id, _ := info.ID()
		ids[filepath.Base(file)] = id
		harness.Must(b.T, bpf.Close(m))
	}
	return ids
}

func (b *bed) flows() []flows.Flow {
	b.Helper()
	return read(b, func() ([]flows.Flow, error) {
		table, err := flows.Open(b.dir)
		if err != nil {
			return nil, err
		}
		list, err := table.List(flows.Filter{})
		return list, errors.Join(err, table.Close())
	})
}

// peers returns the sorted addresses that flows come from.
func peers(list []flows.Flow) []string {
	var peers []string
	for _, f := range list {
		peers = append(peers, f.Peer)
	}
	slices.Sort(peers)
	return peers
}

// pingB has A ask the address of B's eth1, in both families.
func pingB(t *testing.T, s *topology.S1) {
	t.Helper()
	for _, f := range s.Families() {
		if _, err := s.A.Ping(within(t), topology.Echo{To: s.B.Eth1.Address(f)}); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
	}
}

func TestRestartTakesOver(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			r := b.start(options)
			pingB(t, s)
			ids, lives, seen := b.mapIDs(), b.idsOf("eth1"), peers(b.flows())
			if len(seen) != len(s.Families()) {
				t.Fatalf("flows of %v", seen)
			}
			r.stop()
			if pid := b.journal().PID; pid != 0 {
				t.Errorf("pid %d after the end", pid)
			}
			pingB(t, s)

			b.start(options)
			if diff := cmp.Diff(ids, b.mapIDs()); diff != "" {
				t.Errorf("maps (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(lives, b.idsOf("eth1")); diff != "" {
				t.Errorf("ids of eth1 (-before +after):\n%s", diff)
			}
			for _, peer := range seen {
				if !slices.Contains(peers(b.flows()), peer) {
					t.Errorf("the flow of %s is lost", peer)
				}
			}
			pingB(t, s)
			if status := b.status(); !status.Daemon.Running || *status.Daemon.PID != os.Getpid() || *status.Daemon.Version != "test" {
				t.Errorf("daemon %+v", status.Daemon)
			}
		})
	}
}

// Egress programs of another version hand a move over in a map of their own, to a
// program of their own.
func TestSenderGoesWithItsHandovers(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil).stop()
	b.repinLarger("handovers")
	before := b.mapIDs()
	b.start(nil)
	after := b.mapIDs()
	for _, name := range []string{"handovers", "sender"} {
		if before[name] == after[name] {
			t.Errorf("map %s was taken over", name)
		}
	}
	if before["events"] != after["events"] {
		t.Error("the other maps were replaced too")
	}
	pingB(t, s)
}

// repinLarger puts a map with larger values in the place of one that is pinned.
func (b *bed) repinLarger(name string) {
	b.Helper()
	path := filepath.Join(b.dir, "maps", name)
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	harness.Must(b.T, err)
	defer pinned.Close()
	other, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: pinned.Type(), KeySize: pinned.KeySize(), ValueSize: pinned.ValueSize() + 8,
		MaxEntries: pinned.MaxEntries(), Flags: pinned.Flags(),
	})
	harness.Must(b.T, err)
	defer other.Close()
	harness.Must(b.T, os.Remove(path))
	harness.Must(b.T, other.Pin(path))
}

func TestMechanismChangesAtRestart(t *testing.T) {
	if _, has := mechanisms[attach.TCX]; !has {
		t.Skip("the kernel has no tcx (Linux 6.6)")
	}
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	before := b.trace()
	b.start(byClsact).stop()
	if changes := otherChanges(b.status()); len(changes) != 2 || changes[0].Undo != "tc qdisc del dev eth0 clsact" {
		t.Errorf("host changes %+v", changes)
	}
	b.start(nil).stop()
	// To remove the qdisc would lose packets: it stays until detach.
	if changes := otherChanges(b.status()); len(changes) != 2 {
		t.Errorf("host changes after the change to tcx: %+v", changes)
	}
	pingB(t, s)
	b.start(byClsact).stop()
	pingB(t, s)
	b.detach()
	if diff := cmp.Diff(before, b.trace()); diff != "" {
		t.Errorf("after detach (-want +got):\n%s", diff)
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	_, err := b.tryStart(nil)
	var owned *pins.OwnedError
	if !errors.As(err, &owned) || owned.PID != os.Getpid() || !errors.Is(err, ErrOwned) {
		t.Errorf("second start: %v", err)
	}
	b.inside(func() error {
		_, err := detach.Run(t.Context(), detach.Options{PinDir: b.dir, Log: b.logger()})
		if !errors.As(err, &owned) || owned.PID != os.Getpid() {
			t.Errorf("detach: %v", err)
		}
		return nil
	})
	if !b.status().of("eth1").Attached {
		t.Error("not attached any more")
	}
}

func TestForeignNamespaceIsRefused(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil).stop()
	before := b.trace()

	foreign := &bed{T: t, host: s.A.Host, dir: b.dir, log: b.log}
	if _, err := foreign.tryStart(nil); !errors.Is(err, ErrForeignNamespace) {
		t.Errorf("start: %v", err)
	}
	foreign.inside(func() error {
		if _, err := status.Read(b.dir); !errors.Is(err, ErrForeignNamespace) {
			t.Errorf("status: %v", err)
		}
		for _, stop := range []bool{false, true} {
			_, err := detach.Run(t.Context(), detach.Options{PinDir: b.dir, Stop: stop, Log: b.logger()})
			if !errors.Is(err, ErrForeignNamespace) {
				t.Errorf("detach: %v", err)
			}
		}
		return nil
	})
	if diff := cmp.Diff(before, b.trace()); diff != "" {
		t.Errorf("after refusals (-want +got):\n%s", diff)
	}
	if status := b.status(); !status.of("eth1").Attached {
		t.Errorf("status %+v", status)
	}
}

func TestNotOnBPFFS(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	_, err := b.tryStart(func(o *Options) { o.PinDir = filepath.Join(t.TempDir(), "replypath") })
	if !errors.Is(err, pins.ErrNoBPFFS) || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("error %v", err)
	}
}

var errInjected = errors.New("injected")

// failAfter takes so many steps of a start, fails then, and returns how many
// steps there are.
func (b *bed) failAfter(taken int, change func(*Options)) (steps int) {
	b.Helper()
	b.inside(func() error {
		l := &Loader{newCore(b.options(change))}
		all := start{l.core}.steps()
		steps = len(all)
		err := start{l.core}.attempt(append(all[:taken:taken], func() error { return errInjected }))
		if err == nil || err.Error() != errInjected.Error() {
			b.Errorf("after step %d: %v", taken, err)
		}
		return nil
	})
	return steps
}

func TestFailedStartIsUndone(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			// So that sockets that are bound to eth1 get a default route.
			b.run("ip", "route", "add", "10.77.0.0/16", "via", s.B.Eth1.Gateway(topology.IPv4).String(), "dev", "eth1")
			b.setRPFilter("eth1", 1)
			before, failures := b.snapshot(), 0
			for taken, steps := 1, 1; taken <= steps; taken++ {
				steps = b.failAfter(taken, options)
				failures++
				if diff := before.Diff(b.snapshot()); diff != "" {
					t.Errorf("a failure after step %d (-want +got):\n%s", taken, diff)
				}
				if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the pin directory after step %d: %v", taken, err)
				}
			}
			harness.Must(t, os.Mkdir(b.dir, 0o700))
			b.failAfter(b.failAfter(1, options), options)
			left, err := os.ReadDir(b.dir)
			if err != nil || len(left) != 0 {
				t.Errorf("left in a directory that was there before: %v, %v", left, err)
			}
			b.start(options)
			pingB(t, s)
			t.Logf("%d failures, 0 differences", failures)
		})
	}
}

// When nothing was there, nothing is left, the directory included.
func TestFailedStartRemovesItsDirectory(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	// An ingress qdisc is where clsact would have to be.
	for _, name := range []string{"eth0", "eth1"} {
		b.run("tc", "qdisc", "add", "dev", name, "ingress")
	}
	before := b.trace()
	_, err := b.tryStart(byClsact)
	if err == nil || !strings.Contains(err.Error(), "tc qdisc del") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, b.trace()); diff != "" {
		t.Errorf("after the failure (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin directory: %v", err)
	}
}

func TestDirectoryOfOthersIsRefused(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	foreign := filepath.Join(b.dir, "maps", "foreign")
	harness.Must(t, os.MkdirAll(foreign, 0o700))
	if _, err := b.tryStart(nil); !errors.Is(err, pins.ErrForeignContents) {
		t.Errorf("start: %v", err)
	}
	if removed := b.detach(); len(removed) != 0 {
		t.Errorf("removed %v", removed)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
	harness.Must(t, os.RemoveAll(b.dir))

	// What others pin beside ours stays as well.
	b.start(nil).stop()
	foreign = filepath.Join(b.dir, "foreign")
	harness.Must(t, os.Mkdir(foreign, 0o700))
	b.detach()
	left, err := os.ReadDir(b.dir)
	if err != nil || len(left) != 1 || left[0].Name() != "foreign" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// loseState leaves what a process leaves that is killed in its start: links and
// filters, no maps, and nothing in the journal.
func (b *bed) loseState() {
	b.Helper()
	harness.Must(b.T, os.RemoveAll(filepath.Join(b.dir, "maps")))
	journal, err := ebpf.LoadPinnedMap(filepath.Join(b.dir, "journal"), nil)
	harness.Must(b.T, err)
	defer journal.Close()
	harness.Must(b.T, journal.Put(uint32(0), make([]byte, journal.ValueSize())))
}

func TestDetachAfterACrashInTheStart(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			b.start(options).stop()
			b.loseState()
			b.detach()
			for _, line := range b.trace() {
				if strings.Contains(line, "filter bpf") || strings.Contains(line, "programs 1") || strings.Contains(line, "programs 2") {
					t.Errorf("left: %s", line)
				}
			}
		})
	}
}

func TestStartAfterACrashInTheStart(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	before := b.trace()
	b.start(nil).stop()
	b.loseState()
	b.start(func(o *Options) { o.Config.Interfaces = lastHop("eth1") }).stop()
	programs, err := 0, error(nil)
	b.inside(func() error {
		programs, err = attachedPrograms(s.B.Eth0.Index)
		return err
	})
	if programs != 0 {
		t.Error("a program is left on eth0, which is not managed")
	}
	b.detach()
	if diff := cmp.Diff(before, b.trace()); diff != "" {
		t.Errorf("after detach (-want +got):\n%s", diff)
	}
}
