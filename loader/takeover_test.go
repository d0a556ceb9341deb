// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/test/await"
)

// pinned opens all programs that are pinned, and returns what the kernel says of them.
func (b *server) pinned() map[string]*ebpf.ProgramInfo {
	b.Helper()
	entries, err := os.ReadDir(b.pin("programs"))
	await.Must(b.T, err)
	infos := make(map[string]*ebpf.ProgramInfo)
	for _, entry := range entries {
		program, err := ebpf.LoadPinnedProgram(b.pin("programs", entry.Name()), nil)
		await.Must(b.T, err)
		_, infos[entry.Name()] = b.look(program)
	}
	return infos
}

func (b *server) pin(elem ...string) string {
	return filepath.Join(append([]string{b.dir, "maps"}, elem...)...)
}

// pinnedIDs tells the pinned programs apart. They have to be of one datapath: the maps that they use are pinned, or those
// of their constants.
func (b *server) pinnedIDs() map[string]ebpf.ProgramID {
	b.Helper()
	ids, ofMaps := make(map[string]ebpf.ProgramID), slices.Collect(maps.Values(b.mapIDs()))
	for name, info := range b.pinned() {
		ids[name], _ = info.ID()
		used, _ := info.MapIDs()
		for _, id := range used {
			m, err := ebpf.NewMapFromID(id)
			await.Must(b.T, err)
			info, err := m.Info()
			await.Must(b.T, err)
			await.Must(b.T, bpf.Close(m))
			if !slices.Contains(ofMaps, id) && !strings.HasPrefix(info.Name, ".") {
				b.Errorf("%s uses another map %s than that which is pinned", name, info.Name)
			}
		}
	}
	return ids
}

// wholePins tells whether so many programs are pinned, which are the last to be.
func (b *server) wholePins(programs int) bool {
	entries, _ := os.ReadDir(b.pin("programs"))
	return len(entries) == programs
}

// TestProgramsAreTakenOver: what the verifier has seen it need not see again.
func TestProgramsAreTakenOver(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		b.addTun("tun1") // so that all programs are loaded
		r := b.start(repairSource, by(mechanism))
		b.awaitAttached("tun1")
		pinned, attached, ofMaps := b.pinnedIDs(), b.attached(), b.mapIDs()
		onCgroup := b.sourcePrograms()
		await.Same(t, "programs that are pinned", 10, len(pinned))
		wantTakenOver := func(after string) {
			t.Helper()
			onCgroupNow := b.sourcePrograms()
			await.Same(b, "after "+after+", pinned", pinned, b.pinnedIDs())
			await.Same(b, "after "+after+", attached", programsOf(attached), programsOf(b.attached()))
			await.Same(b, "after "+after+", on cgroup", onCgroup, onCgroupNow)
			await.Same(b, "after "+after+", their maps", ofMaps, b.mapIDs())
		}
		r.stop()
		r = b.start(repairSource, by(mechanism))
		wantTakenOver("a restart")

		// What is noted is pinned again with all else.
		await.Must(t, os.RemoveAll(b.pin()))
		eventually(t, "the pins are back", func() bool { return b.wholePins(len(pinned)) })
		r.stop()
		b.start(repairSource, by(mechanism)).stop()
		wantTakenOver("the pins were removed under a daemon")

		b.start(repairSource, by(mechanism), onTrial).stop()
		if diff := cmp.Diff(pinned, b.pinnedIDs()); !strings.Contains(diff, "egress") {
			t.Error("a trial has taken programs over")
		}
		b.takeBack()
		wantTakenOver("a trial was taken back")
		b.start(repairSource, by(mechanism)).stop()
		wantTakenOver("another start")

		r = b.start(repairSource, by(mechanism), onTrial)
		b.inside(r.Keep)
		r.stop()
		pinned, attached, ofMaps = b.pinnedIDs(), b.attached(), b.mapIDs()
		onCgroup = b.sourcePrograms()
		b.start(repairSource, by(mechanism)).stop()
		wantTakenOver("a trial was kept")

		b.eachFailure(func(string) {}, repairSource, by(mechanism))
		wantTakenOver("starts that failed")
		b.start(repairSource, by(mechanism)).stop()
		wantTakenOver("a start after those")
	})
}

// TestOtherProgramsAreLoaded: programs are taken over as a whole, and only if each is known to be what would be loaded.
func TestOtherProgramsAreLoaded(t *testing.T) {
	b := newServer(t)
	remove := func(name ...string) { await.Must(t, os.Remove(b.pin(name...))) }
	notes := func(do func(*ebpf.Map) error) {
		m, err := ebpf.LoadPinnedMap(b.pin("verified"), nil)
		await.Must(t, err)
		defer m.Close()
		await.Must(t, do(m))
	}
	key := [16]byte([]byte("egress\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	for name, change := range map[string]func(*Options){
		"nothing is noted":       func(*Options) { remove("verified") },
		"one program is missing": func(*Options) { remove("programs", "clock") },
		"another is in its place": func(*Options) {
			program, err := ebpf.LoadPinnedProgram(b.pin("programs", "clock"), nil)
			await.Must(t, err)
			defer program.Close()
			remove("programs", "held")
			other, err := program.Clone()
			await.Must(t, err)
			defer other.Close()
			await.Must(t, other.Pin(b.pin("programs", "held")))
		},
		"one is not noted":   func(*Options) { notes(func(m *ebpf.Map) error { return m.Delete(key) }) },
		"another is noted":   func(*Options) { notes(func(m *ebpf.Map) error { return m.Put(key, [32]byte{1}) }) },
		"a map is missing":   func(*Options) { remove("leads") },
		"another layout":     func(*Options) { b.setForeignLayout() },
		"another size":       func(o *Options) { o.Config.MaxEntries = 1 << 13 },
		"notes of a version": func(*Options) { remove("verified"); pinOtherNotes(t, b.pin("verified")) },
	} {
		b.start().stop()
		before := b.pinnedIDs()
		b.start(change).stop()
		for program, id := range b.pinnedIDs() {
			if before[program] == id {
				t.Errorf("%s: %s is the earlier process's", name, program)
			}
		}
	}
}

// pinOtherNotes pins a map in the place of the notes that has another shape.
func pinOtherNotes(t *testing.T, path string) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	await.Must(t, err)
	defer m.Close()
	await.Must(t, m.Pin(path))
}
