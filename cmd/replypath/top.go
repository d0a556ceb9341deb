package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/loader/flows"
	"replypath/loader/top"
)

const (
	defaultInterval  = time.Second
	shortestInterval = 100 * time.Millisecond
	defaultTopFlows  = 20
)

func newTop(a *app) *cobra.Command {
	t := &topCommand{app: a, interval: defaultInterval, limit: defaultTopFlows, order: flows.ByRate}
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
		Args: noArguments,
	}
	t.addFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return t.run(c.Context()) }
	return c
}

// topCommand is what top was asked for.
type topCommand struct {
	*app
	interval     time.Duration
	count, limit int
	order        flows.Order
	output       *output
}

func (t *topCommand) addFlags(c *cobra.Command) {
	orders := make([]string, len(flows.Orders))
	for i, order := range flows.Orders {
		orders[i] = string(order)
	}
	order := func(text string) (flows.Order, error) {
		word, err := oneOf(orders...)(text)
		return flows.Order(word), err
	}
	flags := c.Flags()
	flags.Var(newParsed(&t.interval, "time", t.interval.String(), topInterval), "interval",
		"time from one look to the next")
	flags.Var(newParsed(&t.count, "number", "", positive), "count", "end after so many looks")
	flags.Var(newParsed(&t.limit, "number", fmt.Sprint(t.limit), positive), "limit", "no more flows than so many")
	flags.Var(newParsed(&t.order, "column", string(t.order), order), "sort",
		"what flows are chosen and sorted by: rate, corrected or age")
	complete(c, "sort", func() []string { return orders })
	t.output = addOutput(c)
}

func topInterval(text string) (time.Duration, error) {
	interval, err := time.ParseDuration(text)
	if err != nil || interval < shortestInterval {
		return 0, fmt.Errorf("%q is not a time of at least %s such as 1s", text, shortestInterval)
	}
	return interval, nil
}

// run shows looks until ctx ends or somebody interrupts, neither of which is an
// error.
func (t *topCommand) run(ctx context.Context) (err error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	monitor, err := t.top(t.pinDir, t.limit)
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
	return t.watch(ctx, screen, monitor)
}

// print writes a look every interval.
func (t *topCommand) print(ctx context.Context, monitor monitor) error {
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
func (t *topCommand) printLook(look *top.Look, first bool) error {
	if t.output.format == outputJSON {
		look.Flows = look.Busiest[t.order]
		return newEncoder(t.stdout).Encode(look)
	}
	lines := (&topTable{Look: look, order: t.order}).lines()
	if !first {
		lines = slices.Insert(lines, 0, topLine{})
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(t.stdout, line.text); err != nil {
			return err
		}
	}
	return nil
}
