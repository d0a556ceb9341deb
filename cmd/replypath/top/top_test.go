// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"replypath/cmd/replypath/cli"
	"replypath/loader/flows"
	"replypath/loader/top"
	"replypath/test/await"
	"replypath/test/fakehost"
)

// TestTopPages: on a terminal a page takes the place of the one before, within its size; what only takes lines gets no codes.
func TestTopPages(t *testing.T) {
	for name, test := range map[string]struct {
		terminal, format string
		isScreen         bool
	}{
		"screen": {"xterm-256color", "table", true}, "dumb": {"dumb", "table", false}, "no TERM": {"", "table", false}, "json": {"xterm", "json", false},
	} {
		t.Run(name, func(t *testing.T) {
			master, slave, err := pty.Open()
			await.Must(t, err)
			await.Must(t, pty.Setsize(slave, &pty.Winsize{Cols: 60, Rows: 9}))
			executable := await.Must1[string](t)(os.Executable())
			c := &exec.Cmd{
				Path: executable, Stdout: slave, Stderr: slave, Env: append(os.Environ(), "TERM="+test.terminal, "TZ=UTC"),
				Args: []string{"replypath", "top", "--pin-dir", "watched", "--interval", "100ms", "--count", "2", "-o", test.format},
			}
			await.Must(t, c.Start())
			read := make(chan string)
			go func() {
				text, _ := io.ReadAll(master) // which ends with EIO once nobody has the other end
				read <- string(text)
			}()
			await.Must(t, c.Wait())
			await.Must(t, slave.Close())
			text := <-read
			await.Must(t, master.Close())
			if got := strings.Count(text, home); got != map[bool]int{true: 3, false: 0}[test.isScreen] {
				t.Errorf("%d pages: %q", got, text)
			}
			if strings.Contains(text, "\x1b") != test.isScreen {
				t.Errorf("codes: %q", text)
			}
			if !test.isScreen {
				return
			}
			for line := range strings.Lines(text[strings.LastIndex(text, home):]) {
				line = strings.TrimPrefix(strings.TrimRight(line, "\r\n"), home)
				if line, _, _ = strings.Cut(line, eraseLine); len(line) > 60 {
					t.Errorf("of %d characters: %s", len(line), line)
				}
			}
			if got := strings.Count(text, "\n"); got != 3*8 {
				t.Errorf("%d lines, not 8 in each of 3 pages: %q", got, text)
			}
		})
	}
}

// crowded is a look at long names, at many reasons, and at the long address of a peer.
func crowded() *top.Look {
	const longest = "enp130s0f1np100" // as IFNAMSIZ allows
	look := fakehost.FirstLook()
	look.Daemon.Version = new("0.2.0-123-g0123456-dirty")
	look.Interfaces = look.Interfaces[1:2]
	look.Interfaces[0].Name = longest
	look.Interfaces[0].Uncorrected = map[string]float64{"observe": 1e6, "no_header_room": 999.9e3, "mtu": 0.5, "link_down": 0}
	busy := look.Flows[0]
	busy.Interface = new(longest)
	far := busy
	far.Peer, far.Self, far.CorrectedPackets = "2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8:4::100", 1e9
	look.Flows = []top.Flow{busy, far}
	return look
}

// TestTopFits: what matters least goes first, and what was corrected and was not never goes.
func TestTopFits(t *testing.T) {
	for _, test := range []struct {
		width int
		want  string
	}{
		{80, `12:30:00  mode enforce  daemon running, pid 4711, version
0.2.0-123-g0123456-dirty  rates over 1.0s

INTERFACE        UP    CORRECTED       BYTES  UNCORRECTED  REASONS
enp130s0f1np100  yes    1.2 kpps    1.0 MB/s     2.0 Mpps  observe 1.0 Mpps, ...
total            -      1.2 kpps    1.0 MB/s     1.0 Mpps  observe 1.0 Mpps, ...

TABLE                FLOWS     LASTING    CAPACITY
half_open                0           0       65536
established              1           1      262144
connectionless           1           0      131072

      RATE  PEER                                            CORRECTED
  1.2 kpps  10.1.0.100:50000                                1234
  1.2 kpps  [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  1000000000
`},
		{200, `12:30:00  mode enforce  daemon running, pid 4711, version 0.2.0-123-g0123456-dirty  rates over 1.0s

INTERFACE        UP   ATTACHED   CORRECTED       BYTES        FROM       BYTES        ASYM  UNCORRECTED  REASONS
enp130s0f1np100  yes  tcx         1.2 kpps    1.0 MB/s     0.0 pps     0.0 B/s    1.3 kpps     2.0 Mpps  observe 1.0 Mpps, no_header_room 999.9 kpps, mtu 0.5 pps
total            -    -           1.2 kpps    1.0 MB/s           -           -    1.3 kpps     1.0 Mpps  observe 1.0 Mpps, mtu 0.5 pps

TABLE                FLOWS     LASTING    CAPACITY
half_open                0           0       65536
established              1           1      262144
connectionless           1           0      131072

      RATE  PROTOCOL  PEER                                            SELF                    INTERFACE        CORRECTED   AGE     STATE        NEXT HOP
  1.2 kpps  tcp       10.1.0.100:50000                                10.4.0.100:5432         enp130s0f1np100  1234        1h2m3s  established  02:00:00:00:00:04
  1.2 kpps  tcp       [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  1000000000  1h2m3s  established  02:00:00:00:00:04
`},
	} {
		got := (&table{Look: crowded(), width: test.width}).text()
		for line := range strings.Lines(got) {
			if len(line) > test.width+len("\n") {
				t.Errorf("of %d characters: %s", test.width, line)
			}
		}
		await.Same(t, fmt.Sprintf("%d characters wide", test.width), test.want, got)
	}
}

func TestSI(t *testing.T) {
	for number, want := range map[float64]string{
		0: "0.0 B/s", 0.04: "0.0 B/s", 999.94: "999.9 B/s", 999.96: "1.0 kB/s", 1400: "1.4 kB/s", 999960: "1.0 MB/s",
		12e9: "12.0 GB/s", 1e18: "1000000.0 TB/s",
	} {
		await.Same(t, fmt.Sprintf("%v is shown as", number), want, si(number, unitBytes))
	}
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"replypath": runOnFakeHost})
}

// runOnFakeHost is a program that has this command only.
func runOnFakeHost() {
	a := &cli.App{Stdout: os.Stdout, Stderr: os.Stderr}
	root := cli.NewRoot(a)
	root.AddCommand(New(a, func(dir string, o flows.Order, limit int) Look { return fakehost.Top(dir, o, limit) }))
	os.Exit(a.Run(context.Background(), root, os.Args[1:]))
}
