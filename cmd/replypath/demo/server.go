package demo

import (
	"context"
	"io"
	"net"
	"net/netip"

	"replypath/cmd/replypath/demo/network"
)

// serve starts a TCP and a UDP server at each address of B's eth1, which send back
// what they are sent. Not at the wildcard address: there a UDP socket also answers
// from the wrong address.
func (r *round) serve(ctx context.Context, b *network.Server) error {
	for _, f := range network.Families {
		address := netip.AddrPortFrom(b.Eth1.Address(f), serverPort).String()
		listener, err := b.Listen(ctx, address)
		if err != nil {
			return err
		}
		r.open = append(r.open, listener)
		go serveTCP(listener)
		conn, err := b.ListenPacket(ctx, "udp", address)
		if err != nil {
			return err
		}
		r.open = append(r.open, conn)
		go serveUDP(conn)
	}
	return nil
}

// serveTCP leaves what has been connected to end with the client.
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
