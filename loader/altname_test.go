// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"replypath/loader/config"
	"replypath/test/topology"
)

// TestLongAlternativeName: a name that is too long for an interface is accepted
// where an interface has it as its alternative name.
func TestLongAlternativeName(t *testing.T) {
	const name = "replication-uplink-1"
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	check := func() error { return config.CheckInterfaceName(name) }
	if err := b.host.Do(check); err == nil {
		t.Errorf("%q is accepted, and nobody has it", name)
	}
	b.ip("link property add dev eth1 altname " + name + "\n")
	b.inside(check)
}
