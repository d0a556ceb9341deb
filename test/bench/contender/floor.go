// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// tcxNext is what programs decide (TCX_NEXT in linux/bpf.h).
const tcxNext = -1

// protocolOffset is where struct __sk_buff has the EtherType.
const protocolOffset = 16

// constants is about the least that a program can do to correct answers: it looks nothing up, and
// sends whatever is IP to eth1. All that replypath costs beside it is its own.
func constants() *Contender {
	return &Contender{
		Name: "constants", About: "a program that looks nothing up: everything to eth1, the MACs by bpf_skb_store_bytes",
		everything: true,
		setUp: func(_ context.Context, s *Site, _ Options) (Running, error) {
			return attachProgram(s, toConstants(s.Eth1.Index, s.Eth1.Peer().MAC, s.Eth1.MAC), func(p *ebpf.Program) (link.Link, error) {
				return link.AttachTCX(link.TCXOptions{Interface: s.Eth0.Index, Program: p, Attach: ebpf.AttachTCXEgress})
			})
		},
	}
}

// floor is constants with the programs at the other hooks that a corrector needs, which are empty: what no
// corrector of that kind can be faster than.
func floor() *Contender {
	return &Contender{
		Name: Floor, About: "constants, and empty programs at the three other hooks: no corrector by TC is faster",
		everything: true,
		setUp: func(_ context.Context, s *Site, _ Options) (Running, error) {
			all := new(severalAttached)
			for _, hook := range []struct {
				at     ebpf.AttachType
				device *topology.Interface
				does   asm.Instructions
			}{
				{ebpf.AttachTCXIngress, s.Eth0, always(tcxNext)},
				{ebpf.AttachTCXIngress, s.Eth1, always(tcxNext)},
				{ebpf.AttachTCXEgress, s.Eth1, always(tcxNext)},
				{ebpf.AttachTCXEgress, s.Eth0, toConstants(s.Eth1.Index, s.Eth1.Peer().MAC, s.Eth1.MAC)},
			} {
				one, err := attachProgram(s, hook.does, func(p *ebpf.Program) (link.Link, error) {
					return link.AttachTCX(link.TCXOptions{Interface: hook.device.Index, Program: p, Attach: hook.at})
				})
				if err != nil {
					return nil, errors.Join(err, all.Stop())
				}
				all.running = append(all.running, one)
			}
			return all, nil
		},
	}
}

// severalAttached are programs at several hooks.
type severalAttached struct{ running []*attached }

// Stop takes them off.
func (s *severalAttached) Stop() error {
	var errs []error
	for _, one := range s.running {
		errs = append(errs, one.Stop())
	}
	return errors.Join(errs...)
}

// attached is a program at work.
type attached struct {
	program *ebpf.Program
	link    link.Link
}

// Stop takes it off.
func (a *attached) Stop() error { return errors.Join(a.link.Close(), a.program.Close()) }

func attachProgram(s *Site, instructions asm.Instructions, attach func(*ebpf.Program) (link.Link, error)) (*attached, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: instructions, License: "Dual BSD/GPL"})
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
	etherType := func(t uint16) int32 {
		return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, t)))
	}
	return slices.Concat(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R7, int32(ifindex)),
		asm.LoadMem(asm.R0, asm.R1, protocolOffset, asm.Word),
		asm.JEq.Imm(asm.R0, etherType(unix.ETH_P_IP), "move"),
		asm.JEq.Imm(asm.R0, etherType(unix.ETH_P_IPV6), "move"),
		asm.Mov.Imm(asm.R0, tcxNext),
		asm.Return(),
	}, move(destination, source))
}

// move is the end of a program that has the packet in R6, and the interface that it goes to in R7.
func move(destination, source net.HardwareAddr) asm.Instructions {
	macs := append(append(make([]byte, 0, 16), destination...), source...)
	macs = append(macs, 0, 0, 0, 0)
	return asm.Instructions{
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
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
}
