// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"strings"
	"testing"

	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestSwitchedOff has a daemon that is to leave the gateway alone, by its configuration or in mode observe, before the
// gateway falls silent and while it is held: it is given up, as it is without replypath. Switched back, it is held again.
func TestSwitchedOff(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, anySource)
		before, settings := host.TakeSnapshot(t, b.net.Server.Host, "eth0", "eth1"), b.neighbourSettings()
		const off = "fallback_route: false\n"
		config := product.WriteConfig(t, off)
		d := b.start("--config", config)
		wantHeld := func() {
			t.Helper()
			b.awaitHeld()
			b.ask(b.conversation(traffic.TCP))
		}
		wantGivenUp := func() {
			t.Helper()
			b.wantGivenUp()
			if now := b.neighbourSettings(); now != settings {
				t.Errorf("given up, the settings of eth0's neighbours are\n%sbefore:\n%s", now, settings)
			}
		}
		b.ask(b.conversation(traffic.TCP))
		b.silenceGateway()
		wantGivenUp()
		b.reload(d, config, "")
		wantHeld()
		b.reload(d, config, off)
		wantGivenUp()
		b.reload(d, config, "")
		wantHeld()
		b.product.Expect(0, "mode", "observe")
		wantGivenUp()
		b.product.Expect(0, "mode", "enforce")
		wantHeld()
		b.product.Expect(0, "detach", "--stop")
		b.wantSnapshot(before)
		t.Logf("detached while the gateway was held: %d outputs and sysctls compared", len(before))
	})
}

// wantGivenUp wants that the kernel gives the gateway up, which nothing keeps, and that nothing of the host is
// changed for it.
func (b *bed) wantGivenUp() {
	b.Helper()
	b.Eventually("the kernel gives up", func() error {
		state, changes := b.neighbour(), b.product.Status().HostChanges
		givenUp := strings.Contains(state, "FAILED") || state == "" // which the kernel drops when it likes
		if givenUp && !b.isHeld() && len(changes) == 0 {
			b.Log("the kernel gives the gateway up, and nothing of the host is changed")
			return nil
		}
		return fmt.Errorf("%s, in the status %s, changes %+v", state, b.gatewayState(), changes)
	})
}

// TestKilledWhileHeld kills the daemon while it holds a gateway, and takes everything away before the kernel has given
// the gateway up: the entry ends as it does on a host without replypath, and the host is what it was.
func TestKilledWhileHeld(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, anySource)
		b.silenceGateway()
		failed := b.neighbour()
		b.wakeGateway()
		b.Eventually("the host reaches the client", func() error { return b.reach(traffic.TCP) })
		before := host.TakeSnapshot(t, b.net.Server.Host, "eth0", "eth1")
		d := b.start()
		b.silenceGateway()
		b.awaitHeld()
		d.Kill()
		b.product.Detach()
		b.wantSnapshot(before)
		b.Eventually("the kernel gives up as without replypath", func() error {
			state := b.neighbour()
			if state == "" { // it drops a failed entry every 15 s or so: whoever asks then has it try once more
				_ = b.reach(traffic.TCP)
			}
			if state != failed {
				return fmt.Errorf("%q, without it %q", state, failed)
			}
			return nil
		})
		t.Logf("killed while it held the gateway, then detach: 0 differences, the entry is %q", failed)
		b.wakeGateway()
		b.Eventually("the host reaches the client as before", func() error { return b.reach(traffic.TCP) })
	})
}
