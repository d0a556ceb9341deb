package devices

import (
	"context"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestL3Size has datagrams leave by an Ethernet interface that takes less than the tun
// device that the kernel makes them for: the sender learns the size from one error,
// which comes in by the Ethernet interface, and its next answers fit.
func TestL3Size(t *testing.T) {
	const narrow, size = 1400, 1450
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, ReplicationMTU: narrow})
	l := l3Networks["tun to ethernet"](t, n)
	p := harness.On(t, n.Server.Host)
	for _, f := range n.Families() {
		harness.WantLost(t, l.server, harness.NewConversation(t, harness.UDP, n.ClientEth0, l.server.Eth1.Address(f)))
	}
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			pair := []string{"reason=mtu", "family=" + f.String(), "from_interface=tun0", "to_interface=eth1"}
			errors, wires := harness.Capture(t, l.server.Eth1), harness.Tap(t, l.server)
			harness.Eventually(t, "an answer of 1450 bytes", func() error { // the client has its path's size to learn, too
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				return harness.NewConversation(t, harness.UDP, n.ClientEth0, l.server.Eth1.Address(f)).AskFor(ctx, size)
			})
			wires.WantEth1("in fragments that fit", topology.From(l.server.Eth1.Address(f)))
			if count := errors.Count(topology.All(isTooBig, topology.To(l.server.Eth1.Address(f)))); count != 1 {
				t.Errorf("%d errors came in by eth1", count)
			}
			if count := p.In(t).Metrics().Sum("replypath_uncorrected_packets_total", pair...); count != 1 {
				t.Errorf("%v packets were counted as too large", count)
			}
		})
	}
}

// isTooBig matches what says that a packet is too large.
func isTooBig(f *topology.Frame) bool {
	return f.ICMPType == layers.ICMPv4TypeDestinationUnreachable && f.ICMPCode == layers.ICMPv4CodeFragmentationNeeded && topology.Protocol(layers.IPProtocolICMPv4)(f) ||
		f.ICMPType == layers.ICMPv6TypePacketTooBig && topology.Protocol(layers.IPProtocolICMPv6)(f)
}
