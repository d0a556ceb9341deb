// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"errors"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

// FlowTable is what the flow commands read and clear; see flows.Table.
type FlowTable interface {
	List(flows.Filter) ([]flows.Flow, error)
	Flush(flows.Filter) (int, error)
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

--follow goes on to show which flows begin, move and end. It looks once a second.
--limit then ends it after that many lines.

With -o json it is an array. With --follow it is one object a line. Each object has:
  event              with --follow: new, moved, ended
  protocol           tcp, udp, icmp, icmpv6, sctp or a number
  family             ipv4, ipv6
  peer               the address of the peer
  peer_port          its port; of a ping the identifier
  self               the own address
  self_port          the own port
  interface          the interface that the flow arrives by; null once it is gone
  next_hop_mac       the MAC that replies go to
  gateway            the gateway that has it; null if it is the inbound MAC
  state              half-open, established, connectionless
  age_seconds        time since the flow began
  idle_seconds       time since its last inbound frame
  corrected_packets  packets that replypath corrected
  asymmetric         whether the kernel chose another interface or next hop at least once

--originated shows instead what this host originated: it has the address of another
interface than the kernel chose, and is no reply. It shows the last hour. The state of
each is originated. It has two keys more:
  kernel_interface  the interface that the kernel chose; left out once it is gone
  outcome           moved: it left by interface, as host_model strong wants it;
                    routed: it left by kernel_interface`,
		Example: `  replypath flows --asymmetric
  replypath flows --peer 10.1.0.0/24 --protocol tcp -o json
  replypath flows --follow --interface eth1
  replypath flows --originated`,
		Args: cli.NoArguments,
	}
	f.addFilter(c)
	f.output = cli.AddOutput(c)
	c.Flags().BoolVar(&f.filter.Originated, "originated", false, "show what this host originated by another interface than that of its source")
	c.Flags().BoolVar(&follow, "follow", false, "show flows as they begin, move and end")
	c.RunE = func(c *cobra.Command, _ []string) error {
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
what the host sends first. Answers to it may then become flows.`,
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
	open   func(pinDir string) (FlowTable, error)
	filter flows.Filter
	output *cli.Output
}

// addFilter gives a command the flags that choose flows.
func (f *flowCommand) addFilter(c *cobra.Command) {
	flags := c.Flags()
	flags.Var(cli.Value(&f.filter.Peer, "cidr", "", cli.Network), "peer", "only flows of peers in this network or with this address")
	cli.AddInterface(c, &f.filter.Interface, "only flows of this interface")
	cli.AddProtocol(c, &f.filter.Protocol)
	flags.BoolVar(&f.filter.Asymmetric, "asymmetric", false, "only flows whose replies the kernel would send by another interface or next hop")
	flags.Var(cli.Value(&f.filter.Limit, "number", "", cli.Positive), "limit", "at most this many flows")
}

// on opens the table for as long as something is done with it.
func (f *flowCommand) on(do func(FlowTable) error) (err error) {
	table, err := f.open(f.PinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	if f.filter.Interface != "" {
		if err := table.CheckInterface(f.filter.Interface); err != nil {
			return err
		}
	}
	return do(table)
}

func (f *flowCommand) list(table FlowTable) error {
	found, err := table.List(f.filter)
	if err != nil {
		return err
	}
	output.OrEmptyList(&found)
	sortFlows(found)
	header, row := f.columns()
	return f.output.Print(f.Stdout, found, func(p *output.Page) { p.Table(header, output.Rows(found, row)) })
}

func (f *flowCommand) flush(table FlowTable) error {
	count, err := table.Flush(f.filter)
	if err != nil {
		return err
	}
	forgotten := func(p *output.Page) { p.Line("%d flows forgotten", count) }
	return f.output.Print(f.Stdout, map[string]int{"flushed": count}, forgotten)
}

// followEvery is how often a followed table is looked at.
const followEvery = time.Second

// eventWidths keep the columns in line, as far as can be told without knowing
// the rows to come: an IPv4 address with a port fits.
var eventWidths = []int{5, 8, 21, 21, 9, 17, 14, 6, 6, 9, 10}

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
	header, cells := f.columns()
	show := func(flow flows.Flow) error { return row(flow.Event, cells(&flow)) }
	if f.output.JSON() {
		encoder := output.NewEncoder(f.Stdout)
		show = func(flow flows.Flow) error { return encoder.Encode(flow) }
	} else if err := row("EVENT", header); err != nil {
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
