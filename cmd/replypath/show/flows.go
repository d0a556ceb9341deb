package show

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

// FlowTable is what the flow commands read and clear; see flows.Table.
type FlowTable interface {
	List(flows.Filter) ([]flows.Flow, error)
	Flush(flows.Filter) (int, error)
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
		Long: `Show the flows that peers opened to this host, read from the pins: it needs no
daemon. A peer is shown with its port, or for an echo with its identifier.

--follow goes on to tell which flows begin, move and end, looking once a second;
--limit then ends it after so many lines.

With -o json it is an array, or one object a line with --follow; each has
  event               with --follow: new, moved, ended
  protocol, family    tcp, udp, icmp, icmpv6, sctp or a number; ipv4, ipv6
  peer, peer_port     of an echo the identifier
  self, self_port
  interface           by which the flow came; null once it is gone
  next_hop_mac        to which replies go
  gateway             whose it is; null where it is that of the inbound frames
  state               half-open, established, connectionless
  age_seconds, idle_seconds
  corrected_packets
  asymmetric          whether the kernel chose another way at least once`,
		Example: `  replypath flows --asymmetric
  replypath flows --peer 10.1.0.0/24 --protocol tcp -o json
  replypath flows --follow --interface eth1`,
		Args: cli.NoArguments,
	}
	f.addFilter(c)
	f.output = cli.AddOutput(c)
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
		Long: `Forget the flows that match, all of them without a filter. Their replies go as the
kernel routes them until the peer sends again. For two seconds what the host
sends first is not noted, so that answers to it may become flows.`,
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
	flags.BoolVar(&f.filter.Asymmetric, "asymmetric", false, "only flows that the kernel would have sent another way")
	flags.Var(cli.Value(&f.filter.Limit, "number", "", cli.Positive), "limit", "no more than so many")
}

// on opens the table for as long as something is done with it.
func (f *flowCommand) on(do func(FlowTable) error) (err error) {
	table, err := f.open(f.PinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	return do(table)
}

func (f *flowCommand) list(table FlowTable) error {
	found, err := table.List(f.filter)
	if err != nil {
		return err
	}
	output.OrEmptyList(&found)
	sortFlows(found)
	return f.output.Print(f.Stdout, found, func(p *output.Page) { p.Table(flowHeader, output.Rows(found, flowRow)) })
}

func (f *flowCommand) flush(table FlowTable) error {
	count, err := table.Flush(f.filter)
	if err != nil {
		return err
	}
	forgotten := func(p *output.Page) { p.Line("%d flows forgotten", count) }
	return f.output.Print(f.Stdout, map[string]int{"flushed": count}, forgotten)
}
