// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// SocketOption changes how a socket of a host is opened.
type SocketOption func(*socketOptions)

type socketOptions struct {
	device string
	source netip.AddrPort
	reuse  bool
	set    func(fd int) error
}

// BindToDevice ties the socket to an interface (SO_BINDTODEVICE).
func BindToDevice(name string) SocketOption {
	return func(o *socketOptions) { o.device = name }
}

// FromAddress sets the local address of a dialled socket. Port 0 is any port.
func FromAddress(source netip.AddrPort) SocketOption {
	return func(o *socketOptions) { o.source = source }
}

// ReuseAddress lets a dialled socket take an address that another connection of the host still has (SO_REUSEADDR), as
// listeners may in any case.
func ReuseAddress() SocketOption {
	return func(o *socketOptions) { o.reuse = true }
}

// Setting changes the socket before it is bound or connected; nil changes nothing.
func Setting(set func(fd int) error) SocketOption {
	return func(o *socketOptions) { o.set = set }
}

func newSocketOptions(options []SocketOption) *socketOptions {
	o := new(socketOptions)
	for _, option := range options {
		option(o)
	}
	return o
}

// control applies what has to be set before the socket is bound.
func (o *socketOptions) control(_, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) { err = o.apply(int(fd)) })
	if controlErr != nil {
		return controlErr
	}
	return err
}

func (o *socketOptions) apply(fd int) error {
	if o.reuse {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if o.set != nil {
		if err := o.set(fd); err != nil {
			return err
		}
	}
	if o.device == "" {
		return nil
	}
	return unix.BindToDevice(fd, o.device)
}

// localAddress returns the source in the form that a network's sockets take.
func (o *socketOptions) localAddress(network string) net.Addr {
	if !o.source.IsValid() {
		return nil
	}
	switch network {
	case "udp", "udp4", "udp6":
		return net.UDPAddrFromAddrPort(o.source)
	default:
		return net.TCPAddrFromAddrPort(o.source)
	}
}

// noKeepAlives has nothing leave by a connection that nobody has sent.
const noKeepAlives = -1

// Listen opens a TCP listener on the host. The socket stays there and belongs to the caller. It never speaks Multipath
// TCP and sends no keep-alives, which Go would turn on.
func (h *Host) Listen(ctx context.Context, network, address string, options ...SocketOption) (net.Listener, error) {
	config := net.ListenConfig{Control: newSocketOptions(options).control, KeepAlive: noKeepAlives}
	config.SetMultipathTCP(false)
	listener, err := valueIn(h, func() (net.Listener, error) { return config.Listen(ctx, network, address) })
	if err != nil {
		return nil, h.errorf("%w", err)
	}
	return listener, nil
}

// ListenPacket opens a UDP or raw IP socket on the host, which belongs to the caller.
func (h *Host) ListenPacket(ctx context.Context, network, address string, options ...SocketOption) (net.PacketConn, error) {
	config := net.ListenConfig{Control: newSocketOptions(options).control}
	conn, err := valueIn(h, func() (net.PacketConn, error) { return config.ListenPacket(ctx, network, address) })
	if err != nil {
		return nil, h.errorf("%w", err)
	}
	return conn, nil
}

// Dial connects from the host. The address holds no name to be resolved. The connection belongs to the caller.
func (h *Host) Dial(ctx context.Context, network, address string, options ...SocketOption) (net.Conn, error) {
	o := newSocketOptions(options)
	dialer := net.Dialer{Control: o.control, LocalAddr: o.localAddress(network), KeepAlive: noKeepAlives}
	dialer.SetMultipathTCP(false)
	conn, err := valueIn(h, func() (net.Conn, error) { return dialer.DialContext(ctx, network, address) })
	if err != nil {
		return nil, h.errorf("%w", err)
	}
	return conn, nil
}
