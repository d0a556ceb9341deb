// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// balance has a director hand echo questions for its virtual addresses to the
// real ones, by direct routing (-g) or by translation (-m).
func balance(t *testing.T, director *topology.Host, how string, pairs ...[2]netip.Addr) {
	t.Helper()
	var script strings.Builder
	for _, p := range pairs {
		for _, protocol := range []string{"-t", "-u"} {
			virtual, real := netip.AddrPortFrom(p[0], traffic.EchoPort), netip.AddrPortFrom(p[1], traffic.EchoPort)
			fmt.Fprintf(&script, "ipvsadm -A %s %s -s rr\n", protocol, virtual)
			fmt.Fprintf(&script, "ipvsadm -a %s %s -r %s %s\n", protocol, virtual, real, how)
		}
	}
	c := director.Command(await.Within(t, await.AnswerTime), "sh", "-eu")
	c.Stdin = strings.NewReader(script.String())
	output, err := c.CombinedOutput()
	if err != nil && strings.Contains(string(output), "Can't initialize ipvs") {
		lacks(t, "IPVS (ip_vs)")
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script.String(), output)
	}
}

// balanced are the kinds of question that a director hands on. Pings of its address it answers itself.
var balanced = []traffic.Kind{traffic.TCP, traffic.UDP}

func eachBalanced(t *testing.T, name string, run func(*testing.T, topology.Family, traffic.Kind)) {
	t.Helper()
	for _, f := range traffic.Families {
		for _, kind := range balanced {
			t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) { run(t, f, kind) })
		}
	}
}

// wantAnswered asks, and wants every answer by an interface of the server to a MAC.
func wantAnswered(t *testing.T, c *traffic.Conversation, answers topology.Filter, nics []*topology.Interface, by *topology.Interface, to net.HardwareAddr) {
	t.Helper()
	exits := wire.TapAll(t, nics...)
	await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), 1000))
	exits.Want(c.String(), answers, by, to)
}

// wantUnanswered asks in vain until an answer has left by an interface of the server to a MAC.
func wantUnanswered(t *testing.T, c *traffic.Conversation, answers topology.Filter, by *topology.Interface, to net.HardwareAddr) {
	t.Helper()
	exits := wire.TapAll(t, by)
	ctx, cancel := context.WithCancel(await.Within(t, await.AnswerTime))
	asked := make(chan error, 1)
	go func() { asked <- c.Ask(ctx) }()
	if _, err := exits.At(by).Wait(ctx, topology.All(answers, topology.Going(topology.Received))); err != nil {
		t.Errorf("%s: no answer left: %v", c, err)
	}
	silence := time.AfterFunc(await.SilenceTime, cancel)
	defer silence.Stop()
	if err := <-asked; err == nil {
		t.Errorf("%s was answered", c)
	}
	exits.Want(c.String(), answers, by, to)
}

// TestLVSDirectRouting (S3a) is a real server of a director that is IPVS itself, with the router on another NIC. Nothing breaks by
// default: answers from the virtual address go to the router. TestS3aOneNIC has both on one NIC.
func TestLVSDirectRouting(t *testing.T) {
	s := traffic.Build(t, func(ctx context.Context) (*topology.S3a, error) { return topology.NewS3a(ctx, true) })
	nics := []*topology.Interface{s.Eth0, s.Eth1}
	for _, f := range traffic.Families {
		traffic.Serve(t, s.Server, s.Virtual(f))
		traffic.Serve(t, s.Server, s.Eth0.Address(f))
		balance(t, s.Director.Host, "-g", [2]netip.Addr{s.Virtual(f), s.Eth0.Address(f)})
	}
	virtual := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, s.ClientEth0, s.Virtual(f))
		wantAnswered(t, c, c.Answers(), nics, s.Eth1, s.RouterInside.MAC)
	}
	eachBalanced(t, "virtual without replypath", virtual)
	product.On(t, s.Server).Start()
	eachBalanced(t, "virtual", virtual)
	eachBalanced(t, "real", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, s.ClientEth0, s.Eth0.Address(f))
		wantAnswered(t, c, c.Answers(), nics, s.Eth0, s.DirectorInside.MAC)
	})
}

// TestLVSTranslation (S2) is a real server of a director that is IPVS itself and translates, with a client in the server's
// own network: without replypath the server answers past the director. TestS3b has the director's redirects.
func TestLVSTranslation(t *testing.T) {
	s := traffic.Build(t, topology.NewS2)
	for _, f := range traffic.Families {
		traffic.Serve(t, s.Server, s.ServerEth0.Address(f))
		balance(t, s.Balancer.Host, "-m", [2]netip.Addr{s.Virtual(f), s.ServerEth0.Address(f)})
	}
	conversation := func(t *testing.T, f topology.Family, kind traffic.Kind) (*traffic.Conversation, topology.Filter) {
		c := traffic.NewConversation(t, kind, s.ClientEth0, s.Virtual(f))
		return c, c.Behind(s.ServerEth0.Address(f)).Answers()
	}
	eachBalanced(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c, answers := conversation(t, f, kind)
		wantUnanswered(t, c, answers, s.ServerEth0, s.ClientEth0.MAC)
	})
	product.On(t, s.Server).Start("--config", product.WriteConfig(t, "interfaces: [{name: eth0, next_hop: last-hop}]\n"))
	eachBalanced(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c, answers := conversation(t, f, kind)
		wantAnswered(t, c, answers, []*topology.Interface{s.ServerEth0}, s.ServerEth0, s.BalancerEth0.MAC)
	})
}
