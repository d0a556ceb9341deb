// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ring is a packet socket with a receive ring that it shares with the kernel (TPACKET_V2,
// Documentation/networking/packet_mmap.rst): frames are copied cut to size when they pass, so that large ones do not
// use up the space.
type ring struct {
	fd       int
	memory   []byte
	slotSize int
	slots    int
	next     int
	dropped  uint64
}

// slot is a captured frame in the ring's memory, valid until it is released.
type slot struct {
	time     time.Time
	length   int
	data     []byte
	vlan     uint16
	tpid     uint16 // 0: no VLAN tag
	kind     uint8  // PACKET_HOST, PACKET_OUTGOING, ...
	hardware uint16 // ARPHRD_*
}

const (
	// headroom is the part of a slot that the kernel takes before the frame: TPACKET2_HDRLEN, 16 bytes for the link
	// header, alignment.
	headroom = 80
	// blockSize is a multiple of every page size there is.
	blockSize = 1 << 16
	// sizes of struct tpacket2_hdr, aligned, and struct sockaddr_ll after it
	addressOffset = (int(unsafe.Sizeof(unix.Tpacket2Hdr{})) + 15) &^ 15
)

// openRing opens a packet socket in the namespace of the calling thread.
func openRing(index int, options CaptureOptions) (*ring, error) {
	// Without a protocol, so that nothing arrives before it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	r := &ring{fd: fd}
	if err := r.open(index, options); err != nil {
		return nil, errors.Join(err, r.unmap(), unix.Close(fd))
	}
	return r, nil
}

func (r *ring) open(index int, options CaptureOptions) error {
	if err := r.allocate(options.Backlog); err != nil {
		return err
	}
	if options.ReceivedOnly {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return fmt.Errorf("leave out what is sent: %w", err)
		}
	}
	if options.Only.IsValid() {
		if err := attachFilter(r.fd, aboutAddress(options.Only)); err != nil {
			return fmt.Errorf("filter what is captured: %w", err)
		}
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	return os.NewSyscallError("bind", err)
}

// allocate has the kernel make the ring, and maps it.
func (r *ring) allocate(backlog int) error {
	r.slotSize = 1 << bits.Len(uint(headroom+snapLength-1))
	block := max(blockSize, r.slotSize)
	perBlock := block / r.slotSize
	blocks := (backlog + perBlock - 1) / perBlock
	r.slots = blocks * perBlock
	err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2)
	if err != nil {
		return fmt.Errorf("select the ring's version: %w", err)
	}
	request := &unix.TpacketReq{
		Block_size: uint32(block), Block_nr: uint32(blocks),
		Frame_size: uint32(r.slotSize), Frame_nr: uint32(r.slots),
	}
	if err := unix.SetsockoptTpacketReq(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, request); err != nil {
		return fmt.Errorf("allocate a ring of %d bytes: %w", blocks*block, err)
	}
	r.memory, err = unix.Mmap(r.fd, 0, blocks*block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return os.NewSyscallError("mmap", err)
}

// drain hands every finished slot to take and releases it. Each CPU finishes its own, so that one may be finished while
// another CPU still writes the one before: that is waited for, as it passed earlier.
func (r *ring) drain(take func(slot)) {
	for {
		memory, header := r.slot(r.next)
		// The load and the store order the accesses to the rest of the slot.
		status := atomic.LoadUint32(&header.Status)
		switch {
		case status&unix.TP_STATUS_USER != 0:
			take(readSlot(header, status, memory))
			atomic.StoreUint32(&header.Status, unix.TP_STATUS_KERNEL)
			r.next = (r.next + 1) % r.slots
		case r.isLaterFinished():
			runtime.Gosched()
		default:
			return
		}
	}
}

// isLaterFinished says whether a slot is finished that comes after the next one.
func (r *ring) isLaterFinished() bool {
	for later := 1; later <= runtime.NumCPU() && later < r.slots; later++ {
		if _, header := r.slot((r.next + later) % r.slots); atomic.LoadUint32(&header.Status)&unix.TP_STATUS_USER != 0 {
			return true
		}
	}
	return false
}

func (r *ring) slot(number int) ([]byte, *unix.Tpacket2Hdr) {
	memory := r.memory[number*r.slotSize:][:r.slotSize]
	return memory, (*unix.Tpacket2Hdr)(unsafe.Pointer(&memory[0]))
}

func readSlot(header *unix.Tpacket2Hdr, status uint32, memory []byte) slot {
	address := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&memory[addressOffset]))
	s := slot{
		time:     time.Unix(int64(header.Sec), int64(header.Nsec)),
		length:   int(header.Len),
		data:     memory[header.Mac:][:header.Snaplen],
		kind:     address.Pkttype,
		hardware: address.Hatype,
	}
	if status&unix.TP_STATUS_VLAN_VALID != 0 {
		s.vlan, s.tpid = header.Vlan_tci, unix.ETH_P_8021Q
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			s.tpid = header.Vlan_tpid
		}
	}
	return s
}

// lost returns how many frames found no free slot since the ring was opened.
func (r *ring) lost() (uint64, error) {
	// The kernel starts anew after each reading.
	statistics, err := unix.GetsockoptTpacketStats(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read the statistics of the packet socket: %w", err)
	}
	r.dropped += uint64(statistics.Drops)
	return r.dropped, nil
}

// unmap gives the memory back. Slots must not be used afterwards.
func (r *ring) unmap() error {
	if r.memory == nil {
		return nil
	}
	err := unix.Munmap(r.memory)
	r.memory = nil
	return os.NewSyscallError("munmap", err)
}

// Offsets in an Ethernet frame.
const (
	offsetEtherType    = 12
	offsetIPv4Source   = 26
	offsetIPv6Source   = 22
	offsetIPv4Receiver = offsetIPv4Source + 4
	offsetIPv6Receiver = offsetIPv6Source + 16
)

// aboutAddress is a filter for untagged Ethernet frames with a packet from or to an address.
func aboutAddress(a netip.Addr) []bpf.Instruction {
	etherType, offsets := uint32(unix.ETH_P_IP), []uint32{offsetIPv4Source, offsetIPv4Receiver}
	if a.Is6() {
		etherType, offsets = unix.ETH_P_IPV6, []uint32{offsetIPv6Source, offsetIPv6Receiver}
	}
	words := a.AsSlice()
	filter := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetEtherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherType, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	for _, offset := range offsets {
		for at := 0; at < len(words); at += 4 {
			// The rest of this comparison, with the return at its end, is skipped.
			rest := uint8((len(words)-at)/4*2 - 1)
			filter = append(filter,
				bpf.LoadAbsolute{Off: offset + uint32(at), Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(words[at:]), SkipFalse: rest})
		}
		filter = append(filter, bpf.RetConstant{Val: 1 << 18})
	}
	return append(filter, bpf.RetConstant{Val: 0})
}

// attachFilter has the kernel keep from a socket what the filter does not want.
func attachFilter(fd int, filter []bpf.Instruction) error {
	instructions, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	program := make([]unix.SockFilter, len(instructions))
	for i, raw := range instructions {
		program[i] = unix.SockFilter{Code: raw.Op, Jt: raw.Jt, Jf: raw.Jf, K: raw.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
