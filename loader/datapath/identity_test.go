// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/pins"
	"replypath/test/await"
)

// mountBPF returns a directory on a bpf file system that only the test's own thread sees, and that goes with it.
func mountBPF(t *testing.T) string {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test
	dir := t.TempDir()
	err := errors.Join(
		unix.Unshare(unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("bpf", dir, "bpf", 0, ""),
	)
	if err != nil {
		t.Fatalf("mount a bpf file system, which needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// load loads a datapath of small tables whose pin directory is empty.
func load(t *testing.T) *Datapath {
	t.Helper()
	dir, err := pins.Own(filepath.Join(mountBPF(t), "pins"))
	await.Must(t, err)
	t.Cleanup(func() { dir.Close() })
	features, err := bpf.ProbeFeatures()
	await.Must(t, err)
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	d, err := Load(dir, Options{MaxEntries: 1 << 10, Seeds: seeds, Features: features, Log: slog.New(slog.DiscardHandler)})
	await.Must(t, err)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// divert has the descriptor of one map lead to another, as one does that was closed behind its
// owner's back and whose number was used again.
func divert(t *testing.T, m, to *ebpf.Map) {
	t.Helper()
	await.Must(t, unix.Dup3(to.FD(), m.FD(), unix.O_CLOEXEC))
}

// TestPartsOfControl: processes write their own parts of what the programs are told, in memory that all share.
func TestPartsOfControl(t *testing.T) {
	d := load(t)
	await.Must(t, d.Pin())
	other, err := OpenMaps(d.dir.Path())
	await.Must(t, err)
	defer other.Close()
	settings := bpf.DatapathSettings{Generation: 7}
	settings.Exclusions[1].Count = 9
	filter := bpf.DatapathTraceRequest{Peer: [2]uint64{3, 4}, Until: 5}
	await.Must(t, errors.Join(
		PutMode(other, bpf.DatapathModeMODE_OBSERVE), d.Configuration.Set(settings), other.Grace.Set(uint32(6)), other.TraceFilter.Set(filter)))
	for what, m := range map[string]*bpf.Maps{"the daemon": &d.Maps, "another process": other} {
		var (
			mode  bpf.DatapathMode
			got   bpf.DatapathSettings
			grace uint32
			trace bpf.DatapathTraceRequest
		)
		await.Must(t, errors.Join(m.ModeByHand.Get(&mode), m.Configuration.Get(&got), m.Grace.Get(&grace), m.TraceFilter.Get(&trace)))
		if mode != bpf.DatapathModeMODE_OBSERVE || got != settings || grace != 6 || trace != filter {
			t.Errorf("%s reads mode %d, generation %d, grace %d, filter %v", what, mode, got.Generation, grace, trace)
		}
	}
}

// What is read and written, and what is going to be pinned, is looked at before it is.
func TestCheckMapsFindsAnotherMap(t *testing.T) {
	d := load(t)
	if err := d.maps.check(&d.Maps); err != nil {
		t.Errorf("maps that are what they were: %v", err)
	}
	spare := newMap(t, bpf.DatapathMapGateways, d.Gateways.MaxEntries()) // of the very same sizes
	for what, m := range map[string]*ebpf.Map{"read": d.Gateways, "pinned": d.maps.all[bpf.DatapathMapGateways]} {
		own, err := m.Clone()
		await.Must(t, err)
		divert(t, m, spare)
		if err := d.maps.check(&d.Maps); !errors.Is(err, errAstray) {
			t.Errorf("another map is %s: %v", what, err)
		}
		divert(t, m, own)
		if err := errors.Join(d.maps.check(&d.Maps), own.Close()); err != nil {
			t.Error(err)
		}
	}
}
