// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Capture holds the frames that an interface has received since it was made. A frame is there before whoever it is for
// can act on it. It loses none without saying so: see Close. It serves one goroutine at a time.
type Capture struct {
	fd     int
	frames []*Frame
	err    error
}

// Capture begins to capture.
func (i *Interface) Capture() (*Capture, error) {
	c := &Capture{fd: -1}
	err := i.host.Do(func() (err error) {
		// Without a protocol, so that nothing arrives before it is bound.
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		link, err := net.InterfaceByName(i.Name)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return fmt.Errorf("leave out what is sent: %w", err)
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	if err != nil {
		_ = unix.Close(c.fd) // there may be none
		return nil, fmt.Errorf("capture on %s of %s: %w", i.Name, i.host.name, err)
	}
	return c, nil
}

// headers is as much of a frame as is looked at.
const headers = 128

// Frames returns the frames that match, in the order in which they passed.
func (c *Capture) Frames(match func(*Frame) bool) []*Frame {
	c.drain()
	var found []*Frame
	for _, f := range c.frames {
		if match(f) {
			found = append(found, f)
		}
	}
	return found
}

// drain takes what the kernel holds.
func (c *Capture) drain() {
	for {
		data := make([]byte, headers)
		n, _, err := unix.Recvfrom(c.fd, data, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			if f := decode(data[:n]); f != nil {
				c.frames = append(c.frames, f)
			}
		case errors.Is(err, unix.EAGAIN):
			return
		case !errors.Is(err, unix.EINTR):
			c.err = err
			return
		}
	}
}

// Close ends the capture. It returns an error if frames were lost in it.
func (c *Capture) Close() error {
	statistics, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && statistics.Drops > 0 {
		err = fmt.Errorf("%d frames were lost", statistics.Drops)
	}
	if err := errors.Join(c.err, err, unix.Close(c.fd)); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}
