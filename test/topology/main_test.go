// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"fmt"
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

// askPing asks by an echo request.
func askPing(ctx context.Context, h *Host, to netip.Addr) error {
	_, err := h.Ping(ctx, Echo{To: to})
	return err
}
