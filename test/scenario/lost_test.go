// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// takeUDP has a program drop what leaves by an interface by UDP, before the programs of replypath see it.
func takeUDP(t *testing.T, i *topology.Interface) link.Link {
	t.Helper()
	const protocolAt, next, drop = 14 + 9, -1, 2
	program := harness.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadAbs(protocolAt, asm.Byte),
			asm.JEq.Imm(asm.R0, unix.IPPROTO_UDP, "udp"),
			asm.Mov.Imm(asm.R0, next),
			asm.Return(),
			asm.Mov.Imm(asm.R0, drop).WithSymbol("udp"),
			asm.Return(),
		},
	}))
	t.Cleanup(func() { program.Close() })
	device := harness.Must1[netlink.Link](t)(i.Link())
	var thief link.Link
	harness.Must(t, i.Host.Do(func() (err error) {
		thief, err = link.AttachTCX(link.TCXOptions{
			Interface: device.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
		})
		return err
	}))
	t.Cleanup(func() { thief.Close() })
	return thief
}

// TestLost has somebody's program at eth1 take what was moved there: it is counted as lost, and nothing else is.
func TestLost(t *testing.T) {
	s := harness.NewS1(t, topology.S1Options{Policy: topology.StrictSource})
	p := harness.On(t, s.B.Host)
	p.Start()
	each(t, s, "before", func(t *testing.T, c *harness.Conversation) { wantAnswers(t, s.B, c, true) })
	lost := func() float64 { return p.Metrics().Sum("replypath_lost_packets_total") }
	if n := lost(); n != 0 {
		t.Errorf("%v packets are lost before anybody takes them", n)
	}
	thief := takeUDP(t, s.B.Eth1)
	corrected := p.Metrics().Sum("replypath_corrected_packets_total", "protocol=udp")
	questions := runtime.NumCPU() + 1 // a processor counts what it lost with the next packet that it moves
	for range questions {
		c := harness.NewConversation(t, harness.UDP, s.A.Eth1, s.B.Eth1.Address(topology.IPv4))
		if err := c.Ask(harness.Within(t, harness.SilenceTime)); err == nil {
			t.Error("a question was answered, although the answer was taken")
		}
	}
	m := p.Metrics()
	labels := []string{"from_interface=eth0", "to_interface=eth1", "family=ipv4", "protocol=udp", "reason=unseen"}
	if n := m.Sum("replypath_lost_packets_total", labels...); n < 1 || n >= float64(questions) || n != lost() {
		t.Errorf("%v packets of %v are lost", n, lost())
	}
	if n := m.Sum("replypath_corrected_packets_total", "protocol=udp"); n != corrected {
		t.Errorf("%v packets were corrected meanwhile", n-corrected)
	}
	harness.Must(t, thief.Close())
	each(t, s, "after", func(t *testing.T, c *harness.Conversation) { wantAnswers(t, s.B, c, true) })
}

// TestStartLosesNothing has many clients ask all the time while replypath starts: what eth0's program moves before eth1 has
// one is not taken for lost.
func TestStartLosesNothing(t *testing.T) {
	s := harness.NewS1(t, topology.S1Options{Policy: topology.AnySource})
	ctx, stop := context.WithCancel(t.Context())
	var asking errgroup.Group
	for n := range 8 {
		c := harness.NewConversation(t, harness.UDP, s.A.Eth1, s.B.Eth1.Address(s.Families()[n%2]))
		harness.Ask(t, c)
		asking.Go(func() error {
			for ctx.Err() == nil {
				if err := c.Ask(harness.Within(t, harness.AnswerTime)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 5 {
		p := harness.On(t, s.B.Host)
		p.Start()
		harness.Eventually(t, "replies are corrected", func() error {
			if p.Metrics().Sum("replypath_corrected_packets_total") < 1000 {
				return errors.New("few of them")
			}
			return nil
		})
		if n := p.Metrics().Sum("replypath_lost_packets_total"); n != 0 {
			t.Errorf("%v packets are taken for lost", n)
		}
		p.Expect(0, "detach", "--stop")
	}
	stop()
	harness.Must(t, asking.Wait())
}
