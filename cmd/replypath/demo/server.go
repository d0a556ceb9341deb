package demo

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"

	"replypath/cmd/replypath/demo/network"
)

// servers are B's: they send back what they are sent.
type servers []io.Closer

// serve starts a TCP and a UDP server at each address of B's eth1. Not at the
// wildcard address: there a UDP socket also answers from the wrong address.
func serve(ctx context.Context, b *network.Server) (servers, error) {
	var s servers
	for _, f := range network.Families {
		address := netip.AddrPortFrom(b.Eth1.Address(f), serverPort).String()
		listener, err := b.Listen(ctx, address)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s = append(s, listener)
		go serveTCP(listener)
		conn, err := b.ListenPacket(ctx, "udp", address)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s = append(s, conn)
		go serveUDP(conn)
	}
	return s, nil
}

// close ends the servers; what has been connected ends with the client.
func (s servers) close() error {
	var errs []error
	for _, server := range s {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}

func serveTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			// The client tells whether it was answered.
			if endByReset(conn) == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}

func serveUDP(conn net.PacketConn) {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buffer[:n], from)
	}
}
