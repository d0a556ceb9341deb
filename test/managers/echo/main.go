// SPDX-License-Identifier: Apache-2.0

// Command echo is what runs in the containers of the tests. It echoes TCP and UDP at a port. Where an address is given,
// it asks that one instead, and ends.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"
)

const port = ":7"

func main() {
	run := serve
	if len(os.Args) > 1 {
		run = func() error { return ask(os.Args[1]) }
	}
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	listener, err := net.Listen("tcp", port)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", port)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	ended := make(chan error)
	go func() { ended <- serveStreams(listener) }()
	go func() { ended <- serveDatagrams(conn) }()
	return <-ended
}

func serveStreams(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // who asked notices what goes wrong
		}()
	}
}

func serveDatagrams(conn net.PacketConn) error {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		_, _ = conn.WriteTo(buffer[:n], from)
	}
}

func ask(address string) error {
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, "question"); err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, conn, int64(len("question\n")))
	return err
}
