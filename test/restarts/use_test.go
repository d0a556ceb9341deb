// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/test/harness"
)

// use is what a daemon takes of the host: its own memory, open files, and the kernel's
// memory for all maps that it has ever had, as long as they are there.
type use struct {
	t      *testing.T
	p      *harness.Product
	d      *harness.Daemon
	tables ebpf.MapID // the largest table
	// ever are all maps but program arrays, of which the kernel loses one for good that
	// somebody opens while it is about to be freed (prog_array_map_clear() takes a
	// reference each time, for work that may be under way already). They are looked
	// for once, at the end.
	ever, calls map[ebpf.MapID]bool

	rss    []uint64 // bytes, at each look
	files  []uint64 // that are open
	pinned uint64   // bytes of all maps that are pinned, at the last look
	most   uint64   // bytes of all maps that are there, at any look
	// settled are the same once those of before are freed, the first time with tables of
	// a size, and last the last time.
	settled map[int]uint64
	last    uint64
}

func watchUse(t *testing.T, p *harness.Product, d *harness.Daemon) *use {
	t.Helper()
	u := &use{
		t: t, p: p, d: d, ever: make(map[ebpf.MapID]bool), calls: make(map[ebpf.MapID]bool),
		settled: make(map[int]uint64),
	}
	u.tables = u.tableID()
	u.pinned = u.addPinned()
	return u
}

func (u *use) String() string {
	early, late := halves(u.rss)
	earlyFiles, lateFiles := halves(u.files)
	return fmt.Sprintf("looked %d times: the daemon takes %d MiB (the median), at first %d, at most %d, and %d open files, at first %d; its maps %d MiB at most, %d bytes at the end",
		len(u.rss), median(late)>>20, median(early)>>20, slices.Max(u.rss)>>20, median(lateFiles), median(earlyFiles),
		u.most>>20, u.last)
}

// tableID returns the kernel's number of the largest table.
func (u *use) tableID() ebpf.MapID {
	u.t.Helper()
	id, _, _ := u.pinnedMap(filepath.Join(u.p.PinDir, "maps", "established"))
	return id
}

// pinnedMap returns a map's number and type, and the memory that the kernel takes for it.
func (u *use) pinnedMap(path string) (ebpf.MapID, ebpf.MapType, uint64) {
	u.t.Helper()
	m := harness.Must1[*ebpf.Map](u.t)(ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true}))
	defer m.Close()
	info := harness.Must1[*ebpf.MapInfo](u.t)(m.Info())
	id, known := info.ID()
	memory, told := info.Memlock()
	// Before 5.11 that of a device map is told as 0, and on every kernel that of a trie without entries.
	if untold := info.Type == ebpf.DevMap || info.Type == ebpf.LPMTrie; !known || !told && !untold {
		u.t.Fatalf("the kernel does not tell the number of map %s or its memory: %t, %t", path, known, told)
	}
	return id, info.Type, memory
}

// addPinned notes the maps that are pinned, and returns the memory for them.
func (u *use) addPinned() (sum uint64) {
	u.t.Helper()
	harness.Must(u.t, filepath.WalkDir(u.p.PinDir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && (entry.Name() == "programs" || entry.Name() == "links") {
			return fs.SkipDir
		}
		if err != nil || entry.IsDir() {
			return err
		}
		id, kind, memory := u.pinnedMap(path)
		if kind == ebpf.ProgramArray {
			u.calls[id] = true
			return nil
		}
		u.ever[id] = true
		sum += memory
		return nil
	}))
	return sum
}

// addOpen notes the maps that the daemon has open: those of before, and the constants of
// programs, are not pinned.
func (u *use) addOpen() {
	u.t.Helper()
	for _, path := range harness.Must1[[]string](u.t)(filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", u.d.PID()))) {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile
		}
		harness.Must(u.t, err)
		if _, number, isMap := strings.Cut(string(text), "map_id:"); isMap {
			var id ebpf.MapID
			harness.Must1[int](u.t)(fmt.Sscan(number, &id))
			if !strings.Contains(string(text), programArray) {
				u.ever[id] = true
			}
		}
	}
}

// programArray stands in the fdinfo of such a map.
var programArray = fmt.Sprintf("map_type:\t%d\n", ebpf.ProgramArray)

// total is the memory for all maps that there are, and forgets the others.
func (u *use) total() (sum uint64) {
	u.t.Helper()
	for id := range u.ever {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			delete(u.ever, id)
			continue
		}
		harness.Must(u.t, err)
		memory, _ := harness.Must1[*ebpf.MapInfo](u.t)(m.Info()).Memlock()
		m.Close()
		sum += memory
	}
	return sum
}

// unpinned is more than what programs have beside the pinned maps: their constants.
const unpinned = 64 << 10

// look notes what the daemon takes, and wants no more than two generations of maps: the
// one of before is asked for two seconds.
func (u *use) look() {
	u.t.Helper()
	u.files = append(u.files, u.openFiles())
	u.rss = append(u.rss, u.d.Memory("VmRSS"))
	before := u.pinned
	u.pinned = u.addPinned()
	u.addOpen()
	total := u.total()
	u.most = max(u.most, total)
	if total > before+u.pinned+unpinned {
		u.t.Errorf("look %d: %d bytes of maps, of which %d are pinned, before %d", len(u.rss), total, u.pinned, before)
	}
}

// openFiles counts what the daemon has open. The connection of the last scrape may be about
// to be closed.
func (u *use) openFiles() (count uint64) {
	u.t.Helper()
	for _, path := range harness.Must1[[]string](u.t)(filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", u.d.PID()))) {
		_, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile
		}
		harness.Must(u.t, err)
		count++
	}
	return count
}

// wantTablesGone wants the kernel to have freed the table of before.
func (u *use) wantTablesGone() {
	u.t.Helper()
	now := u.tableID()
	if now == u.tables {
		u.t.Error("the table is the one of before")
	}
	harness.Eventually(u.t, "the table of before is freed", func() error {
		m, err := ebpf.NewMapFromID(u.tables)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return errors.Join(fmt.Errorf("map %d is still there", u.tables), err, m.Close())
	})
	u.tables = now
}

// wantSettled wants all maps together to take what they took the first time with tables
// of this size, and no more: the kernel frees those of before one after the other.
func (u *use) wantSettled(size int) {
	u.t.Helper()
	harness.Eventually(u.t, "the maps of before are freed", func() error {
		if total := u.total(); total > u.pinned+unpinned {
			return fmt.Errorf("%d bytes of maps, of which %d are pinned", total, u.pinned)
		}
		return nil
	})
	u.last = u.total()
	first, known := u.settled[size]
	if !known {
		u.settled[size] = u.last
	} else if u.last != first {
		u.t.Errorf("%d bytes of maps with tables of %d, at first %d", u.last, size, first)
	}
}

// leastRounds is how many times a half has every size at least: the daemon's memory grows
// in the first of them.
const leastRounds = 4

// halves returns the looks of either half, each of which has all sizes equally often:
// else it is them that are compared. Too few looks have no halves.
func halves(looks []uint64) (early, late []uint64) {
	rounds := len(looks) / 2 / len(sizes)
	if rounds < leastRounds {
		return looks, looks
	}
	half := rounds * len(sizes)
	return looks[:half], looks[len(looks)-half:]
}

func median(of []uint64) uint64 { return slices.Sorted(slices.Values(of))[len(of)/2] }

// wantFlat compares the halves, and wants only those program arrays to be left that are
// pinned.
func (u *use) wantFlat() {
	u.t.Helper()
	ever := u.calls
	u.calls = make(map[ebpf.MapID]bool)
	u.addPinned()
	for id := range ever {
		if m, err := ebpf.NewMapFromID(id); !u.calls[id] && err == nil {
			u.t.Errorf("program array %d is left", id)
			m.Close()
		}
	}
	// What it takes at most is a matter of when garbage is collected: 36 to 43 MiB in five runs alike.
	if early, late := halves(u.rss); median(late) > median(early)*6/5 {
		u.t.Errorf("the daemon takes %d bytes in the middle of the looks, at first %d", median(late), median(early))
	}
	// Those of the maps of before among them, which the daemon asks for two seconds.
	if early, late := halves(u.files); median(late) > median(early) {
		u.t.Errorf("%d files are open, at first %d", median(late), median(early))
	}
}
