// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// s3c is the network with directors that translate, and the ways to them.
type s3c struct {
	*topology.S3c
	to [2]exit
}

func newS3c(t *testing.T) s3c {
	t.Helper()
	s := s3c{S3c: traffic.Build(t, topology.NewS3c)}
	for i, director := range s.Directors {
		asked := s.by(i)
		for _, f := range s.Families() {
			traffic.Serve(t, s.Server, asked.seenAs(f))
		}
		destinationNAT(t, director.Host, asked.of, asked.seenAs)
		s.to[i] = exit{[]*topology.Interface{s.ServerEth0}, s.ServerEth0, s.DirectorEth0[i].MAC}
	}
	return s
}

// by has the client ask by a director.
func (s s3c) by(director int) asking {
	virtual := func(f topology.Family) netip.Addr { return s.Virtual(director, f) }
	return asking{s.ClientEth0, virtual, func(f topology.Family) netip.Addr { return s.Real(director, f) }}
}

// answered wants each director's clients to be answered by it.
func (s s3c) answered(t *testing.T, name string) {
	for i := range s.Directors {
		s.by(i).answered(t, fmt.Sprintf("director %d%s", i+1, name), s.to[i])
	}
}

// TestS3c has a client ask by both directors. Without replypath all answers go to director 1, which has the default
// route, and those to the clients of director 2 arrive as a stranger's; with it each goes back to the director that
// it came from. Director 2 is in no route of the server, so the configuration names it, or stands in one that is
// never used. The recipe's rules do the same.
func TestS3c(t *testing.T) {
	s, page := newS3c(t), host.ReadRecipe(t, "s3c-one-server-two-directors")
	s.by(0).answered(t, "director 1 without replypath", s.to[0])
	seen := page.Watch(s.Server, "What goes wrong")
	s.by(1).lost(t, "director 2 without replypath", s.to[0])
	seen()
	p := product.On(t, s.Server)
	p.Start("--config", page.Config("With replypath"))
	s.answered(t, "")
	for i := range s.Directors {
		t.Run(fmt.Sprintf("director %d changes its mac", i+1), func(t *testing.T) { s.changeMAC(t, p, i) })
		s.answered(t, fmt.Sprintf(" after change %d", i+1))
	}
	p.Expect(0, "detach", "--stop")
	s.by(1).lost(t, "director 2 after detach", s.to[0])
	page.Run(s.Server, "With replypath")
	s.by(1).lost(t, "director 2 with a second route", s.to[0])
	p.Start()
	s.answered(t, " by a second route")
	p.Expect(0, "detach", "--stop")
	page.Run(s.Server, "With ip rule")
	s.answered(t, " by rules")
}

// changeMAC gives a director another MAC, which says so as directors do. All flows by it follow: a connection in
// which only the server speaks, and what the client goes on to ask.
func (s *s3c) changeMAC(t *testing.T, p *product.Product, director int) {
	t.Helper()
	var talks []*traffic.Conversation
	var pushes []*traffic.Push
	for _, f := range s.Families() {
		pushes = append(pushes, traffic.NewPush(t, s.Client, s.Server, s.Virtual(director, f), s.Real(director, f)))
		for _, kind := range traffic.Kinds {
			c := traffic.NewConversation(t, kind, s.ClientEth0, s.Virtual(director, f))
			traffic.Ask(t, c)
			talks = append(talks, c)
		}
	}
	nic := s.DirectorEth0[director]
	for _, key := range []string{"net/ipv4/conf/eth0/arp_notify", "net/ipv6/conf/eth0/ndisc_notify"} {
		await.Must(t, nic.Host.SetSysctl(key, "1"))
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0xfe, byte(director)}
	await.Must(t, nic.SetMAC(mac))
	s.to[director].to = mac
	for _, f := range s.Families() {
		waitGatewayMAC(t, p, "eth0", nic.Address(f), mac)
	}
	for _, c := range pushes {
		exits := wire.TapAll(t, s.ServerEth0)
		c.Speak()
		exits.Want("what the server pushes", c.Segments, s.ServerEth0, mac)
	}
	for _, c := range talks {
		s.to[director].wantAnswers(t, c, c.Behind(s.Real(director, topology.FamilyOf(c.Self.Addr()))).Answers())
	}
}

// waitGatewayMAC returns when the status shows an interface's gateway with a MAC, and the programs know it. The status
// asks the kernel, whom the programs follow a moment later.
func waitGatewayMAC(t *testing.T, p *product.Product, nic string, address netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	await.Eventually(t, "the gateway has its new mac", func() error {
		gateways := p.Status().Interface(nic).Gateways
		for _, g := range gateways {
			if g.Address == address.String() && g.MAC != nil && *g.MAC == mac.String() {
				return nil
			}
		}
		return fmt.Errorf("gateways %+v", gateways)
	})
	maps := await.Must1[*bpf.DatapathMaps](t)(datapath.OpenMaps(p.PinDir))
	defer maps.Close()
	index := uint32(p.Status().Interface(nic).Index)
	await.Eventually(t, "the programs know its new mac", func() error {
		var (
			id    uint32
			known bpf.DatapathGateway
		)
		entries := maps.Gateways.Iterate()
		for entries.Next(&id, &known) {
			isIt := known.Ifindex == index && datapath.Address(known.Address) == address
			if isIt && known.Usable != 0 && bytes.Equal(known.Mac[:], mac) {
				return nil
			}
		}
		return errors.Join(errors.New("they do not"), entries.Err())
	})
}
