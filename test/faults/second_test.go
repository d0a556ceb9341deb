package faults

import (
	"fmt"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestSecondDefaultClients has each fault happen where eth1 has a default route as well, behind eth0's: its clients notice
// nothing.
func TestSecondDefaultClients(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, secondDefault)
		b.start()
		open := b.conversation(harness.TCP)
		b.ask(open)
		fault.begin(b)
		for _, kind := range harness.Kinds {
			b.askPromptly(fmt.Sprintf("%s: new %s", fault.name, kind), b.conversation(kind))
		}
		b.askForSomeTime(fault.name+": a connection that was silent", open)
		fault.end(b)
		b.askForSomeTime("after it", open)
	})
}
