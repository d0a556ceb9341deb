// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"os"
	"testing"

	"replypath/test/await"
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

func newNetwork(t *testing.T) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run the tests as root")
	}
	n := New(Options{})
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close the network: %v", err)
		}
	})
	return n
}

// newPair connects two hosts, each with an address per family.
func newPair(t *testing.T) (*Network, *Interface, *Interface) {
	t.Helper()
	n := newNetwork(t)
	a := await.Must1[*Host](t)(n.Host("a"))
	b := await.Must1[*Host](t)(n.Host("b"))
	ia, ib, err := n.Connect(
		NIC{Host: a, Name: "eth0", Addresses: n.hostAddresses(1, 1)},
		NIC{Host: b, Name: "eth0", Addresses: n.hostAddresses(1, 2)},
	)
	await.Must(t, err)
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	return n, ia, ib
}

func capture(t *testing.T, i *Interface) *Capture {
	t.Helper()
	c, err := i.Capture(CaptureOptions{})
	await.Must(t, err)
	return c
}
