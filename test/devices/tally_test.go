// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"net"
	"testing"

	"replypath/test/topology"
	"replypath/test/wire"
)

// tally counts what became of the questions of a test, which it prints at its end.
type tally struct {
	lost, answered int // questions
	right, wrong   int // frames of answers, by the interface and to the MAC that are wanted, and others
}

func newTally(t *testing.T) *tally {
	t.Helper()
	n := new(tally)
	t.Cleanup(func() {
		if *n != (tally{}) {
			t.Logf("%d questions whose answers got lost as routed; %d answered: %d frames by the right interface to the right MAC, %d others",
				n.lost, n.answered, n.right, n.wrong)
		}
	})
	return n
}

// add adds the frames of answers that left a host by some of its interfaces.
func (n *tally) add(exits *wire.Exits, answers topology.Filter, nics []*topology.Interface, by *topology.Interface, to net.HardwareAddr) {
	for _, nic := range nics {
		for _, frame := range exits.Left(nic, answers) {
			if nic == by && bytes.Equal(frame.DestinationMAC, to) {
				n.right++
			} else {
				n.wrong++
			}
		}
	}
}
