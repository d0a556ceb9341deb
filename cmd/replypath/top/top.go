// SPDX-License-Identifier: Apache-2.0

// Package top is the command top: rates and the busiest flows, on a terminal of its own or as text.
package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/gdamore/tcell/v2/terminfo"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
	"replypath/loader/top"
)

const (
	defaultInterval  = time.Second
	shortestInterval = 100 * time.Millisecond
	defaultFlows     = 20
)

// Monitor tells what happened since the look before; see top.Monitor.
type Monitor interface {
	Look() (*top.Look, error)
	Close() error
}

// Open opens what is pinned, to look at it again and again with so many flows; see top.Open.
type Open func(pinDir string, flows int) (Monitor, error)

// New returns the command top.
func New(a *cli.App, open Open) *cobra.Command {
	t := &command{App: a, open: open, interval: defaultInterval, limit: defaultFlows, order: flows.ByRate}
	c := &cobra.Command{
		Use:   "top",
		Short: "Show what is corrected at present, and the busiest flows",
		Long: `Show for every managed interface what is corrected from and to it a second, what
the kernel would have sent another way, and what was not corrected and why; how
full the flow tables are; and the corrected flows that are busiest. It reads the
pins and needs no daemon.

TO counts what left by the interface although the kernel had chosen another way,
FROM what the kernel wanted to send by it; both are counted when they leave, as on
the wire. ASYM counts replies of the flows that came in by the interface which the
kernel would send another way, UNCORRECTED those that go that way, and why. The
total includes interfaces that have gone. A flow that begins and ends between two
looks is counted there, and not shown.

Keys on a terminal:
  q, Ctrl-C   end
  s           sort flows by another column: packets corrected a
              second (rate), packets corrected in all (corrected),
              or the youngest first (age)
  p           pause, and go on

Where the output is not a terminal it is printed as text, one block an interval;
with -o json as one object a line:
  time           of the look
  seconds        since the one before, which rates are over
  mode, daemon   as replypath status has them
  interfaces[]   name, index, up, attached, mechanism, mode;
                 corrected_to and corrected_from, each with
                 packets_per_second and bytes_per_second;
                 asymmetric_packets_per_second;
                 uncorrected_packets_per_second by reason
  total          corrected, asymmetric_packets_per_second,
                 uncorrected_packets_per_second
  flow_tables[]  table, flows, capacity
  flows[]        as replypath flows has them, with
                 corrected_packets_per_second`,
		Example: `  replypath top
  replypath top --interval 5s --sort corrected
  replypath top --count 1 -o json`,
		Args: cli.NoArguments,
	}
	t.addFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return t.run(c.Context()) }
	return c
}

// command is what top was asked for.
type command struct {
	*cli.App
	open         Open
	interval     time.Duration
	count, limit int
	order        flows.Order
	output       *cli.Output
}

func (t *command) addFlags(c *cobra.Command) {
	flags := c.Flags()
	flags.Var(cli.Value(&t.interval, "time", t.interval.String(), readInterval), "interval",
		"time from one look to the next")
	flags.Var(cli.Value(&t.count, "number", "", cli.Positive), "count", "end after so many looks")
	flags.Var(cli.Value(&t.limit, "number", fmt.Sprint(t.limit), cli.Positive), "limit", "no more flows than so many")
	cli.AddChoice(c, &t.order, "sort", "", "column", "what flows are chosen and sorted by: rate, corrected or age", flows.Orders...)
	t.output = cli.AddOutput(c)
}

func readInterval(text string) (time.Duration, error) {
	interval, err := time.ParseDuration(text)
	if err != nil || interval < shortestInterval {
		return 0, fmt.Errorf("%q is not a time of at least %s such as 1s", text, shortestInterval)
	}
	return interval, nil
}

// run shows looks until ctx ends or somebody interrupts, neither of which is an
// error.
func (t *command) run(ctx context.Context) (err error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	monitor, err := t.open(t.PinDir, t.limit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, monitor.Close()) }()
	terminal := t.terminal()
	if terminal == nil {
		return t.print(ctx, monitor)
	}
	screen, err := newScreen(terminal)
	if err != nil {
		return err
	}
	s := &display{interval: t.interval, count: t.count, read: monitor.Look, screen: screen, table: table{order: t.order}}
	return s.watch(ctx)
}

// terminal returns what is known of the terminal that is written to, nil where it
// is none, or one that only takes lines.
func (t *command) terminal() *terminfo.Terminfo {
	if t.output.JSON() || !output.IsTerminal(t.Stdout) {
		return nil
	}
	known, err := terminfo.LookupTerminfo(os.Getenv("TERM"))
	if err != nil {
		return nil
	}
	return known
}

// print writes a look every interval.
func (t *command) print(ctx context.Context, monitor Monitor) error {
	if _, err := monitor.Look(); err != nil { // what the next is compared with
		return err
	}
	ticker := time.NewTicker(t.interval)
	defer ticker.Stop()
	for shown := 0; t.count == 0 || shown < t.count; shown++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		look, err := monitor.Look()
		if err != nil {
			return err
		}
		if err := t.printLook(look, shown == 0); err != nil {
			return err
		}
	}
	return nil
}

// printLook writes an object a line, or a block with an empty line before all but
// the first.
func (t *command) printLook(look *top.Look, first bool) error {
	if t.output.JSON() {
		look.Flows = look.Busiest[t.order]
		return output.NewEncoder(t.Stdout).Encode(look)
	}
	lines := (&table{Look: look, order: t.order}).lines()
	if !first {
		lines = slices.Insert(lines, 0, styledLine{})
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(t.Stdout, line.text); err != nil {
			return err
		}
	}
	return nil
}
