// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/trace"
)

// Probe is a packet that is sent to see its way; see trace.Probe.
type Probe interface {
	Send() error
	IsOf(*trace.Packet) bool
	Close() error
}

type (
	// Follow tells of packets as they pass; see trace.Follow.
	Follow func(ctx context.Context, pinDir string, filter trace.Filter, o trace.Observer) error
	// MakeProbe makes a packet to be traced; see trace.NewProbe.
	MakeProbe func(peer, self netip.Addr) (Probe, error)
)

// NewTrace returns the command trace.
func NewTrace(a *cli.App, follow Follow, probe MakeProbe) *cobra.Command {
	t := &traceCommand{App: a, see: follow, newProbe: probe}
	c := &cobra.Command{
		Use:   "trace",
		Short: "Show packets as they pass",
		Long: `Show each packet that matches as it passes the programs. It reads the pins and needs no
daemon. One trace can run at a time. Interrupting it ends it with exit code 0. Packets
that arrive faster than they are shown are counted, not hidden.

Each line has the interface in: that of the packet, or of the flow of an outgoing packet.
It also has the kernel's choice, the interface and MAC out, and the verdict with its
reason. LEFT says whether the packet was seen to leave. The MAC of an inbound packet is
its source.

On a narrow terminal, the columns that matter least go first. The verdict stays. A row
with a long address or name is longer than the others. In a pipe or a file all columns are
there.

A mark follows the protocol:
  [S], [SA] and others  the flags of TCP
  [req], [rep]          request and reply of a ping or timestamp
  [err]                 an ICMP error about a packet of the flow
  [frag]                a later fragment

Verdicts of inbound packets:
  new      a flow begins, or a connection is established
  known    of a known flow, by its own interface and next hop
  moved    the flow follows its peer to this interface or MAC
  refused  of a known flow, by another interface or MAC, which it does not follow
  ignored  of no flow; the reason answer: the host sent the request
The other reasons of ignored are those of the metric replypath_ignored_packets_total.

Verdicts of outgoing packets are those of replypath explain, and:
  returned  not sent, and its sender may get an error: too large for the flow's
            interface (mtu), or its next hop does not answer (no_next_hop)
  unseen    redirected to the flow's interface, and not seen to leave there

--send sends an echo request from --self to --peer. It shows its path and that of the
answer. This host starts that traffic. So it goes by the routing table, like any other
connection from --self, unless it is related or host_model is strong. replypath explain
shows where a reply would go.`,
		Example: `  replypath trace --peer 10.1.0.0/24
  replypath trace --self 10.4.0.100 --count 10 -o json
  replypath trace --send --peer 10.1.0.100 --self 10.4.0.100`,
		Args: cli.NoArguments,
	}
	flags := c.Flags()
	flags.Var(cli.Value(&t.filter.Peer, "cidr", "", cli.Network), "peer", "only packets to and from this network or address")
	flags.Var(cli.Value(&t.filter.Self, "address", "", cli.Address), "self", "only packets of this address of the host")
	flags.Var(cli.Value(&t.count, "number", "", cli.Positive), "count", "end after this many packets")
	flags.BoolVar(&t.send, "send", false, "send an echo request from --self to --peer, and show its path")
	cli.Complete(c, "self", cli.OwnAddresses)
	t.output = cli.AddOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return t.run(c.Context()) }
	return c
}

// traceCommand is what trace was asked for.
type traceCommand struct {
	*cli.App
	see      Follow
	newProbe MakeProbe
	filter   trace.Filter
	count    int
	send     bool
	output   *cli.Output
}

func (t *traceCommand) run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	switch peer, self := t.filter.Peer, t.filter.Self; {
	case t.send:
		return t.probe(ctx)
	case peer.IsValid() && self.IsValid() && peer.Addr().Is4() != self.Is4():
		return cli.UsageErrorf("--peer %s and --self %s are not of one family: give two of IPv4 or two of IPv6", peer, self)
	}
	p := t.newPrinter()
	return errors.Join(t.follow(ctx, p.header, p.print, p.lost), p.err)
}

func (t *traceCommand) newPrinter() *tracePrinter {
	p := newTracePrinter(t.Stdout, t.Stderr, output.WantsColour(t.Stdout))
	if t.output.JSON() {
		p.encoder = output.NewEncoder(t.Stdout)
	}
	return p
}

// follow shows packets until ctx ends, or as many as were asked for have been
// shown. begin is called once packets are seen.
func (t *traceCommand) follow(ctx context.Context, begin func() error, show func(trace.Packet) error, lost func(uint64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var began error
	err := t.see(ctx, t.PinDir, t.filter, trace.Observer{
		Ready: func() {
			if began = begin(); began != nil {
				cancel()
			}
		},
		Packet: upTo(t.count, show),
		Lost:   lost,
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(began, err)
}

// answerTime is how long the answer to a probe is waited for.
const answerTime = 3 * time.Second

// probe sends a probe and shows its way.
func (t *traceCommand) probe(ctx context.Context) (err error) {
	peer, self := t.filter.Peer, t.filter.Self
	switch {
	case !peer.IsValid() || !peer.IsSingleIP():
		return cli.UsageErrorf("--send needs --peer with one address: give the address that the probe goes to")
	case !self.IsValid():
		return cli.UsageErrorf("--send needs --self: give the address that the probe comes from")
	}
	if err := checkEndpoints(netip.AddrPortFrom(peer.Addr(), 0), netip.AddrPortFrom(self, 0)); err != nil {
		return err
	}
	probe, err := t.newProbe(peer.Addr(), self)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, probe.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	p, answered := t.newPrinter(), false
	begin := func() error {
		if err := errors.Join(t.explainProbe(peer.Addr(), self), p.header()); err != nil {
			return err
		}
		return probe.Send()
	}
	show := func(packet trace.Packet) error {
		if !probe.IsOf(&packet) {
			return nil
		}
		if answered = packet.Direction == trace.Inbound; answered {
			cancel()
		}
		return p.print(packet)
	}
	if err := errors.Join(t.follow(ctx, begin, show, p.lost), p.err); err != nil {
		return err
	}
	if !answered && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		_, err = fmt.Fprintf(t.Stderr, "replypath: no answer within %s\n", answerTime)
	}
	return err
}

// explainProbe says what the way of a probe means.
func (t *traceCommand) explainProbe(peer, self netip.Addr) error {
	if t.output.JSON() {
		return nil
	}
	page := output.NewPage(t.Stdout)
	page.Wrapped("", fmt.Sprintf("An echo request from %s to %s. This host starts it: it goes by the routing table, unless it is related or host_model is strong. Where a reply goes:", self, peer))
	page.Line("  %s", t.CommandLine(fmt.Sprintf("explain --peer %s --self %s", peer, self)))
	page.Line("")
	_, err := page.WriteTo(t.Stdout)
	return err
}
