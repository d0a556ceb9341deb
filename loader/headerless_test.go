// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/test/harness"
	"replypath/test/topology"
)

// headerless are the pins of the programs for devices without an Ethernet header, ethernet those of the others on
// interfaces.
var headerless, ethernet = []string{"egress_l3", "ingress_l3"}, []string{"egress", "ingress"}

// addTun1 makes a device without an Ethernet header, which is managed.
func (b *bed) addTun1() {
	b.Helper()
	b.ip("tuntap add dev tun1 mode tun\nlink set tun1 up\naddr add 10.88.0.1/30 dev tun1\n")
}

// TestHeaderlessPrograms: those programs are loaded for the first device without an Ethernet header, whatever the
// process before had, and not before: the verifier takes as long for them as for all others.
func TestHeaderlessPrograms(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	both := slices.Concat(ethernet, headerless)
	r := b.start(nil)
	b.wantPrograms("without such a device", ethernet)
	b.addTun1()
	b.awaitAttached("tun1")
	entry := b.entry(b.idsOf("tun1")[0])
	if entry.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER) == 0 || entry.Mac != [6]uint8{} {
		t.Errorf("entry %+v", entry)
	}
	late := b.wantPrograms("once one has come", both)
	r.stop()
	b.failAfter(b.failAfter(1, nil), nil)
	if diff := cmp.Diff(late, b.wantPrograms("after a start that failed", both)); diff != "" {
		t.Errorf("after a start that failed, programs (-want +got):\n%s", diff)
	}
	b.start(nil).stop()
	if diff := cmp.Diff(late, b.wantPrograms("after a takeover beside one", both)); diff != "" {
		t.Errorf("after a takeover beside one, programs (-want +got):\n%s", diff)
	}
	b.ip("link del tun1\n")
	b.start(nil).stop()
	b.wantPrograms("after a takeover, the device gone", ethernet)
	b.addTun1()
	b.start(nil)
	b.wantPrograms("after a takeover, the device come", both)
}

// wantPrograms wants these programs of interfaces pinned, no others in the kernel, and each of those without a header on
// tun1. It returns their ids.
func (b *bed) wantPrograms(when string, names []string) map[string]ebpf.ProgramID {
	b.Helper()
	pinned := b.pinnedPrograms()
	if diff := cmp.Diff(slices.Sorted(slices.Values(names)), slices.Sorted(maps.Keys(pinned))); diff != "" {
		b.Errorf("%s, pinned (-want +got):\n%s", when, diff)
	}
	want := slices.Sorted(maps.Values(pinned))
	eventually(b.T, when+", the kernel has no programs but those that are pinned", func() bool { // others go a moment later
		return slices.Equal(b.loadedPrograms(), want)
	})
	var attached, wanted []string
	for _, line := range b.programIDs() {
		if fields := strings.Fields(line); fields[0] == "tun1" {
			attached = append(attached, fields[len(fields)-1])
		}
	}
	for _, name := range headerless {
		if id, is := pinned[name]; is {
			wanted = append(wanted, strconv.Itoa(int(id)))
		}
	}
	slices.Sort(attached)
	slices.Sort(wanted)
	if diff := cmp.Diff(wanted, attached); diff != "" {
		b.Errorf("%s, on tun1 (-want +got):\n%s", when, diff)
	}
	return pinned
}

// pinnedPrograms returns the ids of the pinned programs of interfaces, by their pins.
func (b *bed) pinnedPrograms() map[string]ebpf.ProgramID {
	b.Helper()
	ids := make(map[string]ebpf.ProgramID)
	for _, name := range slices.Concat(ethernet, headerless) {
		path := filepath.Join(b.dir, "maps", "programs", name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		program, err := ebpf.LoadPinnedProgram(path, nil)
		harness.Must(b.T, err)
		ids[name], _ = b.look(program)
	}
	return ids
}

// loadedPrograms returns the ids of all programs of interfaces in the kernel that use this datapath's flow table, whoever
// holds them.
func (b *bed) loadedPrograms() (ids []ebpf.ProgramID) {
	b.Helper()
	table := b.mapIDs()[bpf.DatapathMapEstablished]
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it has gone
		}
		_, info := b.look(program)
		// Of a program without types the first 15 bytes of its name are known.
		isOfInterfaces := strings.HasPrefix(info.Name, "replypath_ingre") || strings.HasPrefix(info.Name, "replypath_egres")
		if used, _ := info.MapIDs(); isOfInterfaces && slices.Contains(used, table) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// look returns what the kernel says of a program, and closes it.
func (b *bed) look(program *ebpf.Program) (ebpf.ProgramID, *ebpf.ProgramInfo) {
	b.Helper()
	defer program.Close()
	info, err := program.Info()
	harness.Must(b.T, err)
	id, _ := info.ID()
	return id, info
}
