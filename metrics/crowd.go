// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net"
	"net/http"
	"sync"
)

// mostConnections is how many clients may be connected at the same time. A host has a few.
const mostConnections = 256

// crowd bounds the connections of a server: each costs memory for as long as it lasts. Who comes on
// top is served; of the others the one goes that has been silent for the longest time.
type crowd struct {
	most int

	mu    sync.Mutex
	count uint64 // of changes
	last  map[net.Conn]change
}

// change is the last one of a connection's state.
type change struct {
	number uint64
	busy   bool // a request has begun to come in
}

func newCrowd(most int) *crowd { return &crowd{most: most, last: make(map[net.Conn]change)} }

// note is an [http.Server.ConnState].
func (c *crowd) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(c.last, conn)
		return
	}
	if _, known := c.last[conn]; !known && state != http.StateNew {
		return // it had to go
	}
	c.count++
	c.last[conn] = change{c.count, state == http.StateActive}
	if len(c.last) > c.most {
		c.drop(conn)
	}
}

// drop closes a connection other than the given one.
func (c *crowd) drop(but net.Conn) {
	var dropped net.Conn
	for conn, at := range c.last {
		if conn != but && (dropped == nil || at.before(c.last[dropped])) {
			dropped = conn
		}
	}
	if dropped != nil {
		delete(c.last, dropped)
		dropped.Close()
	}
}

// before tells which of two connections has to go first.
func (a change) before(b change) bool {
	if a.busy != b.busy {
		return b.busy
	}
	return a.number < b.number
}
