// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/traffic"
)

// sizes are odd, huge, and as small as can be.
var sizes = []int{1039, 3_000_017, 1024, 65_537, 262_143}

// silent is how many connections are open, and nothing is sent by them, half of each family.
const silent = 20

// TestReloadSizes reloads with another size of the tables every time. All flows are
// kept, also those that begin while the programs are replaced, one after the other, and
// those that nothing is heard of all the while. Few answers leave by eth0. TestNothingStaysOpen of package loader has what is left of
// the tables before.
func TestReloadSizes(t *testing.T) {
	t.Parallel()
	n, p := server.New(t)
	config := product.WriteConfig(t, product.SmallTables)
	d := p.Start("--config", config)
	l := startLoad(t, n)
	quiet := beSilent(l)
	count := max(len(sizes), times(t, len(sizes))/2)
	readmitted := func() float64 { return p.Metrics().Sum("replypath_flow_readmissions_total") }
	first := readmitted()
	for i := range count {
		before := p.Metrics()
		text := fmt.Sprintf("flow_table: {max_entries: %d}\n", sizes[i%len(sizes)])
		await.Must(t, os.WriteFile(config, []byte(text), 0o600))
		release := product.Quiet(t)
		d.Reload()
		release()
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		quiet.wantFlows(p, i)
		l.GoesOn()
	}
	again := readmitted() - first
	quiet.speak()
	const each = 1 // 14 frames were measured at 100 reloads, of 150,000 answers
	wantFew(t, report(l, "%d reloads with tables of other sizes, %v flows entered anew by a later segment, "+
		"none of %d that were silent", count, again, len(quiet.conns)), each, count)
}

// silence is connections by which nothing is sent, so that a flow that is lost stays so.
type silence struct {
	*server.Load
	conns []net.Conn
	sent  []uint32 // segments of each
}

// beSilent opens them, and has each ask once.
func beSilent(l *server.Load) *silence {
	l.Helper()
	s := &silence{Load: l}
	for i := range silent {
		to := netip.AddrPortFrom(l.Net.Server.Eth1.Address(l.Net.Families()[i%2]), traffic.EchoPort)
		conn := await.Must1[net.Conn](l)(l.Dial(l.Net.Client, "tcp", to))
		l.Cleanup(func() { conn.Close() })
		await.Must(l, traffic.AskStream(conn, 32))
		s.conns = append(s.conns, conn)
	}
	l.GoesOn() // until the answers have been acknowledged, for which the kernel takes 40 ms
	for _, conn := range s.conns {
		s.sent = append(s.sent, segmentsOut(l.T, conn))
	}
	return s
}

// speak wants that the client has sent nothing by them, and has each ask once more.
func (s *silence) speak() {
	s.Helper()
	for i, conn := range s.conns {
		await.Same(s, fmt.Sprintf("segments that the silent connection %s has sent", conn.LocalAddr()), s.sent[i], segmentsOut(s.T, conn))
		await.Must(s, traffic.AskStream(conn, 32))
	}
}

// segmentsOut are those that a socket has sent, acknowledgements too.
func segmentsOut(t *testing.T, conn net.Conn) uint32 {
	t.Helper()
	raw := await.Must1[syscall.RawConn](t)(conn.(*net.TCPConn).SyscallConn())
	var info *unix.TCPInfo
	var err error
	await.Must(t, raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	await.Must(t, err)
	return info.Segs_out
}

// wantFlows wants a flow of every one of them.
func (s *silence) wantFlows(p *product.Product, reload int) {
	s.Helper()
	known := make(map[netip.AddrPort]bool)
	for _, f := range p.Flows("--protocol", "tcp") {
		if f.State == "established" {
			known[netip.AddrPortFrom(netip.MustParseAddr(f.Peer), f.PeerPort)] = true
		}
	}
	for _, conn := range s.conns {
		if !known[netip.MustParseAddrPort(conn.LocalAddr().String())] {
			s.Errorf("after reload %d, the flow of %s is not in the table", reload, conn.LocalAddr())
		}
	}
}
