// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// Of the live ones every silentPart-th says nothing while a flood goes on, nor does
// the server: whoever has to make room for the flood, it would be them.
const silentPart = 10

// busy are those who are in use while a flood goes on.
func (v *victim) busy() live {
	return live{v.connections[len(v.connections)/silentPart:], v.conversations[len(v.conversations)/silentPart:]}
}

// silent are the others.
func (v *victim) silent() live {
	return live{v.connections[:len(v.connections)/silentPart], v.conversations[:len(v.conversations)/silentPart]}
}

// wake has the silent ones speak for the first time since before the flood. By every
// other connection it is the server that begins: a question would bring back what was
// lost. It returns a complaint about each packet by eth0, and about each of them who is
// not answered by eth1 and its router.
func (v *victim) wake(t *testing.T) (complaints []string, err error) {
	t.Helper()
	w, silent := v.tap(t), v.silent()
	var errs []error
	for i, c := range silent.connections {
		if i%2 == 0 {
			errs = append(errs, c.pass(c.server, c.client))
		}
		errs = append(errs, c.ask())
	}
	errs = append(errs, v.askConversations(t.Context(), silent.conversations))
	from := topology.From(v.asked)
	for _, frame := range w.eth0.Frames(from) {
		complaints = append(complaints, "by eth0: "+frame.String())
	}
	answered := make(map[netip.AddrPort]bool)
	for _, frame := range w.eth1.Frames(topology.All(from, v.toRouter())) {
		answered[netip.AddrPortFrom(frame.Destination, frame.DestinationPort)] = true
	}
	for _, c := range silent.connections {
		if !answered[c.peer] {
			complaints = append(complaints, fmt.Sprintf("connection of %s: no answer by eth1", c.peer))
		}
	}
	for _, conn := range silent.conversations {
		if peer := netip.MustParseAddrPort(conn.LocalAddr().String()); !answered[peer] {
			complaints = append(complaints, fmt.Sprintf("conversation of %s: no answer by eth1", peer))
		}
	}
	return complaints, errors.Join(errs...)
}

// toRouter matches what is addressed to eth1's router.
func (v *victim) toRouter() topology.Filter { return topology.ToMAC(v.n.Server.Eth1.Peer().MAC) }

// TestSilentEvicted shows that the verdict notices who was pushed out: here the live ones
// are more than the table has room for, so that it is those who say nothing.
func TestSilentEvicted(t *testing.T) {
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) {
			v := newVictim(t, f, smallConfig, tooMany, conversations)
			v.p.Age(2 * time.Second) // in the nursery those stay that are younger than a second
			kind := kinds[0]
			d := v.flood(t, kind, 0, tableSize)
			t.Logf("%s: %d connections in a table of 1024, %d %s: %d complaints about the %d silent ones, %v pushed out",
				f, tooMany, tableSize, kind.name, len(d.silent), len(v.silent().connections), d.evicted)
			if len(d.silent) == 0 || d.evicted == 0 {
				t.Errorf("nobody was pushed out, says the verdict: %q", d)
			}
		})
	}
}
