// SPDX-License-Identifier: Apache-2.0

// Package devices runs replypath on network devices of several kinds, and beside others who hook into them: tunnels,
// qdiscs, filters and programs. Each network is first shown broken without it, then right with it.
//
// What the machine's kernel lacks is skipped by name. `make test-kernels` runs the
// kinds of devices (its suite kinds) on kernels that have everything.
package devices

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

func TestMain(m *testing.M) { product.Main(m) }

// needMechanism is needTCX where that is the mechanism.
func needMechanism(t *testing.T, mechanism string) {
	t.Helper()
	if mechanism == "tcx" {
		host.NeedTCX(t)
	}
}

// wantAllLost wants answers to questions at a server's eth1 to get lost without replypath.
func wantAllLost(t *testing.T, n *topology.TwoNIC, server *topology.Server) {
	t.Helper()
	traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wire.WantLost(t, server, traffic.NewConversation(t, kind, n.ClientEth0, server.Eth1.Address(f)))
	})
}

// wantAllByEth1 wants them by eth1 with replypath.
func wantAllByEth1(t *testing.T, n *topology.TwoNIC, server *topology.Server) {
	t.Helper()
	traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wire.WantByEth1(t, server, traffic.NewConversation(t, kind, n.ClientEth0, server.Eth1.Address(f)))
	})
}

// requiredVariable is set where the kernel is known to have every device: there is nothing to skip then.
const requiredVariable = "REPLYPATH_TEST_ALL_DEVICES"

// made returns a device that was made, or skips the test where the kernel does not have its kind.
func made[T any](t *testing.T, kind string) func(T, error) T {
	return func(device T, err error) T {
		t.Helper()
		if errors.Is(err, unix.EOPNOTSUPP) {
			lacks(t, kind)
		}
		await.Must(t, err)
		return device
	}
}

// lacks skips a test for want of something in the kernel.
func lacks(t *testing.T, what string) {
	t.Helper()
	var name unix.Utsname
	await.Must(t, unix.Uname(&name))
	release := unix.ByteSliceToString(name.Release[:])
	if os.Getenv(requiredVariable) != "" {
		t.Fatalf("Linux %s has no %s", release, what)
	}
	t.Skipf("Linux %s has no %s", release, what)
}
