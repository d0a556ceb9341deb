// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestSpoofedLatest shows that the spoofs of TestFloods reach the programs, and that
// its verdict notices: with follow: latest they take the connections along.
func TestSpoofedLatest(t *testing.T) {
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) {
			v := newVictim(t, f, config+"follow: latest\n", 100, 10)
			kind := kinds[4]
			d := v.flood(t, kind, 0, tableSize)
			t.Logf("%s: %d connections, %d %s: %v moves, %d packets by eth0, %d flows misplaced",
				f, len(v.connections), tableSize, kind.name, d.moved, len(d.strayed), len(d.misplaced))
			if d.moved == 0 || len(d.strayed) == 0 {
				t.Errorf("nothing moved, says the verdict: %q", d)
			}
		})
	}
}

// TestObservedFlood shows the same of what leaves by eth0, where nothing is moved.
func TestObservedFlood(t *testing.T) {
	v := newVictim(t, topology.IPv4, config+"mode: observe\n", 100, 10)
	kind := kinds[0]
	d := v.flood(t, kind, 0, tableSize)
	t.Logf("%s, mode observe: %d connections, %d %s: %d packets by eth0, %d by eth1",
		v.family, len(v.connections), tableSize, kind.name, len(d.strayed), d.answers)
	if len(d.strayed) == 0 || d.answers != 0 {
		t.Errorf("%d packets by eth0, %d by eth1: %q", len(d.strayed), d.answers, d)
	}
}
