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

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/loader/source"
	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/topology"
)

func repairSource(o *Options) { o.Config.RepairUDPSource = config.RepairTrue }

// sourceLinks returns the links on the cgroup, and the programs that they run.
func (b *server) sourceLinks() (links []link.ID, programs []ebpf.ProgramID) {
	b.Helper()
	for _, path := range b.sourcePins() {
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		await.Must(b.T, err)
		info, err := l.Info()
		await.Must(b.T, errors.Join(err, l.Close()))
		links, programs = append(links, info.ID), append(programs, info.Program)
	}
	return links, programs
}

func (b *server) sourcePins() []string { return source.Pins(filepath.Join(b.dir, "links")) }

// wantOnCgroup wants programs to be attached, whoever holds the links, or not to be.
func wantOnCgroup(t *testing.T, want bool, programs ...ebpf.ProgramID) {
	t.Helper()
	path, err := source.Cgroup()
	await.Must(t, err)
	cgroup, err := os.Open(path)
	await.Must(t, err)
	defer cgroup.Close()
	var found []ebpf.ProgramID
	for _, kind := range []ebpf.AttachType{ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: kind})
		await.Must(t, err)
		for _, p := range result.Programs {
			found = append(found, p.ID)
		}
	}
	for _, program := range programs {
		if slices.Contains(found, program) != want {
			t.Errorf("program %d is attached: %t", program, !want)
		}
	}
}

func (b *server) wantRepair(want bpf.DatapathSourceRepair) {
	b.Helper()
	if got := bpf.DatapathSourceRepair(b.settings().Repair); got != want {
		b.Errorf("repair %d, want %d", got, want)
	}
}

// wantUpdatedSource wants other programs in the same links, and returns them.
func (b *server) wantUpdatedSource(what string, links []link.ID, programs []ebpf.ProgramID) []ebpf.ProgramID {
	b.Helper()
	now, others := b.sourceLinks()
	if len(now) != 2 || !slices.Equal(links, now) || others[0] == programs[0] || others[1] == programs[1] {
		b.Errorf("%s: links %v became %v, programs %v %v", what, links, now, programs, others)
	}
	wantOnCgroup(b.T, false, programs...)
	wantOnCgroup(b.T, true, others...)
	return others
}

// TestSourceTakeover replaces the programs by link update, leaves those of an earlier process on the maps that stay pinned
// where it fails, and takes them off in the end.
func TestSourceTakeover(t *testing.T) {
	b := newServer(t)
	b.start(repairSource).stop()
	links, programs := b.sourceLinks()
	if wantOnCgroup(t, true, programs...); len(links) != 2 {
		t.Fatalf("links %v", links)
	}
	b.failAfter(len(start{newCore(b.options())}.steps())-1, repairSource, larger) // all but the pinning
	if same, samePrograms := b.sourceLinks(); !slices.Equal(links, same) || !slices.Equal(programs, samePrograms) {
		t.Errorf("after a failure: links %v became %v, programs %v %v", links, same, programs, samePrograms)
	}
	// Nobody needs it any more, but it may be needed again any moment.
	r := b.start(anotherBuild)
	programs = b.wantUpdatedSource("by another build", links, programs)
	b.wantRepair(bpf.DatapathSourceRepairREPAIR_ON)
	await.Must(t, r.reload(largerConfig))
	programs = b.wantUpdatedSource("with other maps", links, programs)
	r.stop()
	b.start(repairSource) // with those of before
	b.wantUpdatedSource("by a start with other maps", links, programs)
	b.wantRepair(bpf.DatapathSourceRepairREPAIR_ON)
}

// TestSourceFailure tells what is in the way, attaches what it can later, and nobody waits for questions meanwhile.
func TestSourceFailure(t *testing.T) {
	b := newServer(t)
	conn, err := b.net.B.ListenPacket(t.Context(), "udp", "[::]:5300")
	await.Must(t, err)
	defer conn.Close()
	// Somebody else's program, where a link belongs.
	inTheWay, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	await.Must(t, err)
	defer inTheWay.Close()
	await.Must(t, os.MkdirAll(filepath.Join(b.dir, "links"), 0o700))
	await.Must(t, inTheWay.Pin(b.sourcePins()[0]))
	journal, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 1 << 20, MaxEntries: 1})
	await.Must(t, err)
	await.Must(t, errors.Join(journal.Pin(filepath.Join(b.dir, "journal")), journal.Close()))

	r := b.start()
	b.wantRepair(bpf.DatapathSourceRepairREPAIR_OFF)
	isAvailable := func() bool {
		return slices.ContainsFunc(b.status().Features, func(f status.Feature) bool {
			return f.Name == "repair_udp_source" && f.Available
		})
	}
	if isAvailable() || len(b.status().Errors) == 0 {
		t.Errorf("features %+v, errors %q", b.status().Features, b.status().Errors)
	}
	await.Must(t, inTheWay.Unpin())
	await.Must(t, r.reload())
	b.wantRepair(bpf.DatapathSourceRepairREPAIR_ON)
	if b.wantNoErrors(); !isAvailable() {
		t.Errorf("features %+v", b.status().Features)
	}
}

// TestSourceWithToldNamespace: what a program tells of the network namespace is what newer kernels tell directly, and the
// programs work with it, as on kernels before 5.14.
func TestSourceWithToldNamespace(t *testing.T) {
	b := newAnsweringServer(t)
	for _, host := range []*topology.Host{b.net.A.Host, b.host} {
		await.Must(t, host.Do(func() error {
			want, err := pins.CurrentNamespace()
			await.Must(t, err)
			cgroup, err := source.Cgroup()
			await.Must(t, err)
			got, err := source.AskNamespace(cgroup)
			if err != nil || got == 0 || (want.Cookie != 0 && got != want.Cookie) {
				t.Errorf("%s: cookie %d, %v, want %d", host.Name, got, err, want.Cookie)
			}
			return nil
		}))
	}

	conn, err := b.net.B.ListenPacket(t.Context(), "udp", "[::]:5300")
	await.Must(t, err)
	defer conn.Close()
	b.inside(func() error {
		l := &Loader{newCore(b.options(repairSource))}
		steps := start{l.core}.steps()
		forget := func() error { l.state.Namespace.Cookie = 0; return nil }
		await.Must(t, start{l.core}.attempt(slices.Insert(steps, len(steps)-2, forget)))
		defer l.Close()
		if l.source.Namespace() == 0 {
			t.Error("the namespace was not told")
		}
		return nil
	})
	for _, f := range b.net.Families() {
		asked := netip.AddrPortFrom(b.eth1.Address(f), 5300)
		client, err := b.net.A.Dial(within(t), "udp", asked.String())
		await.Must(t, err)
		defer client.Close()
		_, err = client.Write([]byte("question"))
		await.Must(t, err)
		buffer := make([]byte, 100)
		n, from, err := conn.ReadFrom(buffer)
		await.Must(t, err)
		_, err = conn.WriteTo(buffer[:n], from)
		await.Must(t, err)
		deadline, _ := within(t).Deadline()
		await.Must(t, client.SetReadDeadline(deadline))
		if _, err := client.Read(buffer); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}
