package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"replypath/loader/flows"
)

func newFlows(a *app) *cobra.Command {
	f := &flowCommand{app: a}
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
		Args: noArguments,
	}
	f.addFilter(c)
	f.output = addOutput(c)
	c.Flags().BoolVar(&follow, "follow", false, "show flows as they begin, move and end")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if follow {
			return f.follow(c.Context())
		}
		return f.list()
	}
	c.AddCommand(newFlowsFlush(a))
	return c
}

func newFlowsFlush(a *app) *cobra.Command {
	f := &flowCommand{app: a}
	c := &cobra.Command{
		Use:   "flush",
		Short: "Forget flows",
		Long: `Forget the flows that match, all of them without a filter. Their replies go as the
kernel routes them until the peer sends again. For two seconds what the host
sends first is not noted, so that answers to it may become flows.`,
		Example: `  replypath flows flush --peer 10.1.0.100`,
		Args:    noArguments,
		RunE:    func(*cobra.Command, []string) error { return f.flush() },
	}
	f.addFilter(c)
	f.output = addOutput(c)
	return c
}

// flowCommand is what flows and flows flush share.
type flowCommand struct {
	*app
	filter flows.Filter
	output *output
}

func (f *flowCommand) list() (err error) {
	table, err := f.flows(f.pinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	found, err := table.List(f.filter)
	if err != nil {
		return err
	}
	orEmptyList(&found)
	sortFlows(found)
	return f.output.print(f.stdout, found, func(w io.Writer) error { return writeFlows(w, found) })
}

func (f *flowCommand) flush() (err error) {
	table, err := f.flows(f.pinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	count, err := table.Flush(f.filter)
	if err != nil {
		return err
	}
	return f.output.print(f.stdout, map[string]int{"flushed": count}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d flows forgotten\n", count)
		return err
	})
}
