// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"io"
	"net"
)

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
