// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// load asks eth1 all the time, by connections that stay open and by one new
// connection after the other.
type load struct {
	t     *testing.T
	n     *topology.TwoNIC
	wires *harness.Wires
	talks []*harness.Talk
	quit  chan struct{}
	fresh sync.WaitGroup
	// opened and err belong to the new connections until they have ended.
	opened int
	err    error
}

// startLoad begins to ask.
func startLoad(t *testing.T, n *topology.TwoNIC) *load {
	t.Helper()
	l := &load{t: t, n: n, wires: harness.Tap(t, n.Server), quit: make(chan struct{})}
	for _, f := range n.Families() {
		c := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
		harness.Ask(t, c)
		l.talks = append(l.talks, c.Keep(t))
	}
	l.fresh.Go(l.open)
	return l
}

// pace is how often a connection is opened.
const pace = 5 * time.Millisecond

// open opens connections until the end.
func (l *load) open() {
	families := l.n.Families()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for l.err == nil {
		select {
		case <-l.quit:
			return
		case <-tick.C:
		}
		f := families[l.opened%len(families)]
		c := harness.NewConversation(l.t, harness.TCP, l.n.ClientEth0, l.n.Server.Eth1.Address(f))
		if l.err = c.Ask(harness.Within(l.t, harness.AnswerTime)); l.err == nil {
			l.err = c.Close()
			l.opened++
		}
	}
}

// stop ends the load, wants every question to be answered and every answer by
// eth1, and tells how many there were.
func (l *load) stop() string {
	l.t.Helper()
	close(l.quit)
	l.fresh.Wait()
	if l.err != nil {
		l.t.Errorf("after %d new connections: %v", l.opened, l.err)
	}
	answers := 0
	for _, talk := range l.talks {
		answers += talk.Stop()
	}
	frames, strays := 0, 0
	for _, f := range l.n.Families() {
		eth0, eth1 := l.wires.Left(topology.From(l.n.Server.Eth1.Address(f)))
		frames += len(eth1)
		if strays += len(eth0); len(eth0) > 0 {
			l.t.Errorf("by the wrong NIC: %s", harness.Describe(eth0))
		}
	}
	return fmt.Sprintf("%d answers, %d new connections, %d frames by eth1, %d by the wrong NIC",
		answers, l.opened, frames, strays)
}
