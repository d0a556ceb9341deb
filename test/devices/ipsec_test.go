// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestIPsec has the client's questions come out of an ESP tunnel that ends at replication. Each passes replication's
// programs twice, encrypted and as what was inside, and the latter never becomes a flow. Questions for the replication
// address are answered into the tunnel; those for the production address, for which the tunnel leads one way only, by
// production: a flow of theirs would move them.
func TestIPsec(t *testing.T) {
	s := newSite(t, ethernet, ethernet)
	for _, f := range traffic.Families {
		s.connectESP(f)
	}
	traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		s.wantByESP(t, s.ask(t, kind, s.Replication.Address(f)), true)
		s.wantByESP(t, s.ask(t, kind, s.Production.Address(f)), false)
	})
	p, _ := product.StartOn(t, s.Server)
	traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		s.wantIgnored(t, p.In(t), s.ask(t, kind, s.Replication.Address(f)), true)
		s.wantIgnored(t, p.In(t), s.ask(t, kind, s.Production.Address(f)), false)
		if flows := p.In(t).Flows(); len(flows) > 0 {
			t.Errorf("flows were recorded: %v", flows)
		}
	})
}

// connectESP lays the tunnel between the router's and the server's ends of replication.
func (s *site) connectESP(f topology.Family) {
	s.t.Helper()
	script := strings.NewReplacer(
		"ROUTER", s.Replication.Peer().Address(f).String(), "SERVER", s.Replication.Address(f).String(),
		"PRODUCTION", s.Production.Address(f).String(), "CLIENTS", address(f, clientNet, 0).Masked().String(),
		"CIPHER", "aead rfc4106(gcm(aes)) 0x"+strings.Repeat("5a", 20)+" 128",
	)
	const associations = `
		xfrm state add src ROUTER dst SERVER proto esp spi 0x1001 mode tunnel CIPHER
		xfrm state add src SERVER dst ROUTER proto esp spi 0x1002 mode tunnel CIPHER`
	s.xfrm(s.Server, script.Replace(associations+`
		xfrm policy add dir in src CLIENTS dst SERVER tmpl src ROUTER dst SERVER proto esp mode tunnel
		xfrm policy add dir in src CLIENTS dst PRODUCTION tmpl src ROUTER dst SERVER proto esp mode tunnel
		xfrm policy add dir out src SERVER dst CLIENTS tmpl src SERVER dst ROUTER proto esp mode tunnel`))
	s.xfrm(s.Router.Host, script.Replace(associations+`
		xfrm policy add dir out src CLIENTS dst SERVER tmpl src ROUTER dst SERVER proto esp mode tunnel
		xfrm policy add dir out src CLIENTS dst PRODUCTION tmpl src ROUTER dst SERVER proto esp mode tunnel
		xfrm policy add dir fwd src SERVER dst CLIENTS tmpl src SERVER dst ROUTER proto esp mode tunnel`))
}

// xfrm runs commands of ip(8), one a line.
func (s *site) xfrm(host *topology.Host, commands string) {
	s.t.Helper()
	c := host.Command(await.Within(s.t, await.AnswerTime), "ip", "-batch", "-")
	c.Stdin = strings.NewReader(commands)
	output, err := c.CombinedOutput()
	if err == nil {
		return
	}
	s.t.Logf("ip -batch - on %s: %v\n%s%s", host.Name, err, commands, output)
	// In the words of kernels that say what they miss, and of those that do not.
	for _, missing := range []string{"not found", "Protocol not supported", "Function not implemented"} {
		if strings.Contains(string(output), missing) {
			lacks(s.t, "IPsec (xfrm_user, esp4, esp6, gcm)")
		}
	}
	s.t.FailNow()
}

// wantByESP asks once and wants the question by the tunnel, and the answer back into it or as it is by production. It
// returns the questions that came out of the tunnel.
func (s *site) wantByESP(t *testing.T, c *traffic.Conversation, tunnelled bool) []*topology.Frame {
	t.Helper()
	esp := topology.Protocol(layers.IPProtocolESP)
	// The device that a packet is decrypted behind receives it again, as what was inside.
	inside, exits := wire.Capture(t, s.Replication), wire.TapAll(t, s.nics()...)
	await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), 1000))
	if tunnelled {
		exits.Want("the encrypted answer of "+c.String(), esp, s.Replication, s.Replication.Peer().MAC)
		clear := inside.Frames(topology.All(c.Answers(), topology.Going(topology.Sent)))
		if clear = append(clear, exits.Left(s.Production, c.Answers())...); len(clear) > 0 {
			t.Errorf("%s: beside the tunnel left %s", c, wire.Describe(clear))
		}
	} else {
		exits.Want(c.String(), c.Answers(), s.Production, s.Production.Peer().MAC)
	}
	for _, nic := range s.nics() {
		if clear := exits.Came(nic, c.Questions()); len(clear) > 0 {
			t.Errorf("%s: beside the tunnel came by %s %s", c, nic.Name, wire.Describe(clear))
		}
	}
	questions := inside.Frames(topology.All(c.Questions(), topology.Going(topology.Received)))
	if encrypted := exits.Came(s.Replication, esp); len(questions) == 0 || len(encrypted) < len(questions) {
		t.Errorf("%s: %d questions came out of %d encrypted packets", c, len(questions), len(encrypted))
	}
	return questions
}

// wantIgnored is wantByESP with replypath, and wants every question to be counted as
// one that starts no flow because it came out of a tunnel.
func (s *site) wantIgnored(t *testing.T, p *product.Product, c *traffic.Conversation, tunnelled bool) {
	t.Helper()
	const ignored = "replypath_ignored_packets_total"
	before := p.Metrics().Sum(ignored, "reason=ipsec")
	questions := s.wantByESP(t, c, tunnelled)
	want := len(questions)
	if c.Kind == traffic.TCP {
		// Of what follows a handshake only the first segment is looked at: the tuple is marked then.
		want = 1
		for _, frame := range questions {
			if frame.TCPFlags&topology.SYN != 0 {
				want++
			}
		}
	}
	await.Same(t, c.String()+": packets ignored with reason ipsec", float64(want), p.Metrics().Sum(ignored, "reason=ipsec")-before)
}
