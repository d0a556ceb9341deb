// SPDX-License-Identifier: Apache-2.0

package top

import (
	"errors"
	"strings"
	"testing"

	"github.com/gdamore/tcell/v2"

	"replypath/loader/flows"
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
	if err := screen.Init(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(screen.Fini)
	screen.SetSize(width, height)
	monitor, err := fakehost.OpenTop(fakehost.WatchedDir, defaultFlows)
	if err != nil {
		t.Fatal(err)
	}
	s := &display{count: 3, read: monitor.Look, screen: screen, table: table{order: flows.ByRate}}
	if err := s.look(); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		s.t.Fatal(err)
	}
}

// What is shown before there is anything to compare with has no rates.
func TestTopFirstLook(t *testing.T) {
	s := showTop(t, 140, 30)
	s.want("eth1       yes  tcx                -           -", "established              1      262144",
		"q quit  s sort (rate)  p pause")
	for _, line := range s.lines() {
		if strings.Contains(line, "rates over") || strings.Contains(line, "1234.5") {
			t.Errorf("a rate since never: %s", line)
		}
	}
	s.do(s.tick())
	s.want("rates over 1.0s", "    1234.5  tcp")
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

// What has no room is left out; nothing wraps, and the keys stay.
func TestTopNarrow(t *testing.T) {
	s := showTop(t, 140, 30)
	whole := s.lines()
	s.screen.SetSize(30, 8)
	s.do(s.handle(tcell.NewEventResize(30, 8)))
	for y, line := range s.lines() {
		want := whole[y]
		if y == 7 {
			want = "q quit  s sort (rate)  p pause"
		}
		if want = strings.TrimRight(want[:min(len(want), 30)], " "); line != want {
			t.Errorf("line %d: %q, not %q", y, line, want)
		}
	}
	for _, size := range [][2]int{{1, 1}, {0, 0}, {140, 2}} {
		s.screen.SetSize(size[0], size[1])
		s.lines()
	}
	s.screen.SetSize(140, 30)
	s.want("NEXT HOP")
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
	var styles []lineStyle
	for _, line := range s.table.lines()[2:6] {
		styles = append(styles, line.style)
	}
	if want := [...]lineStyle{headerLine, plainLine, warningLine, errorLine}; [4]lineStyle(styles) != want {
		t.Errorf("the interfaces have the styles %v, not %v", styles, want)
	}
}

func TestShort(t *testing.T) {
	for number, want := range map[float64]string{
		0: "0.0", 0.04: "0.0", 99999.94: "99999.9", 99999.96: "100.0k", 99999960: "100.0M",
		12e12: "12000.0G", 1e18: "1000000.0T",
	} {
		if got := short(number); got != want {
			t.Errorf("%v is shown as %s, not %s", number, got, want)
		}
	}
}
