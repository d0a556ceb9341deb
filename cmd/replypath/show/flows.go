// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/finding"
	"replypath/loader/flows"
)

// FlowTable is what the flow commands read and clear; see flows.Table.
type FlowTable interface {
	Show(l flows.Listing, each func(page []flows.Flow) error) error
	Flush(flows.Filter) (flows.Flushed, error)
	CheckInterface(name string) error
	Follow(ctx context.Context, filter flows.Filter, every time.Duration, each func(flows.Flow) error) error
	Close() error
}

// NewFlows returns the command flows; open opens the pinned flow tables.
func NewFlows(a *cli.App, open func(pinDir string) (FlowTable, error)) *cobra.Command {
	f := &flowCommand{App: a, open: open}
	var follow bool
	c := &cobra.Command{
		Use:   "flows",
		Short: "Show the flow table",
		Long: `Show the flows that peers opened to this host. It reads the pins and needs no daemon.
A peer is shown with its port. A ping has an identifier in place of the port.

Flows are in the order of addresses; more than 32767 come as they are read. --sort puts
them in another order before --limit counts, and shows 16384 at most:
  corrected  most corrected packets first
  bytes      most bytes first; flows without a known number come last
  age        youngest first
Bytes are what this host sent by a TCP connection, each counted once. They come from the
sockets. These are asked only for --sort bytes, for -o json, and for lines of 160
characters.

The table fits the terminal, or COLUMNS. If it is narrow, the columns that matter least go
first. In a pipe or a file all columns are there:
  IN      the interface that the flow arrives by
  KERNEL  of an asymmetric flow: the interface that the kernel's routes choose now; none
          if there is no route, ? if it is not known
  STATE   half-open, established, connectionless, or closing: a TCP connection after FIN or
          RST
  BYTES   bytes of TCP payload that this host sent

--follow goes on to show which flows begin, move and end. It looks once a second.
--limit then ends it after that many lines. --sort does not go with it.

--originated shows instead what this host originated: it has the address of another
interface than the kernel chose, and is no reply. It shows the last hour, by own address
and peer. Ports and protocol are those of the last packet. The outcome is:
  moved   it left by the interface of its address, as it is related or host_model strong
          wants it
  routed  it left by the interface that the kernel chose`,
		Example: `  replypath flows --asymmetric
  replypath flows --peer 10.1.0.0/24 --protocol tcp -o json
  replypath flows --sort corrected --limit 10
  replypath flows --follow --interface eth1
  replypath flows --originated`,
		Args: cli.NoArguments,
	}
	f.addFilter(c)
	f.output = cli.AddOutput(c)
	c.Flags().BoolVar(&f.listing.Originated, "originated", false, "show what this host originated by another interface than that of its source")
	c.Flags().BoolVar(&follow, "follow", false, "show flows as they begin, move and end")
	cli.AddChoice(c, &f.listing.Order, "sort", "", "column", "what flows are sorted by before --limit counts: corrected, bytes or age", flows.SortOrders...)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if follow && f.listing.Order != "" {
			return cli.UsageErrorf("--sort %s does not go with --follow: events are shown as they come", f.listing.Order)
		}
		if follow {
			return f.follow(c.Context())
		}
		return f.on(f.list)
	}
	c.AddCommand(newFlowsFlush(a, open))
	return c
}

func newFlowsFlush(a *cli.App, open func(pinDir string) (FlowTable, error)) *cobra.Command {
	f := &flowCommand{App: a, open: open}
	c := &cobra.Command{
		Use:   "flush",
		Short: "Forget flows",
		Long: `Forget the flows that match. Without a filter all flows match. Their replies go as the
kernel routes them until the peer sends again. For two seconds replypath does not note
what the host sends first. Answers to it may then become flows.

It also forgets by which ways replies through the senders of these flows arrive. Without a
filter, or with --interface alone, it does so for all senders.`,
		Example: `  replypath flows flush --peer 10.1.0.100`,
		Args:    cli.NoArguments,
		RunE:    func(*cobra.Command, []string) error { return f.on(f.flush) },
	}
	f.addFilter(c)
	f.output = cli.AddOutput(c)
	return c
}

// flowCommand is what flows and flows flush share.
type flowCommand struct {
	*cli.App
	open    func(pinDir string) (FlowTable, error)
	listing flows.Listing
	output  *cli.Output
}

// addFilter gives a command the flags that choose flows.
func (f *flowCommand) addFilter(c *cobra.Command) {
	flags := c.Flags()
	flags.Var(cli.Value(&f.listing.Peer, "cidr", "", cli.Network), "peer", "only flows of peers in this network or with this address")
	cli.AddInterface(c, &f.listing.Interface, "only flows of this interface")
	cli.AddProtocol(c, &f.listing.Protocol)
	flags.BoolVar(&f.listing.Asymmetric, "asymmetric", false, "only flows whose replies the kernel would send by another interface or next hop")
	flags.Var(cli.Value(&f.listing.Limit, "number", "", cli.Positive), "limit", "at most this many flows")
}

// on opens the table for as long as something is done with it.
func (f *flowCommand) on(do func(FlowTable) error) (err error) {
	table, err := f.open(f.PinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	if f.listing.Interface != "" {
		if err := table.CheckInterface(f.listing.Interface); err != nil {
			return err
		}
	}
	return do(table)
}

func (f *flowCommand) list(table FlowTable) error {
	f.listing.Bytes = f.output.JSON() || output.Width(f.Stdout) >= wideEnough
	f.listing.Warn = func(message string) { fmt.Fprintf(f.Stderr, "replypath: %s\n", message) }
	if f.output.JSON() {
		list := output.NewJSONList(f.Stdout)
		if err := table.Show(f.listing, func(page []flows.Flow) error { return output.Append(list, page) }); err != nil {
			return err
		}
		return list.End()
	}
	var columns output.Table[flows.Flow] // as the first page needs them
	show := func(list []flows.Flow) error {
		var page output.Page
		if columns == nil {
			columns = output.NewTable(f.fields(), list, output.Width(f.Stdout))
			page.Line("%s", columns.Header())
		}
		for n := range list {
			page.Line("%s", columns.Row(&list[n], ""))
		}
		_, err := page.WriteTo(f.Stdout)
		return err
	}
	err := table.Show(f.listing, show)
	if err == nil && columns == nil {
		err = show(nil)
	}
	return err
}

// wideEnough is a line that has room for every column.
const wideEnough = 160

func (f *flowCommand) flush(table FlowTable) error {
	flushed, err := table.Flush(f.listing.Filter)
	if err != nil {
		return err
	}
	forgotten := finding.Counted(flushed.Flows, "flow", "flows")
	if flushed.Senders > 0 {
		forgotten += " and " + finding.Counted(flushed.Senders, "sender", "senders")
	}
	return f.output.Print(f.Stdout, flushed, func(p *output.Page) { p.Line("%s forgotten", forgotten) })
}

// followEvery is how often a followed table is looked at.
const followEvery = time.Second

// eventWidths keep the columns in line, as far as can be told without knowing the rows to come: most IPv4 addresses with a
// port fit. Others are as wide as their headers.
var eventWidths = map[string]int{
	"PEER": 18, "SELF": 18, "IN": 5, "NEXT HOP": 17, "STATE": 14, "AGE": 6, "IDLE": 6,
}

// eventFields are what happened, and the fields of its flow.
func (f *flowCommand) eventFields() []flowField {
	fields := append([]flowField{output.NewField("EVENT", 0, func(f *flows.Flow) string { return f.Event })}, f.fields()...)
	for i := range fields {
		fields[i].Width = eventWidths[fields[i].Name]
	}
	return fields
}

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
	show, err := f.events()
	if err != nil {
		return err
	}
	filter := f.listing.Filter
	filter.Limit = 0 // counts lines here, not entries of the table
	err = table.Follow(ctx, filter, followEvery, upTo(f.listing.Limit, show))
	if ctx.Err() != nil || errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// events returns what shows an event, below the header that it writes.
func (f *flowCommand) events() (show func(flows.Flow) error, err error) {
	if f.output.JSON() {
		encoder := output.NewEncoder(f.Stdout)
		return func(flow flows.Flow) error { return encoder.Encode(flow) }, nil
	}
	table := output.NewTable(f.eventFields(), nil, output.Width(f.Stdout))
	line := func(text string) error {
		_, err := fmt.Fprintln(f.Stdout, text)
		return err
	}
	return func(flow flows.Flow) error { return line(table.Row(&flow, "")) }, line(table.Header())
}
