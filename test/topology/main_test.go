// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// TestMain makes the test binary serve as its own child process: see TestKilledProcessLeavesNothing.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := runChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	// answerTime is enough for any answer that comes at all.
	answerTime = 5 * time.Second
	// silenceTime is how long an answer that was seen on its wrong way has to arrive, which it must not.
	silenceTime = 50 * time.Millisecond
	setUpTime   = 10 * time.Second
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run the tests as root")
	}
}

// within returns a context that ends after d or with the test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// closeAtEnd closes the network and fails the test if that goes wrong.
func closeAtEnd(t *testing.T, n *Network) {
	t.Helper()
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close the network: %v", err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must1[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func newNetwork(t *testing.T) *Network {
	t.Helper()
	needRoot(t)
	n := New(Options{})
	closeAtEnd(t, n)
	return n
}

func newS1(t *testing.T, options S1Options) *S1 {
	t.Helper()
	needRoot(t)
	s, err := NewS1(within(t, setUpTime), options)
	must(t, err)
	closeAtEnd(t, s.Network)
	return s
}

// newPair connects two hosts, each with an address per family.
func newPair(t *testing.T) (*Network, *Interface, *Interface) {
	t.Helper()
	n := newNetwork(t)
	a := must1[*Host](t)(n.Host("a"))
	b := must1[*Host](t)(n.Host("b"))
	ia, ib, err := n.Connect(
		NIC{Host: a, Name: "eth0", Addresses: n.hostAddresses(1, 1)},
		NIC{Host: b, Name: "eth0", Addresses: n.hostAddresses(1, 2)},
	)
	must(t, err)
	must(t, n.WaitReady(within(t, setUpTime)))
	return n, ia, ib
}

func capture(t *testing.T, i *Interface) *Capture {
	t.Helper()
	c, err := i.Capture(CaptureOptions{})
	must(t, err)
	return c
}

// echoPort is where the tests' servers listen.
const echoPort = 7

// serveTCP echoes on the host until the test ends.
func serveTCP(t *testing.T, h *Host, address netip.Addr) {
	t.Helper()
	l, err := h.Listen(t.Context(), "tcp", netip.AddrPortFrom(address, echoPort).String())
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go echoStream(conn)
		}
	}()
}

func echoStream(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// serveUDP echoes on the host until the test ends.
func serveUDP(t *testing.T, h *Host, address netip.Addr) {
	t.Helper()
	conn, err := h.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(address, echoPort).String())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			// An error is the network's: the asker notices.
			_, _ = conn.WriteTo(buffer[:n], from)
		}
	}()
}

// ask sends a message to an echo server and reads it back.
func ask(ctx context.Context, h *Host, network string, to netip.Addr) error {
	conn, err := h.Dial(ctx, network, netip.AddrPortFrom(to, echoPort).String())
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		stop()
		conn.Close()
	}()
	const message = "hello"
	if _, err := conn.Write([]byte(message)); err != nil {
		return err
	}
	buffer := make([]byte, len(message))
	if _, err := conn.Read(buffer); err != nil {
		return err
	}
	if string(buffer) != message {
		return fmt.Errorf("got %q back for %q", buffer, message)
	}
	return nil
}

// askPing is ask with an echo request.
func askPing(ctx context.Context, h *Host, to netip.Addr) error {
	_, err := h.Ping(ctx, Echo{To: to})
	return err
}

// askInVain asks a question until its answer has passed a capture on the wrong way and had time to arrive, and returns
// what became of it.
func askInVain(t *testing.T, q question, from *Host, to netip.Addr, wrong *Capture) error {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t, answerTime))
	asked := make(chan error, 1)
	go func() { asked <- q.ask(ctx, from, to) }()
	if _, err := wrong.Wait(ctx, All(q.answer, From(to))); err != nil {
		t.Errorf("no answer on its wrong way: %v", err)
	}
	silence := time.AfterFunc(silenceTime, cancel)
	defer silence.Stop()
	return <-asked
}
