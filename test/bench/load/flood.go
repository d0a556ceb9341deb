// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
)

// synFlood sends SYNs as fast as one core makes and answers them: a veth has the
// sender's CPU do the receiver's work. Nobody has the addresses that they come from.
func synFlood(_ context.Context, s *contender.Site, _ *Shared) (Work, error) {
	f := &flood{crew: newCrew(), site: s}
	listener, err := listenOn(s, 1024)
	if err != nil {
		return nil, f.closeAfter(err)
	}
	f.keep(listener)
	connection, err := connect(s) // as to any server: it shows by which way SYN-ACKs arrive
	if err != nil {
		return nil, f.closeAfter(err)
	}
	f.keep(connection)
	fd, err := socketOn(s.Client, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW) // implies IP_HDRINCL
	if err != nil {
		return nil, f.closeAfter(err)
	}
	f.keep(fd)
	if err := unix.Connect(fd, socketAddress(s.Self, 0)); err != nil {
		return nil, f.closeAfter(fmt.Errorf("connect a raw socket: %w", err))
	}
	packet, random := newSYN(), rand.New(rand.NewPCG(1, 1))
	f.ask(s.Client, CPU(), func() error {
		packet.from(random)
		_, err := unix.Write(fd, packet[:])
		return err
	})
	return f, nil
}

// flood is a crew whose work is what the server sends.
type flood struct {
	*crew
	site *contender.Site
}

// Run returns the SYN-ACKs that the server sent in a second.
func (f *flood) Run(ctx context.Context, d time.Duration) (float64, error) {
	return f.rate(ctx, d, func() (uint64, error) {
		sent, err := f.site.Sent()
		return sent.Eth0 + sent.Eth1, err
	})
}

// syn is an IPv4 header (RFC 791) and a TCP header (RFC 9293) without options.
type syn [40]byte

func newSYN() *syn {
	p := &syn{
		0:  0x45,             // version, words of the header
		8:  64,               // time to live
		9:  unix.IPPROTO_TCP, // the kernel fills in length and checksum
		32: 5 << 4,           // words of the header
		33: 0x02,             // SYN
	}
	to := contender.IPv4.Self.As4()
	copy(p[16:], to[:])
	binary.BigEndian.PutUint16(p[22:], firstPort)
	binary.BigEndian.PutUint16(p[34:], 0xffff) // window
	return p
}

// from gives it a random source and its checksum.
func (p *syn) from(random *rand.Rand) {
	source := contender.StrayAt(random.Uint32()).As4()
	copy(p[12:], source[:])
	binary.BigEndian.PutUint16(p[20:], uint16(1024+random.Uint32N(60000)))
	binary.BigEndian.PutUint32(p[24:], random.Uint32()) // sequence number
	p[36], p[37] = 0, 0
	sum := uint32(unix.IPPROTO_TCP + 20) // of the pseudo header
	for i := 12; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(p[36:], ^uint16(sum))
}
