// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// eraseLine has a terminal erase what is right of the cursor (ECMA-48, EL).
const eraseLine = "\x1b[K"

// progress is a bar with the time left, on a terminal only.
type progress struct {
	file     *os.File // nil for none
	plan     *plan
	begun    time.Time
	now      func() time.Time
	finished bool
}

// newProgress shows progress on a file if it is a terminal.
func newProgress(file *os.File, p *plan) *progress {
	bar := &progress{plan: p, begun: time.Now(), now: time.Now}
	if _, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS); err == nil {
		bar.file = file
	}
	return bar
}

// show says what is going to be measured.
func (p *progress) show(round, index int, s slot) {
	if p.file == nil {
		return
	}
	p.write(p.line(round, index, s))
}

// showFigures says which of so many groups of figures is going to be measured, after the rounds.
func (p *progress) showFigures(index, all int, name string) {
	if p.file == nil {
		return
	}
	p.write(fmt.Sprintf("%s  figures %d of %d  %s", barOf(float64(index)/float64(all)), index+1, all, name))
}

// write replaces the line.
func (p *progress) write(text string) {
	// A line that wraps cannot be taken back.
	if size, err := unix.IoctlGetWinsize(int(p.file.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		text = text[:min(len(text), int(size.Col)-1)]
	}
	fmt.Fprintf(p.file, "\r"+eraseLine+"%s", text)
}

// done removes the bar.
func (p *progress) done() {
	if p.file != nil && !p.finished {
		p.finished = true
		fmt.Fprint(p.file, "\r"+eraseLine)
	}
}

const barWidth = 20

// line is the text of the bar. A slot takes as long as the others: that is about right once a round is done.
func (p *progress) line(round, index int, s slot) string {
	done := p.plan.before(round) + index
	all := p.plan.before(p.plan.rounds + p.plan.further)
	elapsed := p.now().Sub(p.begun)
	left := "?"
	share := float64(done) / float64(all)
	if done > 0 {
		total := time.Duration(float64(elapsed) / share)
		if p.plan.budget > 0 && total > p.plan.budget {
			total = max(p.plan.budget, elapsed)
			share = float64(elapsed) / float64(total)
		}
		left = (total - elapsed).Round(time.Second).String()
	}
	return fmt.Sprintf("%s  %s left  round %d  %s  %s", barOf(share), left, round+1, s.workload.Name, s.name)
}

func barOf(share float64) string {
	filled := int(share * barWidth)
	return fmt.Sprintf("[%s%s] %3.0f %%", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), 100*share)
}
