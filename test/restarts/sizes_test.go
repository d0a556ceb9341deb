// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/flows"
	"replypath/test/harness"
)

// sizes are odd, huge, and as small as can be.
var sizes = []int{1039, 3_000_017, 1024, 65_537, 262_143}

// silent is how many connections are open, and nothing is sent by them, half of each family.
const silent = 20

// TestReloadSizes reloads with another size of the tables every time. All flows are
// kept, also those that begin while the programs are replaced, one after the other, and
// those that nothing is heard of all the while. Few answers leave by eth0, and nothing of the tables before stays in memory.
func TestReloadSizes(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, harness.SmallTables)
	d := p.Start("--config", config)
	l := startLoad(t, n)
	quiet := l.beSilent()
	count := times(t)
	use := watchUse(t, p, d)
	readmitted := func() float64 { return p.Metrics().Sum("replypath_flow_readmissions_total") }
	first := readmitted()
	for i := range count {
		before := p.Metrics()
		text := fmt.Sprintf("flow_table: {max_entries: %d}\n", sizes[i%len(sizes)])
		harness.Must(t, os.WriteFile(config, []byte(text), 0o600))
		d.Reload()
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		use.look()
		wantFlows(t, p, i, append(slices.Clone(l.conns), quiet.conns...))
		l.goesOn()
		if (i+1)%len(sizes) == 0 || i+1 == count {
			use.wantTablesGone()
			use.wantSettled(sizes[i%len(sizes)])
		}
	}
	use.wantFlat()
	again := readmitted() - first
	quiet.speak()
	const each = 1 // 14 frames were measured at 100 reloads, of 150,000 answers
	wantFew(t, l.report("%d reloads with tables of other sizes (%s), %v flows entered anew by a later segment, none of %d that were silent",
		count, use, again, len(quiet.conns)), each, count)
}

// silence is connections by which nothing is sent, so that a flow that is lost stays so.
type silence struct {
	*load
	conns []net.Conn
	sent  []uint32 // segments of each
}

// beSilent opens them, and has each ask once.
func (l *load) beSilent() *silence {
	l.t.Helper()
	s := &silence{load: l}
	for i := range silent {
		conn := harness.Must1[net.Conn](l.t)(l.dial(l.t.Context(), l.n.Families()[i%len(l.n.Families())]))
		l.t.Cleanup(func() { conn.Close() })
		harness.Must(l.t, l.ask(conn))
		s.conns = append(s.conns, conn)
	}
	l.allGoOn() // until the answers have been acknowledged, for which the kernel takes 40 ms
	for _, conn := range s.conns {
		s.sent = append(s.sent, segmentsOut(l.t, conn))
	}
	return s
}

// speak wants that the client has sent nothing by them, and has each ask once more.
func (s *silence) speak() {
	s.t.Helper()
	for i, conn := range s.conns {
		if sent := segmentsOut(s.t, conn); sent != s.sent[i] {
			s.t.Errorf("the silent connection %s has sent %d segments", conn.LocalAddr(), sent-s.sent[i])
		}
		harness.Must(s.t, s.ask(conn))
	}
}

// segmentsOut are those that a socket has sent, acknowledgements too.
func segmentsOut(t *testing.T, conn net.Conn) uint32 {
	t.Helper()
	raw := harness.Must1[syscall.RawConn](t)(conn.(*net.TCPConn).SyscallConn())
	var info *unix.TCPInfo
	var err error
	harness.Must(t, raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	harness.Must(t, err)
	return info.Segs_out
}

// wantFlows wants a flow of every one of these connections.
func wantFlows(t *testing.T, p *harness.Product, reload int, conns []net.Conn) {
	t.Helper()
	var list []flows.Flow
	harness.Must(t, p.Host.Do(func() error {
		table, err := flows.Open(p.PinDir)
		if err != nil {
			return err
		}
		list, err = table.List(flows.Filter{})
		return errors.Join(err, table.Close())
	}))
	known := make(map[string]bool)
	for _, f := range list {
		if f.State == flows.StateEstablished {
			known[net.JoinHostPort(f.Peer, fmt.Sprint(f.PeerPort))] = true
		}
	}
	lost := 0
	for _, conn := range conns {
		if !known[conn.LocalAddr().String()] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("after reload %d, %d of %d flows are not in the table", reload, lost, len(conns))
	}
}
