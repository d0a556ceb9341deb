// SPDX-License-Identifier: Apache-2.0

package top

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gdamore/tcell/v2"

	"replypath/loader/flows"
	"replypath/loader/top"
	"replypath/test/await"
	"replypath/test/fakehost"
)

// shownTop is a display after its first look, on a terminal that is none.
type shownTop struct {
	*display
	t      *testing.T
	screen tcell.SimulationScreen
}

func showTop(t *testing.T, width, height int) *shownTop {
	t.Helper()
	screen := tcell.NewSimulationScreen("UTF-8")
	await.Must(t, screen.Init())
	t.Cleanup(screen.Fini)
	screen.SetSize(width, height)
	monitor, err := fakehost.OpenTop(fakehost.WatchedDir, defaultFlows)
	await.Must(t, err)
	s := &display{count: 3, read: monitor.Look, screen: screen, table: table{order: flows.ByRate}}
	await.Must(t, s.look())
	return &shownTop{s, t, screen}
}

// lines draws, and returns what is seen without the blanks at the ends of lines.
func (s *shownTop) lines() []string {
	s.draw()
	cells, width, height := s.screen.GetContents()
	lines := make([]string, height)
	for y := range lines {
		for x := range width {
			lines[y] += string(cells[y*width+x].Runes)
		}
		lines[y] = strings.TrimRight(lines[y], " ")
	}
	return lines
}

func (s *shownTop) want(words ...string) {
	s.t.Helper()
	text := strings.Join(s.lines(), "\n")
	for _, word := range words {
		if !strings.Contains(text, word) {
			s.t.Errorf("no %q on\n%s", word, text)
		}
	}
}

func (s *shownTop) press(key rune) {
	s.t.Helper()
	s.do(s.handle(tcell.NewEventKey(tcell.KeyRune, key, tcell.ModNone)))
}

func (s *shownTop) do(err error) {
	s.t.Helper()
	await.Must(s.t, err)
}

// What is shown before there is anything to compare with has no rates.
func TestTopFirstLook(t *testing.T) {
	s := showTop(t, 140, 30)
	s.want("eth1       yes  tcx                -           -", "established              1      262144",
		"q quit  s sort (rate)  p pause")
	for _, line := range s.lines() {
		if strings.Contains(line, "rates over") || strings.Contains(line, "1.2 kpps") {
			t.Errorf("a rate since never: %s", line)
		}
	}
	s.do(s.tick())
	s.want("rates over 1.0s", "  1.2 kpps  tcp")
}

func TestTopKeys(t *testing.T) {
	s := showTop(t, 140, 30)
	s.do(s.tick())
	for _, order := range []string{"corrected", "age", "rate", "corrected", "age"} {
		s.press('s')
		s.want("sort (" + order + ")")
	}
	if text := strings.Join(s.lines(), "\n"); strings.Index(text, " icmp ") > strings.Index(text, " tcp ") {
		t.Errorf("not the youngest first:\n%s", text)
	}
	s.press('p')
	s.want("12:30:02", "p go on  PAUSED")
	s.do(s.tick())
	s.press('s') // also works then
	s.want("12:30:02", "sort (rate)", "PAUSED")
	s.press('p')
	s.do(s.tick())
	s.want("12:30:03", "p pause")
	s.do(s.tick())
	if err := s.tick(); !errors.Is(err, errEnough) {
		t.Errorf("after as many looks as were asked for: %v", err)
	}
	for _, key := range []*tcell.EventKey{
		tcell.NewEventKey(tcell.KeyRune, 'q', tcell.ModNone), tcell.NewEventKey(tcell.KeyCtrlC, 0, tcell.ModCtrl),
	} {
		if err := s.handle(key); !errors.Is(err, errEnded) {
			t.Errorf("after %s: %v", key.Name(), err)
		}
	}
	if err := s.handle(tcell.NewEventError(errors.New("hung up"))); err == nil {
		t.Error("a terminal that has gone does not end it")
	}
}

// Where lines have no room at all, they are cut; nothing wraps, and the keys stay.
func TestTopNarrow(t *testing.T) {
	s := showTop(t, 140, 30)
	s.screen.SetSize(30, 9)
	s.do(s.handle(tcell.NewEventResize(30, 9)))
	want := []string{
		"12:30:01  mode enforce  daemon", "running, pid 4711, version", "1.2.3", "",
		"INTERFACE   CORRECTED  UNCORRE", "eth0                -", "eth1                -", "eth2                -",
		"q quit  s sort (rate)  p pause",
	}
	await.Same(t, "screen", want, s.lines())
	for _, size := range [][2]int{{1, 1}, {0, 0}, {140, 2}} {
		s.screen.SetSize(size[0], size[1])
		s.lines()
	}
	s.screen.SetSize(140, 30)
	s.want("NEXT HOP")
}

// crowded is a look at long names and addresses, and at many reasons.
func crowded() *top.Look {
	const longest = "enp130s0f1np100" // as IFNAMSIZ allows
	look := fakehost.FirstLook()
	look.Daemon.Version = new("0.2.0-123-g0123456-dirty")
	look.Interfaces = look.Interfaces[1:2]
	look.Interfaces[0].Name = longest
	look.Interfaces[0].Uncorrected = map[string]float64{"observe": 1e6, "no_header_room": 999.9e3, "mtu": 0.5, "link_down": 0}
	busy := look.Busiest[flows.ByRate][0]
	busy.Interface = new(longest)
	far := busy
	far.Peer, far.Self, far.CorrectedPackets = "2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8:4::100", 1e9
	look.Busiest = map[flows.Order][]top.Flow{flows.ByRate: {busy}, flows.ByAge: {busy, far}}
	return look
}

// TestTopFits: what matters least goes first, and what was corrected and was not never goes.
func TestTopFits(t *testing.T) {
	for _, test := range []struct {
		width int
		order flows.Order
		want  string
	}{
		{80, flows.ByRate, `12:30:00  mode enforce  daemon running, pid 4711, version
0.2.0-123-g0123456-dirty  rates over 1.0s

INTERFACE        UP    CORRECTED       BYTES  UNCORRECTED  REASONS
enp130s0f1np100  yes    1.2 kpps    1.0 MB/s     2.0 Mpps  observe 1.0 Mpps, ...
total            -      1.2 kpps    1.0 MB/s     1.0 Mpps  observe 1.0 Mpps, ...

TABLE                FLOWS    CAPACITY
half_open                0       65536
established              1      262144
connectionless           1      131072

      RATE  PEER              SELF             INTERFACE        CORRECTED
  1.2 kpps  10.1.0.100:50000  10.4.0.100:5432  enp130s0f1np100  1234
`},
		{80, flows.ByAge, `12:30:00  mode enforce  daemon running, pid 4711, version
0.2.0-123-g0123456-dirty  rates over 1.0s

INTERFACE        UP    CORRECTED       BYTES  UNCORRECTED  REASONS
enp130s0f1np100  yes    1.2 kpps    1.0 MB/s     2.0 Mpps  observe 1.0 Mpps, ...
total            -      1.2 kpps    1.0 MB/s     1.0 Mpps  observe 1.0 Mpps, ...

TABLE                FLOWS    CAPACITY
half_open                0       65536
established              1      262144
connectionless           1      131072

      RATE  PEER                              SELF                    CORRECTED
  1.2 kpps  10.1.0.100:50000                  10.4.0.100:5432         1234
  1.2 kpps  [2001:db8:1234:...34:5678]:50000  [2001:db8:4::100]:5432  1000000000
`},
		{200, flows.ByAge, `12:30:00  mode enforce  daemon running, pid 4711, version 0.2.0-123-g0123456-dirty  rates over 1.0s

INTERFACE        UP   ATTACHED   CORRECTED       BYTES        FROM       BYTES        ASYM  UNCORRECTED  REASONS
enp130s0f1np100  yes  tcx         1.2 kpps    1.0 MB/s     0.0 pps     0.0 B/s    1.3 kpps     2.0 Mpps  observe 1.0 Mpps, no_header_room 999.9 kpps, mtu 0.5 pps
total            -    -           1.2 kpps    1.0 MB/s           -           -    1.3 kpps     1.0 Mpps  observe 1.0 Mpps, mtu 0.5 pps

TABLE                FLOWS    CAPACITY
half_open                0       65536
established              1      262144
connectionless           1      131072

      RATE  PROTOCOL  PEER                                            SELF                    INTERFACE        CORRECTED   AGE     STATE        NEXT HOP
  1.2 kpps  tcp       10.1.0.100:50000                                10.4.0.100:5432         enp130s0f1np100  1234        1h2m3s  established  02:00:00:00:00:04
  1.2 kpps  tcp       [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  1000000000  1h2m3s  established  02:00:00:00:00:04
`},
	} {
		var got strings.Builder
		for _, line := range (&table{Look: crowded(), order: test.order, width: test.width}).lines() {
			if len(line.text) > test.width {
				t.Errorf("of %d characters: %s", test.width, line.text)
			}
			fmt.Fprintln(&got, line.text)
		}
		await.Same(t, fmt.Sprintf("%d characters wide, by %s", test.width, test.order), test.want, got.String())
	}
}

// What is amiss has a colour, unless there is none or it is not wanted.
func TestTopColour(t *testing.T) {
	s := showTop(t, 140, 30)
	for style, want := range map[lineStyle]tcell.Style{
		plainLine:   tcell.StyleDefault,
		headerLine:  tcell.StyleDefault.Bold(true),
		warningLine: tcell.StyleDefault.Foreground(tcell.ColorOlive),
		errorLine:   tcell.StyleDefault.Foreground(tcell.ColorMaroon),
	} {
		if got := s.style(style); got != want {
			t.Errorf("style %d is %v, not %v", style, got, want)
		}
	}
	s.draw()
	var styles []lineStyle
	for _, line := range s.table.lines()[2:6] {
		styles = append(styles, line.style)
	}
	if want := [...]lineStyle{headerLine, plainLine, warningLine, errorLine}; [4]lineStyle(styles) != want {
		t.Errorf("the interfaces have the styles %v, not %v", styles, want)
	}
}

func TestSI(t *testing.T) {
	for number, want := range map[float64]string{
		0: "0.0 B/s", 0.04: "0.0 B/s", 999.94: "999.9 B/s", 999.96: "1.0 kB/s", 1400: "1.4 kB/s", 999960: "1.0 MB/s",
		12e9: "12.0 GB/s", 1e18: "1000000.0 TB/s",
	} {
		if got := si(number, unitBytes); got != want {
			t.Errorf("%v is shown as %s, not %s", number, got, want)
		}
	}
}
