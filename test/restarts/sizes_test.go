package restarts

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/loader/flows"
	"replypath/test/harness"
)

// sizes are odd, huge, and as small as can be.
var sizes = []int{1039, 3_000_017, 1024, 65_537, 262_143}

// TestReloadSizes reloads with another size of the tables every time. All flows are
// kept, also those that begin while the programs are replaced, one after the other;
// nothing leaves by eth0, and nothing of the tables before stays in memory.
func TestReloadSizes(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, harness.SmallTables)
	d := p.Start("--config", config)
	l := startLoad(t, n)
	l.allGoOn()
	count := times(t)
	use := watchUse(t, p, d)
	for i := range count {
		before := p.Metrics()
		text := fmt.Sprintf("flow_table: {max_entries: %d}\n", sizes[i%len(sizes)])
		harness.Must(t, os.WriteFile(config, []byte(text), 0o600))
		d.Reload()
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		wantFlows(t, p, l, i)
		l.goesOn()
		if (i+1)%len(sizes) == 0 || i == count-1 {
			use.wantTablesGone()
			use.look()
		}
	}
	use.wantFlat()
	wantNone(t, l.report("%d reloads with tables of other sizes (%s)", count, use))
}

// wantFlows wants a flow of every connection that is open all the time.
func wantFlows(t *testing.T, p *harness.Product, l *load, reload int) {
	t.Helper()
	table := harness.Must1[*flows.Table](t)(flows.Open(p.PinDir))
	defer table.Close()
	known := make(map[string]bool)
	for _, f := range harness.Must1[[]flows.Flow](t)(table.List(flows.Filter{})) {
		if f.State == flows.StateEstablished {
			known[net.JoinHostPort(f.Peer, fmt.Sprint(f.PeerPort))] = true
		}
	}
	lost := 0
	for _, conn := range l.conns {
		if !known[conn.LocalAddr().String()] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("after reload %d, %d of %d flows are not in the table", reload, lost, len(l.conns))
	}
}

// use is what a daemon takes of the host.
type use struct {
	t      *testing.T
	p      *harness.Product
	d      *harness.Daemon
	tables ebpf.MapID
	memory []uint64 // bytes, at each look
	files  int
}

func watchUse(t *testing.T, p *harness.Product, d *harness.Daemon) *use {
	t.Helper()
	u := &use{t: t, p: p, d: d}
	u.tables = u.tableID()
	return u
}

func (u *use) String() string {
	early, late := u.halves()
	return fmt.Sprintf("%d MiB at most, at first %d, %d open files", late>>20, early>>20, u.files)
}

// tableID returns the kernel's number of the largest table.
func (u *use) tableID() ebpf.MapID {
	u.t.Helper()
	path := filepath.Join(u.p.PinDir, "maps", "established")
	m := harness.Must1[*ebpf.Map](u.t)(ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true}))
	defer m.Close()
	id, known := harness.Must1[*ebpf.MapInfo](u.t)(m.Info()).ID()
	if !known {
		u.t.Fatal("the kernel gives maps no numbers")
	}
	return id
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

// look notes what the daemon takes, at the same size of the tables each time.
func (u *use) look() {
	u.t.Helper()
	files := len(harness.Must1[[]os.DirEntry](u.t)(os.ReadDir(fmt.Sprintf("/proc/%d/fd", u.d.PID()))))
	if u.files == 0 {
		u.files = files
	}
	if files > u.files {
		u.t.Errorf("%d files are open, at first %d", files, u.files)
	}
	u.memory = append(u.memory, u.d.Memory("VmRSS"))
}

// halves returns the most memory that was seen in either half of the looks: between two
// collections it goes up and down by half.
func (u *use) halves() (early, late uint64) {
	half := (len(u.memory) + 1) / 2
	return slices.Max(u.memory[:half]), slices.Max(u.memory[len(u.memory)-half:])
}

// wantFlat compares the halves.
func (u *use) wantFlat() {
	u.t.Helper()
	if early, late := u.halves(); late > early*6/5 {
		u.t.Errorf("the daemon takes %d bytes, at first %d", late, early)
	}
}
