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

// upTo calls each for so many, or without an end for 0, and then returns errEnough.
func upTo[T any](limit int, each func(T) error) func(T) error {
	count := 0
	return func(t T) error {
		if err := each(t); err != nil {
			return err
		}
		if count++; count == limit {
			return errEnough
		}
		return nil
	}
}

// follow prints events until ctx ends or somebody interrupts, neither of which
// is an error.
func (f *flowCommand) follow(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	return f.on(func(table FlowTable) error { return f.followOn(ctx, table) })
}

func (f *flowCommand) followOn(ctx context.Context, table FlowTable) error {
	row := func(event string, cells []string) error {
		return output.Row(f.Stdout, eventWidths, append([]string{event}, cells...))
	}
	show := func(flow flows.Flow) error { return row(flow.Event, flowRow(&flow)) }
	if f.output.JSON() {
		encoder := output.NewEncoder(f.Stdout)
		show = func(flow flows.Flow) error { return encoder.Encode(flow) }
	} else if err := row("EVENT", flowHeader); err != nil {
		return err
	}
	filter := f.filter
	filter.Limit = 0 // counts lines here, not entries of the table
	err := table.Follow(ctx, filter, followEvery, upTo(f.filter.Limit, show))
	if ctx.Err() != nil || errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// eventWidths keep the columns in line, as far as can be told without knowing
// the rows to come: an IPv4 address with a port fits.
var eventWidths = []int{5, 8, 21, 21, 9, 17, 14, 6, 6, 9, 10}
