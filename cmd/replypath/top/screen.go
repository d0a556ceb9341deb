// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/gdamore/tcell/v2/terminfo"
	"golang.org/x/sys/unix"

	"replypath/loader/flows"
	"replypath/loader/top"
)

// newScreen takes the terminal over. Fini gives it back.
func newScreen(terminal *terminfo.Terminfo) (tcell.Screen, error) {
	tcell.SetEncodingFallback(tcell.EncodingFallbackASCII) // nothing else is shown
	screen, err := tcell.NewTerminfoScreenFromTtyTerminfo(nil, terminal)
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return nil, fmt.Errorf("open the terminal, without which -o json and a pipe work: %w", err)
	}
	return screen, nil
}

// display shows looks on a terminal.
type display struct {
	interval     time.Duration
	count, looks int // how many there are at most, 0: no bound; how many there were beside the first
	read         func() (*top.Look, error)
	screen       tcell.Screen
	events       chan tcell.Event
	hungUp       bool // nothing is read from the terminal any more
	table        table
	paused       bool
}

var (
	errEnded  = errors.New("ended")  // by a key
	errEnough = errors.New("enough") // as many looks as were asked for
)

// watch shows looks until ctx ends, the terminal goes away or a key is pressed.
// It gives the terminal back, whatever happens.
func (s *display) watch(ctx context.Context) error {
	defer s.screen.Fini()
	s.events = make(chan tcell.Event)
	go s.screen.ChannelEvents(s.events, nil) // until Fini
	defer s.release()
	ctx, stop := signal.NotifyContext(ctx, unix.SIGHUP, unix.SIGQUIT)
	defer stop()
	err := s.run(ctx)
	if errors.Is(err, errEnded) || errors.Is(err, errEnough) || ctx.Err() != nil {
		return nil
	}
	return err
}

// run does everything in one goroutine, so that a panic finds the way out through
// watch.
func (s *display) run(ctx context.Context) error {
	stops := make(chan os.Signal, 1)
	signal.Notify(stops, unix.SIGTSTP)
	defer signal.Stop(stops)
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	err := s.look()
	for err == nil {
		if !s.screen.HasPendingEvent() { // a pasted text is many
			s.draw()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-stops:
			err = s.suspend()
		case event := <-s.events:
			err = s.handle(event)
		case <-ticker.C:
			err = s.tick()
		}
	}
	return err
}

// tick looks again unless that was paused, or has been done as often as was asked
// for.
func (s *display) tick() error {
	if s.paused {
		return nil
	}
	if s.looks++; s.count > 0 && s.looks > s.count {
		return errEnough
	}
	return s.look()
}

func (s *display) look() (err error) {
	s.table.Look, err = s.read()
	return err
}

func (s *display) handle(event tcell.Event) error {
	switch event := event.(type) {
	case *tcell.EventError:
		s.hungUp = true
		return fmt.Errorf("read from the terminal: %w", event)
	case *tcell.EventResize:
		s.screen.Sync()
	case *tcell.EventKey:
		return s.press(event)
	}
	return nil
}

func (s *display) press(key *tcell.EventKey) error {
	switch {
	case key.Key() == tcell.KeyCtrlC:
		return errEnded
	case key.Key() == tcell.KeyCtrlZ:
		return s.suspend()
	case key.Key() != tcell.KeyRune:
		return nil
	}
	switch key.Rune() {
	case 'q':
		return errEnded
	case 'p':
		s.paused = !s.paused
	case 's':
		next := slices.Index(flows.Orders, s.table.order) + 1
		s.table.order = flows.Orders[next%len(flows.Orders)]
	}
	return nil
}

// releaseTime bounds the wait for a terminal that cannot be told to end reading.
const releaseTime = time.Second

// release gives the terminal back. To do so tcell waits for its goroutines, and these
// for somebody who takes the keys that were read, many where a text was pasted: so
// reading ends first, and keys are taken until the terminal is given back.
func (s *display) release() {
	if tty, is := s.screen.Tty(); is && !s.hungUp && tty.Drain() == nil {
		for late := time.After(releaseTime); !s.hungUp; {
			select {
			case event := <-s.events:
				_, s.hungUp = event.(*tcell.EventError)
			case <-late:
				s.hungUp = true
			}
		}
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		_ = s.screen.Suspend() // which has no errors
	}()
	for {
		select {
		case <-s.events:
		case <-released:
			s.hungUp = false
			return
		}
	}
}

// suspend gives the terminal back until the shell lets this process go on.
func (s *display) suspend() error {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, unix.SIGCONT)
	defer signal.Stop(continued)
	s.release()
	if err := unix.Kill(os.Getpid(), unix.SIGSTOP); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	<-continued
	if err := s.screen.Resume(); err != nil {
		return fmt.Errorf("take the terminal again: %w", err)
	}
	return nil
}

// draw shows as much as there is room for, and in the last line the keys.
func (s *display) draw() {
	s.screen.Clear()
	var height int
	s.table.width, height = s.screen.Size()
	for y, line := range s.table.lines() {
		if y >= height-1 {
			break
		}
		s.screen.PutStrStyled(0, y, line.text, s.style(line.style))
	}
	keys := fmt.Sprintf("q quit  s sort (%s)  p pause", s.table.order)
	if s.paused {
		keys = fmt.Sprintf("q quit  s sort (%s)  p go on  PAUSED", s.table.order)
	}
	s.screen.PutStrStyled(0, height-1, keys, tcell.StyleDefault.Reverse(true))
	s.screen.Show()
}

// style has colours where the terminal has, and they are wanted.
func (s *display) style(style lineStyle) tcell.Style {
	plain := tcell.StyleDefault
	switch {
	case style == plainLine:
		return plain
	case style == headerLine || s.screen.Colors() == 0:
		return plain.Bold(true)
	case style == warningLine:
		return plain.Foreground(tcell.ColorOlive)
	}
	return plain.Foreground(tcell.ColorMaroon)
}
