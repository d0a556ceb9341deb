package faults

import (
	"fmt"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestSecondDefaultWithout shows what happens to eth1's clients without the fallback route where eth1 has a default route
// behind eth0's and no route goes: the kernel keeps eth0's for IPv4, and nobody is answered.
func TestSecondDefaultWithout(t *testing.T) {
	t.Parallel()
	for _, fault := range faults {
		if fault.name != "carrier lost" && fault.name != "gateway silent" {
			continue
		}
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, topology.IPv4, secondDefault)
			b.start("--config", harness.WriteConfig(t, "fallback_route: false\n")).Kill()
			fault.begin(b)
			for _, kind := range harness.Kinds {
				if c := b.conversation(kind); c.Ask(harness.Within(t, inVain)) == nil {
					t.Errorf("%s was answered", c)
				}
			}
			fault.end(b)
			b.eventually(b.conversation(harness.TCP))
		})
	}
}

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
