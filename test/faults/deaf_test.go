package faults

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// deafFor is longer than it takes until a silent gateway is held by the kernel's timers.
const deafFor = 15 * time.Second

// TestDeafGateway has a gateway answer neither ARP nor ND while it goes on to forward, as one does
// whose control plane starts anew, and the host keep a connection busy that leads by it. It is not
// noticed by that connection, nor by those of eth1, and what the host begins meanwhile works.
func TestDeafGateway(t *testing.T) {
	t.Parallel()
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		for _, with := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/replypath %t", f, with), func(t *testing.T) {
				t.Parallel()
				b := newPatientBed(t, f, topology.TwoNICOptions{Policy: topology.AnySource})
				if with {
					b.start()
				}
				b.deafen(with)
			})
		}
	}
}

func (b *bed) deafen(with bool) {
	b.Helper()
	conn := b.connectBy(harness.TCP)
	var talk *harness.Talk
	if with {
		c := b.conversation(harness.TCP)
		b.ask(c)
		talk = c.Keep(b)
	}
	harness.Nft(b, b.net.Production.Host, silence)
	began := time.Now()
	var refused, worked int
	var firstRefused, slowest time.Duration
	for time.Since(began) < deafFor {
		asked := time.Now()
		harness.Must(b, exchange(conn, harness.AnswerTime))
		slowest = max(slowest, time.Since(asked))
		switch err := b.reachWithin(promptly, harness.TCP); {
		case err == nil:
			worked++
		case errors.Is(err, syscall.ECONNREFUSED):
			if refused++; refused == 1 {
				firstRefused = time.Since(began)
			}
		default:
			b.Errorf("a new connection of the host's: %v", err)
		}
		<-time.After(50 * time.Millisecond)
	}
	b.Logf("within %s: the host's open connection waits %s at most, of its new ones %d work and %d are refused, the first after %s; the entry is %q",
		deafFor, slowest.Round(time.Millisecond), worked, refused, firstRefused.Round(time.Millisecond), b.neighbour())
	if slowest >= oneRetransmission {
		b.Errorf("an open connection of the host's paused for %s", slowest)
	}
	b.wakeGateway()
	woken := time.Now()
	b.Eventually("what the host begins works", func() error { return b.reachWithin(promptly, harness.TCP) })
	b.Logf("what the host begins works %s after the gateway answers again", since(woken))
	if refused > 0 {
		b.Errorf("%d connections of the host's were refused", refused)
	}
	if talk == nil {
		return
	}
	talk.Stop()
	if talk.Pause() >= oneRetransmission {
		b.Errorf("an open connection by eth1 paused for %s", talk.Pause())
	}
}
