// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// noticed is enough for the kernel to give a gateway up by its own timers: replypath has it ask every 5 s, it then asks
// the last MAC three times and, of a gateway that is held, everybody three times, a second each.
var noticed = await.Patient(30 * time.Second)

// givenUp is how often the kernel gives the gateway up while it is held, beside the first time.
const givenUp = 2

// TestSilentGatewayByKernelTimers is the silent gateway of TestFaults without a
// neighbour timer of ours, and with nobody to tell the kernel to ask.
func TestSilentGatewayByKernelTimers(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newPatientBed(t, f, anySource)
		b.start()
		silent := fault{
			name: "gateway silent, by the kernel's timers", holds: true,
			begin: (*bed).waitUntilHeld, end: (*bed).waitUntilAnswered,
		}
		b.bridge(silent, func() {
			b.wantShown(silent, true)
			b.keepHeld()
		}, func() { b.wantShown(silent, false) })
	})
}

// waitUntilHeld silences the gateway and returns when it is held.
func (b *bed) waitUntilHeld() {
	b.Helper()
	entry := b.watchEntry()
	began := time.Now()
	host.Nft(b, b.net.Production.Host, silence)
	entry.await(netlink.NUD_FAILED)
	entry.await(netlink.NUD_PROBE)
	b.Logf("given up by the kernel and held %s after it fell silent", since(began))
}

// keepHeld asks while the kernel gives the gateway up again and again, and right after.
func (b *bed) keepHeld() {
	b.Helper()
	entry := b.watchEntry()
	for range givenUp {
		began := time.Now()
		entry.await(netlink.NUD_FAILED)
		entry.await(netlink.NUD_PROBE)
		for _, kind := range traffic.Kinds {
			asked := time.Now()
			b.ask(b.conversation(kind))
			if took := time.Since(asked); took >= promptly {
				b.Errorf("a new %s was answered after %s", kind, took)
			}
		}
		b.Logf("given up again after %s, and held again: new TCP, UDP and ping are answered", since(began))
	}
	b.wantShown(fault{holds: true}, true)
}

// waitUntilAnswered wakes the gateway and returns when the kernel has its answer.
func (b *bed) waitUntilAnswered() {
	b.Helper()
	entry := b.watchEntry()
	began := time.Now()
	b.wakeGateway()
	entry.await(netlink.NUD_REACHABLE)
	b.Logf("it answers again %s after it has come back", since(began))
}

func since(began time.Time) time.Duration { return time.Since(began).Round(time.Millisecond) }

// entryWatch is what the kernel tells about the entry of eth0's gateway.
type entryWatch struct {
	*bed
	gateway net.IP
	updates chan netlink.NeighUpdate
	// failed holds why nothing more is told.
	failed chan error
}

// watchEntry listens from now on.
func (b *bed) watchEntry() *entryWatch {
	b.Helper()
	w := &entryWatch{
		bed: b, gateway: b.net.Server.Eth0.Peer().Address(b.family).AsSlice(),
		updates: make(chan netlink.NeighUpdate, 1024), failed: make(chan error, 1),
	}
	namespace, done := b.net.Server.Namespace(), make(chan struct{})
	await.Must(b, netlink.NeighSubscribeWithOptions(w.updates, done, netlink.NeighSubscribeOptions{
		Namespace: &namespace, ErrorCallback: func(err error) { w.failed <- err },
	}))
	b.Cleanup(func() { close(done) })
	return w
}

// await returns when the entry has, or had, a state.
func (w *entryWatch) await(state int) {
	w.Helper()
	w.awaitUpdate(fmt.Sprintf("in state %#x", state), func(u netlink.NeighUpdate) bool { return u.State == state })
}

// awaitUpdate returns when the kernel tells, or has told, of the entry what is wanted.
func (w *entryWatch) awaitUpdate(what string, wanted func(netlink.NeighUpdate) bool) {
	w.Helper()
	ctx := await.Within(w, noticed)
	var seen []int
	for {
		select {
		case u, open := <-w.updates:
			if !open {
				w.Fatalf("the kernel tells nothing more: %v", <-w.failed)
			}
			if !u.IP.Equal(w.gateway) {
				continue
			}
			if seen = append(seen, u.State); wanted(u) {
				return
			}
		case <-ctx.Done():
			w.Fatalf("the gateway's entry is not %s within %s, but was in %#x", what, noticed, seen)
		}
	}
}
