// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/config"
	"replypath/loader/explain"
)

const defaultExplained = 20

// NewExplain returns the command explain; ask answers its questions, see explain.Ask.
func NewExplain(a *cli.App, ask func(pinDir string, q explain.Question) (*explain.Answer, error)) *cobra.Command {
	q := explain.Question{Limit: defaultExplained}
	c := &cobra.Command{
		Use:   "explain --peer address[:port] --self address[:port]",
		Short: "Show where a reply goes, and why",
		Long: `Show where the kernel alone would send a packet of this host from self to peer. Show
also where replypath sends it, and by which entry, or why it leaves it alone. It reads
the pins and queries the kernel. It sends nothing and needs no daemon. If the tuple has a
local socket, its device, user and mark are part of the query.

If no flow is recorded, --interface shows what would become of the reply to a request
that arrives there. If handshakes taught the same way of all who sent such requests, it
takes that. The answer for a recorded flow stays the same, and names the interface that
it arrived by.

Without ports the flows between the addresses are shown. The one with the latest inbound
frame comes first. There are at most --limit of them. A ping has an identifier in
place of a port, given with the peer.

Verdicts:
  corrected      leaves by the interface and next hop of its flow; the kernel chose
                 others
  already-right  the kernel chose them itself
  last-hop       leaves by the interface of its flow, back to the MAC that sent the request,
                 as handshakes taught
  direct-return  goes as routed, as handshakes taught
  fallback       goes as routed although its flow has another interface or next hop
  related        of no flow: goes as answers to its peer go, by the interface that has
                 its source address
  strong-host    of no flow: leaves by the interface that has its source address, as
                 host_model strong wants it
  no-flow        goes as routed: nothing is recorded; with a reason if nothing ever is
  local-origin   goes as routed: the host spoke first
  excluded       goes as routed: the configuration excludes it

Reasons of fallback are those of the metric replypath_uncorrected_packets_total, and:
  not_managed  replypath is not attached to the interface that the kernel chose
  no_route     the kernel builds no packet

Reasons of no-flow are those of the metric replypath_ignored_packets_total, and:
  unmanaged  replypath is not attached to --interface`,
		Example: `  replypath explain --peer 10.1.0.100 --self 10.4.0.100
  replypath explain --peer [2001:db8::7]:40000 --self [2001:db8:4::100]:443 --protocol tcp
  replypath explain --peer 10.1.0.100:40000 --self 10.4.0.100:53 --protocol udp -o json`,
		Args: cli.NoArguments,
	}
	addQuestionFlags(c, &q)
	o := cli.AddOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		if err := checkQuestion(&q); err != nil {
			return err
		}
		answer, err := ask(a.PinDir, q)
		if err != nil {
			return err
		}
		return o.Print(a.Stdout, answer, func(p *output.Page) { showAnswer(p, answer) })
	}
	return c
}

func addQuestionFlags(c *cobra.Command, q *explain.Question) {
	flags := c.Flags()
	flags.Var(cli.Value(&q.Peer, "address[:port]", "", cli.Endpoint), "peer", "the packet's destination")
	flags.Var(cli.Value(&q.Self, "address[:port]", "", cli.Endpoint), "self", "the packet's source, an address of this host")
	cli.AddProtocol(c, &q.Protocol)
	cli.AddInterface(c, &q.Interface, "where no flow is recorded: as if the request arrived by this interface")
	flags.Var(cli.Value(&q.Size, "bytes", "", cli.Positive), "size", "size of the IP packet; without it one that fits everywhere")
	flags.Var(cli.Value(&q.Limit, "number", fmt.Sprint(q.Limit), cli.Positive), "limit", "explain at most this many flows")
	cli.Complete(c, "self", cli.OwnAddresses)
}

// checkQuestion wants both ends, of one family, and what the protocol can have.
func checkQuestion(q *explain.Question) error {
	if err := checkEndpoints(q.Peer, q.Self); err != nil || q.Protocol == nil {
		return err
	}
	name := config.ProtocolName(*q.Protocol)
	isEcho := *q.Protocol == config.ProtocolICMP || *q.Protocol == config.ProtocolICMPv6
	switch {
	case isEcho && q.Peer.Addr().Is4() != (*q.Protocol == config.ProtocolICMP):
		return cli.UsageErrorf("--protocol %s does not go with --peer %s: use icmp for IPv4, icmpv6 for IPv6", name, q.Peer.Addr())
	case isEcho && q.Self.Port() != 0:
		return cli.UsageErrorf("--self %s: an echo has no port there, only an identifier: give it with --peer", q.Self)
	case !isEcho && !config.HasPorts(*q.Protocol) && q.Peer.Port()|q.Self.Port() != 0:
		return cli.UsageErrorf("--protocol %s has no ports: give --peer and --self without, or one of tcp, udp, sctp", name)
	}
	return nil
}

// checkEndpoints wants both ends, of one family.
func checkEndpoints(peer, self netip.AddrPort) error {
	switch {
	case !peer.IsValid():
		return cli.UsageErrorf("--peer is missing: give the address that the packet goes to")
	case !self.IsValid():
		return cli.UsageErrorf("--self is missing: give the address that the packet comes from")
	case peer.Addr().Is4() != self.Addr().Is4():
		return cli.UsageErrorf("--peer %s and --self %s are not of one family: give two IPv4 or two IPv6 addresses", peer.Addr(), self.Addr())
	}
	return nil
}
