package show

import (
	"context"
	"errors"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

// followEvery is how often a followed table is looked at.
const followEvery = time.Second

// errEnough ends following after as many lines as were asked for.
var errEnough = errors.New("enough")

// follow prints events until ctx ends or somebody interrupts, neither of which
// is an error.
func (f *flowCommand) follow(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	return f.on(func(table FlowTable) error { return f.followOn(ctx, table) })
}

func (f *flowCommand) followOn(ctx context.Context, table FlowTable) error {
	if !f.output.JSON() {
		if err := output.Row(f.Stdout, eventWidths, append([]string{"EVENT"}, flowHeader...)); err != nil {
			return err
		}
	}
	filter := f.filter
	filter.Limit = 0 // counts lines here, not entries of the table
	err := table.Follow(ctx, filter, followEvery, f.eventPrinter(f.filter.Limit))
	if ctx.Err() != nil || errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// eventPrinter returns what prints one event after the other, up to limit, or
// without an end for 0.
func (f *flowCommand) eventPrinter(limit int) func(flows.Flow) error {
	printed := 0
	write := f.printEventRow
	if f.output.JSON() {
		encoder := output.NewEncoder(f.Stdout)
		write = func(flow flows.Flow) error { return encoder.Encode(flow) }
	}
	return func(flow flows.Flow) error {
		if err := write(flow); err != nil {
			return err
		}
		if printed++; printed == limit {
			return errEnough
		}
		return nil
	}
}

func (f *flowCommand) printEventRow(flow flows.Flow) error {
	return output.Row(f.Stdout, eventWidths, append([]string{flow.Event}, flowRow(&flow)...))
}

// eventWidths keep the columns in line, as far as can be told without knowing
// the rows to come: an IPv4 address with a port fits.
var eventWidths = []int{5, 8, 21, 21, 9, 17, 14, 6, 6, 9, 10}
