// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// run runs a command on a host and wants success.
func run(t *testing.T, host *topology.Host, command string) string {
	t.Helper()
	args := strings.Fields(command)
	output, err := host.Command(harness.Within(t, harness.AnswerTime), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, output)
	}
	return string(output)
}

// loadRules has a host load nftables rules.
func loadRules(t *testing.T, host *topology.Host, rules string) {
	t.Helper()
	c := host.Command(harness.Within(t, harness.AnswerTime), "nft", "-f", "-")
	c.Stdin = strings.NewReader(rules)
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, output)
	}
}

// askRouted prepares a conversation with the container's own address, which is
// routed to it and not translated.
func askRouted(t *testing.T, s *topology.S7, kind harness.Kind, f topology.Family) *harness.Conversation {
	t.Helper()
	return harness.NewConversation(t, kind, s.ClientEth0, s.ContainerEth0.Address(f))
}

// TestScopeAll has the server route to a container that answers from its own
// address. Only with `scope: all` its answers leave by the interface that the
// question came in by, those in fragments as well; what it begins itself goes as routed in any
// case.
func TestScopeAll(t *testing.T) {
	s := harness.NewS7(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	lost := func(t *testing.T, f topology.Family, kind harness.Kind) {
		wantLost(t, s.Server, askRouted(t, s, kind, f), s.ClientEth0)
	}
	harness.EachQuestionOf(t, s.Families(), "without replypath", lost)
	p := harness.On(t, s.Server.Host)
	p.Start()
	harness.EachQuestionOf(t, s.Families(), "local", lost)
	p.Expect(0, "detach", "--stop")
	p.Start("--config", harness.WriteConfig(t, "scope: all\n"))
	harness.EachQuestionOf(t, s.Families(), "all", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c := askRouted(t, s, kind, f)
		wantAnswers(t, s.Server, c, true)
		if kind == harness.TCP {
			return
		}
		wires := harness.Tap(t, s.Server)
		harness.Must(t, c.AskFor(harness.Within(t, harness.AnswerTime), largeDatagram))
		if frames := wires.WantEth1(c.String(), answersOf(c)); len(frames) != largeFragments {
			t.Errorf("%d bytes: %s", largeDatagram, harness.Describe(frames))
		}
	})
}

// TestScopeAllBegun has the container ask, by eth0 as routed, and wants its
// questions to stay there although their answers come in by eth1.
func TestScopeAllBegun(t *testing.T) {
	s := harness.NewS7(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, s.Server.Host)
	p.Start("--config", harness.WriteConfig(t, "scope: all\n"))
	for _, f := range s.Families() {
		harness.Serve(t, s.Client, s.ClientEth0.Address(f))
	}
	// For a moment after the first start nothing can be known of who spoke first.
	harness.Eventually(t, "what is begun is known as such", func() error {
		c := harness.NewConversation(t, harness.UDP, s.ContainerEth0, s.ClientEth0.Address(topology.IPv4))
		wires := harness.Tap(t, s.Server)
		for range 2 {
			harness.Ask(t, c)
		}
		if _, byEth1 := wires.Left(c.Questions()); len(byEth1) > 0 {
			return fmt.Errorf("by eth1 left %s", harness.Describe(byEth1))
		}
		return nil
	})
	harness.EachQuestionOf(t, s.Families(), "begun", func(t *testing.T, f topology.Family, kind harness.Kind) {
		wires := harness.Tap(t, s.Server)
		c := harness.NewConversation(t, kind, s.ContainerEth0, s.ClientEth0.Address(f))
		for range 5 {
			harness.Ask(t, c)
		}
		wires.WantEth0(c.String(), c.Questions())
		if wires.Eth1.Count(topology.All(c.Answers(), topology.Going(topology.Sent))) == 0 {
			t.Error("no answer came in by eth1")
		}
	})
}

// TestForwardedUntouched sends frames of all kinds through the server and wants
// them to come out byte by byte as without replypath, on the same interface.
func TestForwardedUntouched(t *testing.T) {
	s := harness.NewS7(t, topology.TwoNICOptions{Policy: topology.AnySource})
	transit := newTransit(t, s)
	before := transit.pass()
	p := harness.On(t, s.Server.Host)
	p.Start()
	if diff := cmp.Diff(before, transit.pass()); diff != "" {
		t.Errorf("what came out of the server (-without +with replypath):\n%s", diff)
	}
	if flows := p.Flows(); len(flows) > 0 {
		t.Errorf("forwarded packets became the flows %v", flows)
	}
	if n := p.Metrics().Sum("replypath_asymmetric_packets_total"); n != 0 {
		t.Errorf("%v forwarded packets counted as asymmetric", n)
	}
}

// transit sends frames between neighbours of the server that do not exist: what
// is for them ends there, and nobody answers.
type transit struct {
	t *testing.T
	s *topology.S7
	// ways are from one side of the server to another.
	ways []way
}

// way is one of a packet through the server.
type way struct {
	name     string
	from     *topology.Interface // where the frame is injected
	nic      *topology.Interface // that it comes in by
	to       *topology.Interface // where it comes out
	src, dst map[topology.Family]netip.Addr
	injector *harness.Injector
}

func newTransit(t *testing.T, s *topology.S7) *transit {
	t.Helper()
	far := addresses("10.9.0.200", "2001:db8:9::200")
	behindEth1 := addresses("10.2.0.77", "2001:db8:2::77")
	contained := addresses("10.17.0.200", "2001:db8:17::200")
	for _, f := range s.Families() {
		harness.Must(t, s.Bridge.AddNeighbour(contained[f], s.ContainerEth0.MAC))
		run(t, s.Production.Host, "ip route add blackhole "+far[f].String())
	}
	tr := &transit{t: t, s: s, ways: []way{
		{name: "eth1 to container", from: s.Server.Eth1.Peer(), nic: s.Server.Eth1, to: s.ContainerEth0, src: far, dst: contained},
		{name: "container to eth0", from: s.ContainerEth0, nic: s.Bridge.Interface, to: s.Server.Eth0.Peer(), src: contained, dst: far},
		{name: "eth1 to eth0", from: s.Server.Eth1.Peer(), nic: s.Server.Eth1, to: s.Server.Eth0.Peer(), src: behindEth1, dst: far},
	}}
	for i := range tr.ways {
		tr.ways[i].injector = harness.NewInjector(t, tr.ways[i].from)
	}
	return tr
}

func addresses(v4, v6 string) map[topology.Family]netip.Addr {
	return map[topology.Family]netip.Addr{topology.IPv4: netip.MustParseAddr(v4), topology.IPv6: netip.MustParseAddr(v6)}
}

// pass sends all frames and returns what came out, by way and family.
func (tr *transit) pass() map[string][]string {
	tr.t.Helper()
	came := make(map[string][]string)
	for _, w := range tr.ways {
		for _, f := range tr.s.Families() {
			c := harness.Capture(tr.t, w.to)
			frames := transitFrames(w.from, w.nic, w.src[f], w.dst[f])
			for _, frame := range frames {
				w.injector.Send(frame...)
			}
			these := topology.All(topology.Going(topology.Received), topology.From(w.src[f]), topology.To(w.dst[f]))
			got, err := c.WaitCount(harness.Within(tr.t, harness.AnswerTime), len(frames), these)
			if err != nil {
				tr.t.Fatalf("%s, %s: %v", w.name, f, err)
			}
			for _, frame := range got {
				came[w.name+" "+f.String()] = append(came[w.name+" "+f.String()], fmt.Sprintf("%s: %x", frame, frame.Data))
			}
		}
	}
	return came
}

// transitFrames are packets of every kind that forwarding treats alike.
func transitFrames(from, nic *topology.Interface, src, dst netip.Addr) [][]gopacket.SerializableLayer {
	frames := [][]gopacket.SerializableLayer{
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 1, SYN: true, Window: 1000}),
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 2, Ack: 7, ACK: true, Window: 1000}),
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 80, DstPort: 4001, Seq: 5, Ack: 9, SYN: true, ACK: true, Window: 1000}),
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 80, DstPort: 4001, Seq: 6, RST: true}),
		harness.Datagram{FromMAC: from.MAC, ToMAC: nic.MAC, From: netip.AddrPortFrom(src, 5000), To: netip.AddrPortFrom(dst, 53)}.Layers(),
		harness.Datagram{FromMAC: from.MAC, ToMAC: nic.MAC, From: netip.AddrPortFrom(src, 53), To: netip.AddrPortFrom(dst, 5001)}.Layers(),
	}
	for _, request := range []bool{true, false} {
		frames = append(frames, echoFrame(from.MAC, nic.MAC, src, dst, request))
	}
	ethernet, ip := ipHeaders(from.MAC, nic.MAC, src, dst, layers.IPProtocolESP)
	return append(frames, []gopacket.SerializableLayer{ethernet, ip, gopacket.Payload(slices.Repeat([]byte{0xe5}, 40))})
}
