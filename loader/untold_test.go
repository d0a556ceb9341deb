// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"path/filepath"
	"testing"

	"replypath/loader/datapath"
	"replypath/test/harness"
	"replypath/test/topology"
)

const cannotBeTold = "an interface may not be the one that had its index"

// TestUntoldInterface: an interface that has got another name and MAC while the kernel's
// word of it is lost may be ours or not. It is left as it is, and the log says so; of one
// that is known to be another, or gone, it says nothing.
func TestUntoldInterface(t *testing.T) {
	for what, test := range map[string]struct {
		become func(b *bed, index int)
		forget bool // the kernel's word
		said   bool
	}{
		"renamed, and forgotten": {forget: true, said: true, become: func(b *bed, index int) {
			b.ip("link set eth2 down\nlink set eth2 address 02:00:00:07:07:07 name eth3\n")
		}},
		"another": {become: func(b *bed, index int) { heirs["another name"](b, index) }},
		"gone, and forgotten": {forget: true, become: func(b *bed, _ int) {
			b.ip("link del eth2\n")
			b.addVeth("eth3", 0)
		}},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
			test.become(b, b.changed(nil))
			b.setRPFilter("eth3", 2)
			if test.forget {
				harness.Must(t, os.Remove(filepath.Join(b.dir, datapath.MapsDir, "devices")))
			}
			b.detach()
			if got := b.rpFilter("eth3"); got != "2" {
				t.Errorf("rp_filter of eth3 has become %s", got)
			}
			if said := b.log.count(cannotBeTold) > 0; said != test.said {
				t.Errorf("said so: %v", said)
			}
		})
	}
}
