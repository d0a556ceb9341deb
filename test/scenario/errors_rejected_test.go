// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// rejections are rules of a server's firewall, and what a client's connect or read
// says of them.
var rejections = []struct {
	network string
	port    uint16
	rule    string
	error   map[topology.Family]error
}{
	{"tcp", 81, "tcp dport 81 reject with tcp reset", sameError(unix.ECONNREFUSED)},
	{"tcp", 82, "tcp dport 82 reject with icmpx port-unreachable", sameError(unix.ECONNREFUSED)},
	{"tcp", 83, "tcp dport 83 reject with icmpx admin-prohibited", map[topology.Family]error{topology.IPv4: unix.EHOSTUNREACH, topology.IPv6: unix.EACCES}},
	{"udp", 84, "udp dport 84 reject with icmpx port-unreachable", sameError(unix.ECONNREFUSED)},
}

func sameError(err error) map[topology.Family]error {
	return map[topology.Family]error{topology.IPv4: err, topology.IPv6: err}
}

// knock connects, and for UDP asks, and returns what the client learns.
func knock(ctx context.Context, client *topology.Host, network string, to netip.AddrPort) error {
	conn, err := client.Dial(ctx, network, to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	if _, err := conn.Write([]byte("question")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 100))
	return err
}

// TestRejected has the server's firewall reject what comes in, by resets and by
// errors: they leave by the NIC that was asked, and the client learns at once.
func TestRejected(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	rules := "table inet filter { chain input { type filter hook input priority filter\n"
	for _, r := range rejections {
		rules += r.rule + "\n"
	}
	harness.Nft(t, n.Server.Host, rules+"}; }")
	each := func(run func(f topology.Family, network string, to netip.AddrPort, rejected topology.Filter, want error)) {
		for _, f := range harness.Families {
			for _, r := range rejections {
				to := netip.AddrPortFrom(n.Server.Eth1.Address(f), r.port)
				rejected := topology.All(topology.From(to.Addr()), topology.To(n.ClientEth0.Address(f)))
				run(f, r.network, to, rejected, r.error[f])
			}
		}
	}
	each(func(f topology.Family, network string, to netip.AddrPort, rejected topology.Filter, want error) {
		wires := harness.Tap(t, n.Server)
		ctx, cancel := context.WithCancel(harness.Within(t, harness.AnswerTime))
		defer cancel()
		knocked := make(chan error, 1)
		go func() { knocked <- knock(ctx, n.Client, network, to) }()
		wait(t, wires.Eth0, rejected)
		silence := time.AfterFunc(harness.SilenceTime, cancel)
		defer silence.Stop()
		if err := <-knocked; errors.Is(err, want) {
			t.Errorf("%s: %v without replypath", to, err)
		}
		wires.WantEth0("without replypath", rejected)
	})
	harness.On(t, n.Server.Host).Start()
	each(func(f topology.Family, network string, to netip.AddrPort, rejected topology.Filter, want error) {
		wires := harness.Tap(t, n.Server)
		if err := knock(harness.Within(t, harness.AnswerTime), n.Client, network, to); !errors.Is(err, want) {
			t.Errorf("%s: %v, not %v", to, err, want)
		}
		wires.WantEth1("what rejects "+to.String(), rejected)
	})
}

// TestErrorsToTheHost has the server knock at closed doors itself, from either of its
// addresses: it learns of them as ever, and all that it sends goes where the routing
// table says.
func TestErrorsToTheHost(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	promptErrors(t, n.Client)
	p := harness.On(t, n.Server.Host)
	p.Start()
	p.WaitGrace()
	for _, f := range harness.Families {
		for _, from := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
			for _, network := range []string{"tcp", "udp"} {
				wires := harness.Tap(t, n.Server)
				to := netip.AddrPortFrom(n.ClientEth0.Address(f), closedPort)
				for range 3 {
					ctx := harness.Within(t, harness.AnswerTime)
					conn, err := n.Server.Dial(ctx, network, to.String(), topology.FromAddress(netip.AddrPortFrom(from.Address(f), 0)))
					if err == nil {
						harness.Must1[int](t)(conn.Write([]byte("question")))
						err = read(t, conn, harness.AnswerTime)
						harness.Must(t, conn.Close())
					}
					if !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s from %s: %v", network, from.Address(f), err)
					}
				}
				wires.WantEth0(network+" from "+from.Address(f).String(), topology.All(topology.From(from.Address(f)), topology.To(to.Addr())))
			}
		}
	}
	if got := countedBy(p); got != (counted{}) {
		t.Errorf("counted %+v", got)
	}
	wantNoFlows(t, p)
}
