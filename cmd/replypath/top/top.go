// SPDX-License-Identifier: Apache-2.0

// Package top is the command top: rates and the busiest flows, page by page.
package top

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

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

// Look tells what happened since the look before; see top.Monitor.
type Look func() (*top.Look, error)

// Watch returns what looks at what is pinned, at so many flows, the first by an order; see top.New.
type Watch func(pinDir string, order flows.Order, limit int) Look

// New returns the command top.
func New(a *cli.App, watch Watch) *cobra.Command {
	t := &command{App: a, watch: watch, interval: defaultInterval, limit: defaultFlows, order: flows.ByRate}
	c := &cobra.Command{
		Use:   "top",
		Short: "Show what is corrected at present, and the busiest flows",
		Long: `Show rates: what is corrected on each managed interface, what is not corrected and why.
Show also how full the flow tables are, and the busiest corrected flows. It reads the
pins and needs no daemon.

Of the flows in a table, LASTING ones are handshakes, open connections and conversations,
which CAPACITY is for.

Columns of interfaces:
  CORRECTED    corrected packets that left by this interface
  FROM         corrected packets that the kernel wanted to send by this interface
  ASYM         packets of flows of this interface that the kernel would send elsewhere
  UNCORRECTED  those of ASYM that go as routed
  REASONS      why they do, the most frequent reason first
Packets a second are pps. CORRECTED and FROM are counted when a packet leaves, as on the
wire. The total includes interfaces that have gone. A flow that begins and ends between
two looks is counted there, but not shown. A flow that has ended leaves the list.

On a narrow terminal, the columns that matter least go first. CORRECTED and UNCORRECTED
stay.

On a terminal each page takes the place of the one before, until Ctrl-C or --count.

If the output is not a terminal, it is text, one block an interval.`,
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
	watch        Watch
	interval     time.Duration
	count, limit int
	order        flows.Order
	output       *cli.Output
}

func (t *command) addFlags(c *cobra.Command) {
	flags := c.Flags()
	flags.Var(cli.Value(&t.interval, "time", t.interval.String(), readInterval), "interval",
		"time from one look to the next")
	flags.Var(cli.Value(&t.count, "number", "", cli.Positive), "count", "end after this many looks")
	flags.Var(cli.Value(&t.limit, "number", fmt.Sprint(t.limit), cli.Positive), "limit", "at most this many flows")
	cli.AddChoice(c, &t.order, "sort", "", "column", "what flows are chosen and sorted by: rate, corrected or age", flows.BusyOrders...)
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
func (t *command) run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	return t.print(ctx, t.watch(t.PinDir, t.order, t.limit))
}

// What a terminal is told (ECMA-48): the cursor goes to the first line; the rest of a line, and of the screen, is erased.
const (
	home      = "\x1b[H"
	eraseLine = "\x1b[K"
	eraseRest = "\x1b[J"
)

// isScreen tells whether pages take each other's place: on a terminal that takes more than lines.
func (t *command) isScreen() bool {
	kind := os.Getenv("TERM")
	return !t.output.JSON() && output.IsTerminal(t.Stdout) && kind != "" && kind != "dumb"
}

// print writes a look every interval.
func (t *command) print(ctx context.Context, look Look) error {
	first, err := look() // what the next is compared with
	if err == nil && t.isScreen() {
		err = t.printPage(first)
	}
	if err != nil {
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
		now, err := look()
		if err == nil && t.isScreen() {
			err = t.printPage(now)
		} else if err == nil {
			err = t.printLook(now, shown == 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// printPage writes a look in the place of the one before: at once, and no more of it than there is room for.
func (t *command) printPage(look *top.Look) error {
	width, height := output.Width(t.Stdout), output.Height(t.Stdout)
	page, left := home, height-1
	for line := range strings.Lines((&table{Look: look, width: width}).text()) {
		if left--; left < 0 {
			break
		}
		page += output.Cut(strings.TrimSuffix(line, "\n"), width) + eraseLine + "\n"
	}
	_, err := fmt.Fprint(t.Stdout, page+eraseRest)
	return err
}

// printLook writes an object a line, or a block with an empty line before all but
// the first.
func (t *command) printLook(look *top.Look, first bool) error {
	if t.output.JSON() {
		return output.NewEncoder(t.Stdout).Encode(look)
	}
	text := (&table{Look: look, width: output.Width(t.Stdout)}).text()
	if !first {
		text = "\n" + text
	}
	_, err := fmt.Fprint(t.Stdout, text)
	return err
}
