package contender

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// What programs decide (linux/pkt_cls.h, linux/bpf.h).
const (
	tcxNext = -1 // TCX_NEXT
	xdpPass = 2  // XDP_PASS
)

// protocolOffset is where struct __sk_buff has the EtherType.
const protocolOffset = 16

// constants is about the least that a program can do to correct answers: it looks nothing up, and
// sends whatever is IP to eth1. All that replypath costs beside it is its own.
func constants() *Contender {
	return &Contender{
		Name: "constants", About: "a program that looks nothing up: everything to eth1, the MACs by bpf_skb_store_bytes",
		everything: true,
		setUp: func(_ context.Context, s *Site, _ Options) (Running, error) {
			return attachProgram(s, ebpf.SchedCLS, toConstants(s.Eth1.Index, s.Eth1.Peer().MAC, s.Eth1.MAC), func(p *ebpf.Program) (link.Link, error) {
				return link.AttachTCX(link.TCXOptions{Interface: s.Eth0.Index, Program: p, Attach: ebpf.AttachTCXEgress})
			})
		},
	}
}

// emptyTCX and emptyXDP tell what it costs to look at questions at either hook, whatever is
// done with them there.
func emptyTCX() *Contender {
	return &Contender{
		Name: "empty-tcx", About: "no correction; an empty program at ingress of eth1, by TCX", Way: ByEth0, extra: true,
		setUp: func(_ context.Context, s *Site, _ Options) (Running, error) {
			return attachProgram(s, ebpf.SchedCLS, always(tcxNext), func(p *ebpf.Program) (link.Link, error) {
				return link.AttachTCX(link.TCXOptions{Interface: s.Eth1.Index, Program: p, Attach: ebpf.AttachTCXIngress})
			})
		},
	}
}

func emptyXDP() *Contender {
	return &Contender{
		Name: "empty-xdp", About: "no correction; an empty program at eth1, by XDP in the driver", Way: ByEth0, extra: true,
		setUp: func(_ context.Context, s *Site, _ Options) (Running, error) {
			return attachProgram(s, ebpf.XDP, always(xdpPass), func(p *ebpf.Program) (link.Link, error) {
				return link.AttachXDP(link.XDPOptions{Interface: s.Eth1.Index, Program: p, Flags: link.XDPDriverMode})
			})
		},
	}
}

// attached is a program at work.
type attached struct {
	program *ebpf.Program
	link    link.Link
}

// Stop takes it off.
func (a *attached) Stop() error { return errors.Join(a.link.Close(), a.program.Close()) }

func attachProgram(s *Site, kind ebpf.ProgramType, instructions asm.Instructions, attach func(*ebpf.Program) (link.Link, error)) (Running, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, Instructions: instructions, License: "Dual BSD/GPL"})
	if err != nil {
		return nil, fmt.Errorf("load the program: %w", err)
	}
	a := &attached{program: program}
	err = s.Server.Do(func() (err error) {
		a.link, err = attach(program)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach the program: %w", err), program.Close())
	}
	return a, nil
}

func always(verdict int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}
}

// toConstants sends IP to an interface, with these MACs.
func toConstants(ifindex int, destination, source net.HardwareAddr) asm.Instructions {
	macs := append(append(make([]byte, 0, 16), destination...), source...)
	macs = append(macs, 0, 0, 0, 0)
	etherType := func(t uint16) int32 {
		return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, t)))
	}
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R0, asm.R1, protocolOffset, asm.Word),
		asm.JEq.Imm(asm.R0, etherType(unix.ETH_P_IP), "move"),
		asm.JEq.Imm(asm.R0, etherType(unix.ETH_P_IPV6), "move"),
		asm.Mov.Imm(asm.R0, tcxNext),
		asm.Return(),

		asm.LoadImm(asm.R0, int64(binary.NativeEndian.Uint64(macs)), asm.DWord).WithSymbol("move"),
		asm.StoreMem(asm.R10, -16, asm.R0, asm.DWord),
		asm.LoadImm(asm.R0, int64(binary.NativeEndian.Uint64(macs[8:])), asm.DWord),
		asm.StoreMem(asm.R10, -8, asm.R0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, -16),
		asm.Mov.Imm(asm.R4, int32(len(destination)+len(source))),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
}
