// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/loader/source"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

// repairing asks for the source repair.
func repairing(when config.RepairUDPSource) func(*Options) {
	return func(o *Options) { o.Config.RepairUDPSource = when }
}

// sourceLinks returns the links on the cgroup, and the programs that they run.
func (b *bed) sourceLinks() (links []link.ID, programs []ebpf.ProgramID) {
	b.Helper()
	for _, path := range source.Pins(filepath.Join(b.dir, "links")) {
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		harness.Must(b.T, err)
		info, err := l.Info()
		harness.Must(b.T, err)
		harness.Must(b.T, l.Close())
		links, programs = append(links, info.ID), append(programs, info.Program)
	}
	return links, programs
}

// isAttachedToCgroup tells whether the program is, whoever holds the link.
func isAttachedToCgroup(t *testing.T, program ebpf.ProgramID) bool {
	t.Helper()
	path, err := source.Cgroup()
	harness.Must(t, err)
	cgroup, err := os.Open(path)
	harness.Must(t, err)
	defer cgroup.Close()
	for _, kind := range []ebpf.AttachType{ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: kind})
		harness.Must(t, err)
		if slices.ContainsFunc(found.Programs, func(p link.AttachedProgram) bool { return p.ID == program }) {
			return true
		}
	}
	return false
}

func (b *bed) repair() bpf.DatapathSourceRepair {
	b.Helper()
	var settings bpf.DatapathSettings
	harness.Must(b.T, b.maps().Configuration.Lookup(uint32(0), &settings))
	return bpf.DatapathSourceRepair(settings.Repair)
}

// TestSourceTakeover leaves the programs on their links, replaces them by link update where
// the maps are others, and takes them off in the end.
func TestSourceTakeover(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(repairing(config.RepairTrue)).stop()
	before, old := b.sourceLinks()
	if len(before) != 2 || !isAttachedToCgroup(t, old[0]) || !isAttachedToCgroup(t, old[1]) {
		t.Fatalf("links %v", before)
	}
	// Nobody needs it any more, but it may be needed again any moment.
	r := b.start(repairing(config.RepairAuto))
	after, programs := b.sourceLinks()
	if !slices.Equal(before, after) {
		t.Errorf("links %v became %v", before, after)
	}
	if !slices.Equal(old, programs) {
		t.Errorf("programs %v became %v", old, programs)
	}
	if got := b.repair(); got != bpf.DatapathSourceRepairREPAIR_ON {
		t.Errorf("repair %d", got)
	}
	harness.Must(t, r.reload(func(c *config.Config) { c.MaxEntries *= 2 }))
	resized, last := b.sourceLinks()
	if !slices.Equal(before, resized) || slices.Equal(programs, last) {
		t.Errorf("with other maps: links %v became %v, programs %v %v", before, resized, programs, last)
	}
	r.stop()
	b.detach()
	for _, program := range last {
		if isAttachedToCgroup(t, program) {
			t.Errorf("program %d is still attached", program)
		}
	}
}

// TestSourceIsPutBack attaches again what somebody else has detached.
func TestSourceIsPutBack(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(repairing(config.RepairTrue))
	path := source.Pins(filepath.Join(b.dir, "links"))[0]
	l, err := link.LoadPinnedLink(path, nil)
	harness.Must(t, err)
	harness.Must(t, l.Detach())
	harness.Must(t, l.Close())
	r.verifyNow()
	_, programs := b.sourceLinks()
	if len(programs) != 2 || !isAttachedToCgroup(t, programs[0]) || !isAttachedToCgroup(t, programs[1]) {
		t.Errorf("programs %v", programs)
	}
}

// TestSourceIsUndone attaches in a start that fails later.
func TestSourceIsUndone(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.inside(func() error {
		l := &Loader{newCore(b.options(repairing(config.RepairTrue)))}
		broken := errors.New("broken")
		var programs []ebpf.ProgramID
		err := start{l.core}.attempt(append(start{l.core}.steps(), func() error {
			_, programs = b.sourceLinks()
			return broken
		}))
		if !errors.Is(err, broken) || len(programs) != 2 {
			t.Errorf("error %v, programs %v", err, programs)
		}
		for _, program := range programs {
			if isAttachedToCgroup(t, program) {
				t.Errorf("program %d is still attached", program)
			}
		}
		return nil
	})
}

// TestSourceStaysInAFailedTakeover leaves the programs of an earlier process on the
// maps that stay pinned.
func TestSourceStaysInAFailedTakeover(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(repairing(config.RepairTrue)).stop()
	links, programs := b.sourceLinks()
	larger := func(o *Options) {
		repairing(config.RepairTrue)(o)
		o.Config.MaxEntries *= 2
	}
	begun := len(start{newCore(b.options(larger))}.steps()) - 1 // all but the pinning
	b.failAfter(begun, larger)
	sameLinks, samePrograms := b.sourceLinks()
	if !slices.Equal(links, sameLinks) || !slices.Equal(programs, samePrograms) {
		t.Errorf("links %v became %v, programs %v %v", links, sameLinks, programs, samePrograms)
	}
	b.start(larger)
	sameLinks, others := b.sourceLinks()
	if !slices.Equal(links, sameLinks) || len(others) != 2 || slices.Equal(programs, others) {
		t.Errorf("after a start: links %v became %v, programs %v %v", links, sameLinks, programs, others)
	}
	if got := b.repair(); got != bpf.DatapathSourceRepairREPAIR_ON {
		t.Errorf("repair %d", got)
	}
}

// TestSourceFollowsTheSockets looks at what is there when the loader starts.
func TestSourceFollowsTheSockets(t *testing.T) {
	for _, c := range []struct {
		what, network, address string
		connected              bool
		want                   bpf.DatapathSourceRepair
	}{
		{"wildcard", "udp4", "0.0.0.0:5300", false, bpf.DatapathSourceRepairREPAIR_ON},
		{"wildcard6", "udp6", "[::]:5300", false, bpf.DatapathSourceRepairREPAIR_ON},
		{"any-port", "udp4", "0.0.0.0:0", false, bpf.DatapathSourceRepairREPAIR_ON},
		{"bound", "udp4", "10.4.0.100:5300", false, bpf.DatapathSourceRepairREPAIR_WATCH},
		{"loopback", "udp6", "[::1]:5300", false, bpf.DatapathSourceRepairREPAIR_WATCH},
		{"connected", "udp4", "10.4.0.100:5300", true, bpf.DatapathSourceRepairREPAIR_WATCH},
		{"dhcp", "udp4", "0.0.0.0:68", false, bpf.DatapathSourceRepairREPAIR_WATCH},
		{"mdns", "udp6", "[::]:5353", false, bpf.DatapathSourceRepairREPAIR_WATCH},
		{"excluded", "udp4", "0.0.0.0:5301", false, bpf.DatapathSourceRepairREPAIR_WATCH},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			if c.connected {
				conn, err := s.B.Dial(t.Context(), c.network, c.address)
				harness.Must(t, err)
				defer conn.Close()
			} else {
				conn, err := s.B.ListenPacket(t.Context(), c.network, c.address)
				harness.Must(t, err)
				defer conn.Close()
			}
			b.start(func(o *Options) {
				o.Config.Exclude = []config.Exclusion{{Protocol: unix.IPPROTO_UDP, SelfPort: 5301}}
			})
			if got := b.repair(); got != c.want {
				t.Errorf("repair %d, want %d", got, c.want)
			}
			if links, _ := b.sourceLinks(); (len(links) > 0) != (c.want == bpf.DatapathSourceRepairREPAIR_ON) {
				t.Errorf("links %v", links)
			}
		})
	}
}

// TestSourceFailure tells what is in the way, attaches what it can later, and
// nobody waits for questions meanwhile.
func TestSourceFailure(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	conn, err := s.B.ListenPacket(t.Context(), "udp", "[::]:5300")
	harness.Must(t, err)
	defer conn.Close()
	harness.Must(t, os.MkdirAll(filepath.Join(b.dir, "links"), 0o700))
	// Somebody else's, whatever it is.
	inTheWay := pinSomething(t, source.Pins(filepath.Join(b.dir, "links"))[0])
	journal, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 1 << 20, MaxEntries: 1})
	harness.Must(t, err)
	harness.Must(t, journal.Pin(filepath.Join(b.dir, "journal")))
	harness.Must(t, journal.Close())

	r := b.start(nil)
	if got := b.repair(); got != bpf.DatapathSourceRepairREPAIR_OFF {
		t.Errorf("repair %d", got)
	}
	feature := func() status.Feature {
		features := b.status().Features
		return features[slices.IndexFunc(features, func(f status.Feature) bool { return f.Name == "repair_udp_source" })]
	}
	if f := feature(); f.Available || len(b.status().Errors) == 0 {
		t.Errorf("feature %+v, errors %q", f, b.status().Errors)
	}
	harness.Must(t, inTheWay.Unpin())
	harness.Must(t, r.reload(func(*config.Config) {}))
	if got, f := b.repair(), feature(); got != bpf.DatapathSourceRepairREPAIR_ON || !f.Available || len(b.status().Errors) != 0 {
		t.Errorf("repair %d, feature %+v, errors %q", got, f, b.status().Errors)
	}
}

// pinSomething pins a program where a link belongs.
func pinSomething(t *testing.T, path string) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	harness.Must(t, err)
	t.Cleanup(func() { program.Close() })
	harness.Must(t, program.Pin(path))
	return program
}

// TestNamespaceIsTold compares what a program tells with what newer kernels tell
// directly.
func TestNamespaceIsTold(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	for _, host := range []*topology.Host{s.A.Host, s.B.Host} {
		harness.Must(t, host.Do(func() error {
			want, err := pins.CurrentNamespace()
			harness.Must(t, err)
			cgroup, err := source.Cgroup()
			harness.Must(t, err)
			got, err := source.AskNamespace(cgroup)
			if err != nil || got == 0 || (want.Cookie != 0 && got != want.Cookie) {
				t.Errorf("%s: cookie %d, %v, want %d", host.Name, got, err, want.Cookie)
			}
			return nil
		}))
	}
}

// TestSourceWithToldNamespace has the programs work with the cookie that was
// told, as on kernels before 5.14.
func TestSourceWithToldNamespace(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	conn, err := s.B.ListenPacket(t.Context(), "udp", "[::]:5300")
	harness.Must(t, err)
	defer conn.Close()
	b.inside(func() error {
		l := &Loader{newCore(b.options(repairing(config.RepairTrue)))}
		steps := start{l.core}.steps()
		forget := func() error { l.state.Namespace.Cookie = 0; return nil }
		harness.Must(t, start{l.core}.attempt(slices.Insert(steps, len(steps)-2, forget)))
		defer l.Close()
		if l.source.Namespace() == 0 {
			t.Error("the namespace was not told")
		}
		return nil
	})
	for _, f := range s.Families() {
		asked := netip.AddrPortFrom(s.B.Eth1.Address(f), 5300)
		client, err := s.A.Dial(within(t), "udp", asked.String())
		harness.Must(t, err)
		defer client.Close()
		_, err = client.Write([]byte("question"))
		harness.Must(t, err)
		buffer := make([]byte, 100)
		n, from, err := conn.ReadFrom(buffer)
		harness.Must(t, err)
		_, err = conn.WriteTo(buffer[:n], from)
		harness.Must(t, err)
		deadline, _ := within(t).Deadline()
		harness.Must(t, client.SetReadDeadline(deadline))
		if _, err := client.Read(buffer); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}
